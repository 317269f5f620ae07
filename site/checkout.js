// The built-in payments page: one button that accepts the plan for the person who is signed in.
// It must never ask for a card, keep the session token anywhere but in memory, or leave for another site.
const TIMEOUT_MS = 15_000; // long enough for a machine that is still waking up, short enough to say something
const button = document.getElementById("accept");
const error = document.getElementById("error");
const logIn = document.getElementById("log-in");

let token = null;

function say(text) {
  error.textContent = text;
  error.hidden = !text;
}

function askToLogIn() {
  logIn.href = "/app/log-in?next=" + encodeURIComponent(location.pathname);
  logIn.hidden = false;
  button.hidden = true;
  say("You are not signed in here. Log in, and you come back to this page.");
}

async function ask(method, path) {
  const headers = token ? { authorization: "Bearer " + token } : {};
  const answer = await fetch(path, { method, headers, credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS) });
  const body = await answer.json().catch(() => ({}));
  return { status: answer.status, ok: answer.ok, body };
}

async function signIn() {
  const { ok, status, body } = await ask("POST", "/api/auth/refresh");
  if (ok) token = body.token;
  else if (status < 500) askToLogIn();
  else throw new Error("refresh");
}

async function nameTheBot() {
  const { ok, body } = await ask("GET", "/api/bots");
  const waiting = ok && body.items ? body.items.filter((bot) => bot.phase === "awaiting_plan") : [];
  if (waiting.length !== 1) return;
  document.getElementById("title").textContent = "Start the plan for " + waiting[0].bot_name;
  document.getElementById("back").href = "/app/bots/" + encodeURIComponent(waiting[0].id);
}

// Only a path of this site: an answer must not be able to send a person elsewhere.
function destination(body) {
  const wanted = body.return_url ? new URL(body.return_url, location.origin) : null;
  if (wanted && wanted.origin === location.origin) return wanted.pathname + wanted.search;
  return body.bot_id ? "/app/bots/" + encodeURIComponent(body.bot_id) : "/app/";
}

async function accept() {
  button.disabled = true;
  button.textContent = "Starting…";
  say("");
  try {
    if (!token) await signIn();
    if (!token) return;
    let answer = await ask("POST", location.pathname);
    if (answer.status === 401) {
      token = null;
      await signIn();
      if (!token) return;
      answer = await ask("POST", location.pathname);
    }
    if (answer.ok) return location.assign(destination(answer.body));
    say(answer.body.detail || answer.body.title || "The plan could not be started. Please try again.");
  } catch {
    say("The server did not answer. Check your connection and try again.");
  }
  button.disabled = false;
  button.textContent = "Start the plan";
}

button.addEventListener("click", accept);
signIn().then(() => token && nameTheBot()).catch(() => say("The server did not answer. You can still try the button."));
