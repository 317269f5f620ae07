// Shows operators how the assistants are, which ones are stuck or suspended, and suspends and resumes one. It must never act
// without the button that says so.
import { ask, element, when } from "/admin/operator.js";

const notice = document.getElementById("notice");
const form = document.getElementById("suspend");
const fields = { bot: document.getElementById("bot"), reason: document.getElementById("reason") };

function list(id, items, none, show) {
  const place = document.getElementById(id);
  place.replaceChildren(...(items.length ? items.map(show) : [element("p", none, "quiet")]));
}

function entry(title, detail) {
  const article = document.createElement("article");
  article.append(element("h3", title), element("p", detail, "quiet"));
  return article;
}

function suspended(one) {
  const article = entry(one.bot_id, "since " + when(one.since) + ": " + one.reason);
  const button = element("button", "Resume " + one.bot_id);
  button.type = "button";
  button.className = "button quiet";
  button.addEventListener("click", () => act(button, one.bot_id, "resume"));
  article.append(button);
  return article;
}

async function load() {
  try {
    const fleet = await ask("GET", "/api/admin/fleet");
    const words = fleet.states.map((one) => one.count + " " + one.phase.replaceAll("_", " "));
    document.getElementById("states").textContent = words.join(", ") || "There is none yet.";
    list("stuck", fleet.stuck, "None.", (one) => entry(one.why + " since " + when(one.since), one.sentence));
    list("suspended", fleet.suspended, "None.", suspended);
    notice.textContent = "";
  } catch (error) {
    notice.textContent = error.message;
  }
}

async function act(button, bot, verb, body) {
  button.disabled = true;
  try {
    const path = "/api/admin/bots/" + encodeURIComponent(bot) + "/" + verb;
    const { suspended: left } = await ask("POST", path, body);
    await load();
    if (verb === "suspend") form.reset();
    notice.textContent = left ? bot + " is suspended. " + left.reason : bot + " goes on.";
  } catch (error) {
    notice.textContent = error.message;
  }
  button.disabled = false;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter, fields.bot.value.trim(), "suspend", { reason: fields.reason.value });
});
load();
