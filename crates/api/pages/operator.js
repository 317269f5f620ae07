// What all pages for operators share: how they ask, and how they show a text. It must never keep the session token anywhere
// but in memory, or put a text into the page as anything but text.
let token = null;

async function send(method, path, body) {
  const headers = token ? { authorization: "Bearer " + token } : {};
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, credentials: "same-origin", body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.detail || "The server did not answer.");
  return said;
}

export async function ask(method, path, body) {
  if (!token) token = (await send("POST", "/api/auth/refresh")).token;
  return send(method, path, body);
}

export function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

export const when = (at) => new Date(at).toLocaleString();
