// Logs in by the link of a mail. The token stands behind the #, so that no server and no log ever sees it in an address.
// It must never use the link by itself: programs that look through mail open every page, and the link is good once.
const TIMEOUT_MS = 15_000; // long enough for a machine that is still waking up, short enough to say something
const button = document.getElementById("enter");
const error = document.getElementById("error");
const token = location.hash.slice(1);

function say(text) {
  error.textContent = text;
  error.hidden = !text;
}

async function enter() {
  button.disabled = true;
  say("");
  try {
    const answer = await fetch("/api/auth/magic-link/consume", {
      method: "POST",
      headers: { "content-type": "application/json" },
      credentials: "same-origin",
      body: JSON.stringify({ token }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (answer.ok) return location.replace("/app/");
    const body = await answer.json().catch(() => ({}));
    say(body.detail || "The link did not work. Please ask for a new one.");
  } catch {
    say("The server did not answer. Check your connection and try again.");
  }
  button.disabled = false;
}

history.replaceState(null, "", location.pathname);
if (token) button.addEventListener("click", enter);
else {
  button.disabled = true;
  say("This address is not whole. Open the link in your mail again, or copy all of it.");
}
