// Shows operators what built-in mail kept. It must never keep the session token anywhere but in memory, or put a mail's
// text into the page as anything but text.
const notice = document.getElementById("notice");
const mails = document.getElementById("mails");
const more = document.getElementById("more");
const ADDRESS = /(https?:\/\/[^\s]+)/;

let token = null;
let next = null;

async function ask(method, path) {
  const headers = token ? { authorization: "Bearer " + token } : {};
  const answer = await fetch(path, { method, headers, credentials: "same-origin" });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail || "The server did not answer.");
  return body;
}

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function withLinks(text) {
  const made = document.createElement("pre");
  text.split(ADDRESS).forEach((part) => {
    if (!ADDRESS.test(part)) return made.append(part);
    const link = element("a", part);
    link.href = part;
    link.rel = "noreferrer";
    made.append(link);
  });
  return made;
}

function show(mail) {
  const article = document.createElement("article");
  const when = new Date(mail.at).toLocaleString();
  article.append(element("h2", mail.subject), element("p", "to " + mail.to + ", " + when, "quiet"), withLinks(mail.text));
  mails.append(article);
}

async function load() {
  more.disabled = true;
  try {
    if (!token) token = (await ask("POST", "/api/auth/refresh")).token;
    const page = await ask("GET", "/api/admin/mails" + (next ? "?after=" + encodeURIComponent(next) : ""));
    page.items.forEach(show);
    next = page.next;
    more.hidden = !next;
    notice.textContent = mails.children.length ? "" : "No mail yet.";
  } catch (error) {
    notice.textContent = error.message;
  }
  more.disabled = false;
}

more.addEventListener("click", load);
load();
