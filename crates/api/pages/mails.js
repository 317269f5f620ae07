// Shows operators what built-in mail kept. It must never put a mail's text into the page as anything but text.
import { ask, element, when } from "/admin/operator.js";

const notice = document.getElementById("notice");
const mails = document.getElementById("mails");
const more = document.getElementById("more");
const ADDRESS = /(https?:\/\/[^\s]+)/;

let next = null;

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
  const told = "to " + mail.to + ", " + when(mail.at);
  article.append(element("h2", mail.subject), element("p", told, "quiet"), withLinks(mail.text));
  mails.append(article);
}

async function load() {
  more.disabled = true;
  try {
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
