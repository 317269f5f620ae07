// The product's main story as a stranger lives it: one command, a page, three questions, and a conversation with a real
// OpenClaw that remembers, shows what it costs, can be stopped, and comes back when its cell dies.
// Never: a step by anything but the page, except for the plug that is pulled, the file that is looked for, and the timeline
// that is read for its figures.
//
//   node journey.mjs [--molt <program>] [--data-dir <folder>] [--pictures <folder>] [--docker <socket of an engine>]

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs, promisify } from "node:util";

import { openBrowser } from "./browser.mjs";
import { DockerInstallation } from "./docker.mjs";
import { Installation, until } from "./installation.mjs";
import { Person } from "./person.mjs";
import { tellStart } from "./timeline.mjs";
import { LISTED, UNLISTED, Web } from "./web.mjs";

// The first run on a machine fetches OpenClaw and its Node.
const PROVISIONING_MAX_MS = 900_000;
// A turn of the real runtime with a tool call, on two busy cores.
const TURN_MAX_MS = 90_000;
// From kill -9 of the cell to a turn that has ended: the runtime starts again in between.
const RECOVERY_MAX_MS = 120_000;

const ACCOUNT = { email: "ada@example.com", password: "a lobster in the garden" };
// What a person allows is in force after this.
const IN_FORCE_MS = 1_000;

// Takes a few seconds to write, word by word.
const LONG = "Tell me a long story about the lighthouse near Porto.";

const here = import.meta.dirname;
const { values: options } = parseArgs({
  options: {
    molt: { type: "string", default: join(here, "../target/debug/molt") },
    "data-dir": { type: "string" },
    pictures: { type: "string", default: join(here, "screenshots") },
    // Assistants live in containers of this engine.
    docker: { type: "string" },
  },
});

// Bots stay on their kind of host, so each kind has a folder of its own; both are used again by the next run.
const dataDir = options["data-dir"] ?? join(tmpdir(), "molt-e2e", options.docker ? "docker" : "data");
const figures = {};
const web = await Web.open();
const Kind = options.docker ? DockerInstallation : Installation;
const installation = await Kind.start({
  molt: resolve(options.molt),
  dataDir: resolve(dataDir),
  settings: web.write(`${resolve(dataDir)}.toml`),
  socket: options.docker,
});
const browser = await openBrowser(resolve(options.pictures));
const { page } = browser;
const by = (name) => page.getByTestId(name);
let failed = false;

try {
  await signUp();
  await answerThreeQuestions();
  await watchItStart(await acceptThePlan());
  await rememberAndRecall();
  await stopAnAnswer();
  await reloadKeepsEverything();
  await pullThePlug();
  await reachTheCap();
  await putAwayAndBringBack();
  await reachTheWeb();
  await seeTheBill();
  await sameByCurl();
  assert.deepEqual(browser.faults, [], "the browser's console is clean");
  await browser.close();
  await installation.stop();
  await startAgain();
} catch (error) {
  failed = true;
  console.error(error);
  await page.screenshot({ path: join(options.pictures, "failed.png") }).catch(() => {});
  console.error(`console so far: ${browser.faults.join(" | ")}\n--- molt dev\n${installation.screen()}`);
  await browser.close().catch(() => {});
} finally {
  installation.abandon();
  web.close();
}
console.log(JSON.stringify(figures, null, 2));
process.exit(failed ? 1 : 0);

async function signUp() {
  await page.goto(installation.url);
  await browser.pictures("01-landing");
  await by("get-started").first().click();
  await by("sign-up-name").waitFor();
  await browser.pictures("02-sign-up");
  await by("sign-up-name").fill("Ada");
  await by("sign-up-email").fill(ACCOUNT.email);
  await by("sign-up-password").fill("short");
  await by("sign-up-submit").click();
  await by("sign-up-password-fault").waitFor();
  await browser.pictures("03-sign-up-refused");
  await by("sign-up-password").fill(ACCOUNT.password);
  await by("sign-up-submit").click();
}

async function answerThreeQuestions() {
  await by("wizard-vertical-researcher").click();
  await browser.pictures("04-wizard-vertical");
  await next();
  await by("wizard-name").fill("Pip");
  await browser.pictures("05-wizard-name");
  await next();
  await by("wizard-timezone").waitFor();
  assert.match(await textOf("wizard-timezone"), /Lisbon/, "the time zone is the browser's");
  await browser.pictures("06-wizard-timezone");
  await next();
}

async function next() {
  if (await by("wizard-next").isVisible()) await by("wizard-next").click();
}

async function acceptThePlan() {
  await by("plan-checkout").waitFor();
  await browser.pictures("07-plan");
  await by("plan-checkout").click();
  await by("checkout-accept").waitFor();
  await browser.pictures("08-checkout");
  const accepted = Date.now();
  await by("checkout-accept").click();
  return accepted;
}

async function watchItStart(accepted) {
  const began = Date.now();
  const starting = await by("starting").or(by("composer")).first().waitFor().then(() => by("starting").isVisible());
  if (starting) await browser.pictures("09-starting");
  await by("composer").waitFor({ timeout: PROVISIONING_MAX_MS });
  figures.plan_to_chat_ms = Date.now() - began;
  assert.deepEqual([installation.cells().length, installation.runtimes().length > 0], [1, true], "one cell and its runtime");
  const person = await Person.logIn(installation, ACCOUNT);
  const { steps } = await person.ask("GET", `/api/bots/${person.bot}`);
  figures.start = tellStart(accepted, steps, installation.bootMs(person.bot));
  await browser.pictures("10-chat-empty");
}

// Types, sends, and waits until the newest turn has ended; answers its state.
async function turn(text, { states = ["finished"], max_ms = TURN_MAX_MS } = {}) {
  const before = await by("turn").count();
  await say(text);
  return await ended(before, states, max_ms);
}

async function say(text) {
  await by("composer").fill(text);
  await by("composer-send").click();
}

async function ended(before, states, max_ms) {
  const began = Date.now();
  const state = await until(`a turn that is ${states.join(" or ")}`, max_ms, async () => {
    if ((await by("turn").count()) <= before) return null;
    const state = await by("turn").last().getAttribute("data-state");
    if (["failed", "aborted"].includes(state) && !states.includes(state)) {
      throw new Error(`the turn is ${state}: ${await by("turn").last().innerText()}`);
    }
    return states.includes(state) ? state : null;
  });
  return { state, took_ms: Date.now() - began, text: await by("turn").last().innerText() };
}

async function rememberAndRecall() {
  const told = await turn("Bear in mind for later: my favourite café in Porto is called Majestic.");
  figures.turn_with_tool_ms = told.took_ms;
  assert.ok((await by("tool-card").count()) > 0, "the tool call is shown");
  assert.ok(installation.remembers("Majestic"), "the memory file is really written");
  const cost = await by("usage-cost").last().innerText();
  assert.match(cost, /\$\d+\.\d+/, "what the answer cost");
  figures.first_cost = cost;
  await browser.pictures("11-remembered");
  await by("tool-card").first().click();
  await browser.pictures("12-tool-open");

  await by("conversation-new").click();
  await by("chat-empty").waitFor();
  const asked = await turn("Which café do I like best in Porto?");
  figures.recall_ms = asked.took_ms;
  assert.match(asked.text, /Majestic/, "a new conversation gets it back");
  await browser.pictures("13-recalled");
}

async function stopAnAnswer() {
  const before = await by("turn").count();
  await say(LONG);
  await streaming();
  await browser.picture("14-streaming");
  await by("composer-stop").click();
  const { state } = await ended(before, ["aborted", "finished"], TURN_MAX_MS);
  figures.stopped = state;
  assert.equal(state, "aborted", "the answer stops when told to");
  await by("turn-stopped").last().waitFor();
}

// By the runtime's own tool and by the programs of its shell: what is listed is reached; what isn't is refused, and the person
// is asked, and allows it with one tap.
async function reachTheWeb() {
  const began = Date.now();
  await by("conversation-new").click();
  await by("chat-empty").waitFor();
  const listed = await turn(`What does http://${LISTED}/today say?`);
  assert.match(listed.text, /Seven blue lobsters/, "a listed place is read");
  const ask = `What does http://${UNLISTED}/soup say?`;
  const refused = await turn(ask);
  assert.doesNotMatch(refused.text, /a leek/);
  assert.deepEqual(web.asked[UNLISTED], [], "nothing reached the place that nobody allowed");
  await by("chat-wanted").getByText(`Pip wanted to reach ${UNLISTED}.`).waitFor();
  await browser.pictures("19-wanted-out");
  await byPrograms();
  await by("chat-wanted-allow").click();
  await by("chat-wanted").waitFor({ state: "detached" });
  await page.waitForTimeout(IN_FORCE_MS);
  const allowed = await turn(ask);
  assert.match(allowed.text, /a leek and two hours/, "a place that was allowed is read");
  figures.web_ms = Date.now() - began;
}

// With curl and the runtime's own Node, which nobody told of the proxy but the runtime.
async function byPrograms() {
  const why = "const why = (no) => (no ? no.message + '; ' + why(no.cause) : '')";
  const node = `node -e "${why}; fetch(process.argv[1]).then((got) => got.text()).then(console.log, (no) => console.log(why(no)))"`;
  const commands = ["node --version", ...[LISTED, UNLISTED].flatMap((name) => [`curl -sS http://${name}/curl`, `${node} http://${name}/node`])];
  const { text } = await turn(`Please execute the command \`${commands.join("; ")}\` and tell me what it prints.`);
  for (const part of ["v24\\.", `may not reach ${UNLISTED}`, "\\(403\\)"]) assert.match(text, new RegExp(part), "what they printed");
  assert.deepEqual(web.asked[LISTED].slice(-2), ["/curl", "/node"]);
  assert.deepEqual(web.asked[UNLISTED], []);
}

// Looks at every frame the browser draws, since an answer can be short.
async function streaming() {
  const shown = () => document.querySelector('[data-testid="message-streaming"]') !== null;
  await page.waitForFunction(shown, null, { polling: "raf", timeout: TURN_MAX_MS });
}

async function reloadKeepsEverything() {
  const shown = await pageWords();
  await page.reload();
  await by("composer").waitFor();
  await until("everything is back after a reload", TURN_MAX_MS, async () => (await pageWords()).length >= shown.length);
  assert.deepEqual(await pageWords(), shown, "the same words, none lost, none twice");
}

async function pageWords() {
  return [...(await by("message-user").allInnerTexts()), ...(await by("message-assistant").allInnerTexts())];
}

async function pullThePlug() {
  const before = await by("turn").count();
  await say(LONG);
  await streaming();
  installation.killCell();
  await page.waitForTimeout(1_000);
  await browser.pictures("15-cell-killed");
  const { state, took_ms } = await ended(before, ["finished", "failed"], RECOVERY_MAX_MS);
  Object.assign(figures, { after_kill: state, recovery_ms: took_ms });
  await browser.pictures("16-recovered");
  if (state === "failed") {
    await by("turn-retry").last().click();
    await until("the retry has an answer", RECOVERY_MAX_MS, async () => {
      return (await by("turn").last().getAttribute("data-state")) === "finished";
    });
  }
  const after = await turn("Are you there again?", { max_ms: RECOVERY_MAX_MS });
  assert.equal(after.state, "finished", "the page has recovered by itself");
  assert.deepEqual([installation.cells().length, new Set(await pageWords()).size > 0], [1, true]);
}

// The assistant says that it has stopped, the link in its words leads to where it is mended, and it goes on.
async function reachTheCap() {
  await by("nav-usage").click();
  await setCap("0");
  await by("page-back").click();
  const stopped = await turn("Is it going to rain?");
  assert.match(stopped.text, /spending limit of \$0\.00 is reached/, "the assistant says why it stops");
  await browser.pictures("17-cap-reached");
  await page.getByTestId("message-assistant").last().getByRole("link").click();
  await by("usage-meter").waitFor();
  assert.equal(page.context().pages().length, 1, "a page of the app opens in the same tab");
  await setCap("20");
  await by("page-back").click();
  const on = await turn("And now?");
  assert.doesNotMatch(on.text, /spending limit/, "the next turn is answered");
}

async function setCap(dollars) {
  await by("usage-cap").fill(dollars);
  await by("usage-cap-save").click();
  await page.getByText(`of $${dollars}.00`).waitFor();
}

async function putAwayAndBringBack() {
  const said = await pageWords();
  await by("conversation-more").click();
  await by("conversation-archive").click();
  await by("nav-archived").click();
  await by("archived").getByText("Bring back").waitFor();
  await browser.pictures("18-archived");
  await by("archived").getByRole("link").first().click();
  await until("what was put away can be read", TURN_MAX_MS, async () => (await pageWords()).length === said.length);
  await page.goBack();
  await by("archived").getByText("Bring back").click();
  await by("archived-empty").waitFor();
  await by("page-back").click();
  await until("it is back in the side panel", TURN_MAX_MS, async () => (await by("nav-archived").count()) === 0);
}

async function seeTheBill() {
  await by("nav-usage").click();
  await by("usage-total").waitFor();
  figures.usage = await textOf("usage-usage");
  await browser.pictures("20-usage");
  await page.goBack();
  await by("nav-settings").click();
  await by("settings-name").waitFor();
  await browser.pictures("21-settings");
  await page.goBack();
  await by("nav-account").click();
  await by("account-email").waitFor();
  await browser.pictures("22-account");
  await by("account-delete").click();
  await by("account-delete-name").waitFor();
  await browser.pictures("23-account-delete");
  await by("account-delete-cancel").click();
}

// A second person, by curl alone, with a runtime of their own beside the first.
async function sameByCurl() {
  const began = Date.now();
  const { stdout } = await promisify(execFile)("sh", [join(here, "curl-journey.sh"), installation.url], {
    timeout: PROVISIONING_MAX_MS,
  });
  const usage = JSON.parse(stdout.trimEnd().split("\n").at(-1));
  assert.ok(Number(usage.usage_usd) > 0 && usage.tokens_in > 0, "the bill has the turns in it");
  figures.by_curl_ms = Date.now() - began;
}

// The second start: quick, and the bot comes back by itself.
async function startAgain() {
  figures.second_start_ms = await installation.launch();
  await until("the bot is back by itself", TURN_MAX_MS, () => installation.runtimes().length > 0);
  await installation.stop();
  assert.ok(figures.second_start_ms < 5_000, `the second start took ${figures.second_start_ms} ms`);
}

async function textOf(name) {
  const value = await by(name).first().evaluate((element) => element.value ?? element.textContent);
  return value || (await by(name).first().innerText());
}
