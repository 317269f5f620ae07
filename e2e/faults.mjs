// What breaks with the real OpenClaw, and who mends it: a runtime that hangs, a cell that hangs, a state that keeps the cell
// from starting, a runtime that ends each time it comes up, and changes of the settings with which it doesn't come up. Each
// time the bot is back (or says what it needs), its memory and its conversation are whole, and another person's bot goes on
// talking as if nothing were.
// Never: a hand on the bot while it mends itself, or a second try for what has to hold the first time.
//
//   node faults.mjs [--molt <program>] [--data-dir <folder>] [--pictures <folder>] [--only ladder | --only changes]

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readdirSync, renameSync, rmdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { openBrowser } from "./browser.mjs";
import { Installation, until } from "./installation.mjs";
import { Person } from "./person.mjs";
import { ENDS_ON_CHANGE, REFUSED_AT_START } from "./sick.mjs";

// The first run on a machine fetches OpenClaw and its Node.
const FETCH_MAX_MS = 900_000;
// A runtime that starts beside another one, on two busy cores.
const BOOT_MAX_MS = 60_000;
// Four pings ten seconds apart go unanswered, then the cell tries to join for fifteen; the platform looks every five.
const HANG_NOTICED_MAX_MS = 80_000;
// Asked every five seconds, with five for the answer.
const SILENCE_NOTICED_MAX_MS = 20_000;
// Fifteen seconds of reaching for it, eight of grace, then a start.
const CELL_BACK_MAX_MS = 30_000 + BOOT_MAX_MS;
// Two restarts and their pauses.
const REPLACED_MAX_MS = 60_000;
const TURN_MAX_MS = 90_000;
// The neighbour's turn, while somebody else's runtime starts beside it.
const NEIGHBOUR_MAX_MS = 30_000;
const NEIGHBOUR_PAUSE_MS = 1_000;
// The fifth end within a quarter of an hour is a loop.
const ENDS_MAX = 5;
// Everything together, so that a hang is no mystery.
const PROOF_MAX_MS = 20 * 60_000;

// In a runtime's configuration some of it would be a value of its environment, or the end of a string.
const ODD_NAME = "${MONEY} $${HOME} \\\"'} 🦞";
const TOLD = "Bear in mind for later: my favourite café in Porto is called Majestic.";
const ASKED = "Which café do I like best in Porto?";
const REMEMBERED = "Majestic";

const here = import.meta.dirname;
const { values: options } = parseArgs({
  options: {
    molt: { type: "string", default: join(here, "../target/debug/molt") },
    "data-dir": { type: "string", default: join(tmpdir(), "molt-e2e", "data") },
    pictures: { type: "string", default: join(here, "screenshots") },
    only: { type: "string" },
  },
});

// Somebody else's bot, which has to answer whatever happens beside it.
class Neighbour {
  constructor(person) {
    this.person = person;
    this.turns = [];
    this.place = this.processes();
    this.talks = this.talk().catch((error) => (this.fault = error));
  }

  processes() {
    const numbers = (list) => list.map(({ pid }) => pid);
    return [numbers(installation.cells(this.person.bot)), numbers(installation.gateways(this.person.bot))];
  }

  async talk() {
    while (!this.over) {
      const { phase, took_ms } = await this.person.turn("How are you today?", { max_ms: NEIGHBOUR_MAX_MS });
      assert.equal(phase, "finished", "the neighbour's turn");
      this.turns.push(took_ms);
      await pause(NEIGHBOUR_PAUSE_MS);
    }
  }

  // Its turns since the last report; an error when one failed, or when its cell or its runtime isn't the one from before.
  report() {
    if (this.fault) throw this.fault;
    assert.deepEqual(this.processes(), this.place, "nobody touched the neighbour");
    const turns = this.turns.splice(0).toSorted((a, b) => a - b);
    assert.ok(turns.length > 0, "the neighbour talked meanwhile");
    return `${turns.length} turns of the neighbour meanwhile, ${turns[turns.length >> 1]} ms in the middle, ${turns.at(-1)} at most`;
  }

  async end() {
    this.over = true;
    await this.talks;
    return this.report();
  }
}

const installation = await Installation.start({ molt: resolve(options.molt), dataDir: resolve(options["data-dir"]) });
const limit = setTimeout(() => fail(new Error(`the proof took more than ${PROOF_MAX_MS / 60_000} minutes`)), PROOF_MAX_MS);
let browser;
try {
  const victim = await Person.signUp(installation, "victim");
  await victim.takeBot();
  await victim.running(FETCH_MAX_MS);
  browser = await openBrowser(resolve(options.pictures));
  await logIn(victim);
  await remember(victim);
  if (options.only !== "changes") await climbTheLadder(victim);
  if (options.only !== "ladder") await undoChanges(victim);
  await browser.close();
  await installation.stop();
} catch (error) {
  await fail(error);
}
clearTimeout(limit);

async function fail(error) {
  console.error(error, `\n--- molt dev\n${installation.screen()}`);
  await browser?.page.screenshot({ path: join(options.pictures, "failed.png") }).catch(() => {});
  await browser?.close().catch(() => {});
  installation.abandon();
  process.exit(1);
}

async function logIn({ email, password }) {
  const by = (name) => browser.page.getByTestId(name);
  await browser.page.goto(`${installation.url}/app/log-in`);
  await by("log-in-email").fill(email);
  await by("log-in-password").fill(password);
  await by("log-in-submit").click();
  await by("composer").waitFor();
}

async function remember(person) {
  const { phase } = await person.turn(TOLD, { max_ms: TURN_MAX_MS });
  assert.equal(phase, "finished");
  assert.ok(installation.remembers(REMEMBERED), "the memory file is written");
}

// Its memory is asked for in a conversation of its own, and the first one is still all there.
async function isWhole(person) {
  const { id } = await person.ask("POST", `/api/bots/${person.bot}/conversations`, {});
  const { phase, text } = await person.turn(ASKED, { conversation: id, max_ms: TURN_MAX_MS });
  assert.equal(phase, "finished");
  assert.match(text, new RegExp(REMEMBERED), "it remembers");
  const kept = await person.history();
  assert.equal(kept.filter(({ type, role, content }) => type === "message" && role === "user" && content === TOLD).length, 1);
}

async function climbTheLadder(victim) {
  const person = await Person.signUp(installation, "neighbour");
  await person.takeBot();
  await person.running(BOOT_MAX_MS);
  const neighbour = new Neighbour(person);
  // The count of ends begins anew with a person's restart, and that is how the first story ends.
  for (const story of [endsAgainAndAgain, runtimeHangs, cellHangs, stateIsDamaged]) {
    console.log(`${await story(victim)}; ${neighbour.report()}`);
    await isWhole(victim);
  }
  await neighbour.end();
  await person.leave();
}

// The lines that the timeline got since then.
function lines({ steps }, began) {
  return steps.filter(({ started_at }) => Date.parse(started_at) >= began).map(({ name, outcome }) => `${name} ${outcome}`);
}

// Waits until the bot is so; how it was then, and after how long.
async function sees(person, what, began, max_ms, look) {
  const seen = await until(what, max_ms, async () => {
    const seen = await person.look();
    return (await look(seen)) ? seen : null;
  });
  return { ...seen, after_ms: Date.now() - began };
}

function runtimes(person) {
  return installation.gateways(person.bot).map(({ pid }) => pid);
}

// It hangs with a message in hand, is noticed all the same, and the message gets its one answer.
async function runtimeHangs(person) {
  const cells = installation.cells(person.bot);
  const began = Date.now();
  const hung = installation.killRuntime(person.bot, "SIGSTOP");
  const turn = person.turn("Good morning! Is anybody there?", { max_ms: HANG_NOTICED_MAX_MS + BOOT_MAX_MS + TURN_MAX_MS });
  const noticed = await sees(person, "the hang is noticed", began, HANG_NOTICED_MAX_MS, ({ status }) => status !== "running");
  assert.match(noticed.reason, /^Pip went away for a moment and is being brought back\.$/);
  const back = await sees(person, "the runtime is back", began, BOOT_MAX_MS, ({ status }) => status === "running");
  const told = lines(back, began);
  assert.deepEqual(told, ["reconnect failed", "restart_runtime done", "ready done"]);
  assert.deepEqual(installation.cells(person.bot), cells, "the cell stayed");
  assert.ok(!runtimes(person).includes(hung), "the hanging one is gone");
  const { phase, took_ms } = await turn;
  assert.equal(phase, "finished");
  return `runtime hangs: noticed after ${noticed.after_ms} ms, runs after ${back.after_ms} (${told.join(", ")}), answers after ${took_ms}`;
}

async function cellHangs(person) {
  const began = Date.now();
  const hung = installation.killCell(person.bot, "SIGSTOP");
  const noticed = await sees(person, "the hang is noticed", began, SILENCE_NOTICED_MAX_MS, ({ status }) => status !== "running");
  const back = await sees(person, "the cell is back", began, CELL_BACK_MAX_MS, ({ status }) => status === "running");
  const told = lines(back, began);
  assert.deepEqual(told.slice(0, 3), ["reconnect failed", "restart_cell done", "cell done"]);
  const [cell, ...others] = installation.cells(person.bot).map(({ pid }) => pid);
  assert.ok(cell !== hung && others.length === 0, "another cell, and one");
  return `cell hangs: noticed after ${noticed.after_ms} ms, runs after ${back.after_ms} (${told.join(", ")})`;
}

// Something in the bot's own folder keeps any cell from starting; it is gone by the time that the cell is replaced.
async function stateIsDamaged(person) {
  const journal = join(installation.botFolder(person.bot), "state/molt/journal.jsonl");
  renameSync(journal, `${journal}.aside`);
  mkdirSync(journal);
  const began = Date.now();
  installation.killCell(person.bot);
  const rung = ({ steps }) => steps.some(({ name, started_at }) => name === "replace_cell" && Date.parse(started_at) >= began);
  const climbed = await sees(person, "the cell is replaced", began, REPLACED_MAX_MS, rung);
  rmdirSync(journal);
  renameSync(`${journal}.aside`, journal);
  const back = await sees(person, "the bot is back", began, REPLACED_MAX_MS + BOOT_MAX_MS, ({ status }) => status === "running");
  const told = lines(back, began);
  // Twice, unless it failed within the two minutes before.
  assert.match(told[0], /^restart_cell/, `restarted first: ${told}`);
  assert.ok(told.includes("replace_cell done"), `then replaced: ${told}`);
  return `state damaged: cell replaced on its volume after ${climbed.after_ms} ms, runs after ${back.after_ms} (${told.join(", ")})`;
}

// Each runtime that comes up is ended, until that is recognised; then nothing is tried any more, the person reads why and
// starts it again by one tap.
async function endsAgainAndAgain(person) {
  const began = Date.now();
  let seen;
  let ends = 0;
  for (; seen?.status !== "error"; ends += 1) {
    assert.ok(ends < ENDS_MAX, `not recognised after ${ends} ends: ${JSON.stringify(seen?.steps)}`);
    installation.killRuntime(person.bot);
    const struck = Date.now();
    await sees(person, "the end is noticed", struck, SILENCE_NOTICED_MAX_MS, ({ status }) => status !== "running");
    seen = await sees(person, "it is up again, or given up", struck, BOOT_MAX_MS, ({ status }) => ["running", "error"].includes(status));
  }
  assert.match(seen.reason, /^Pip came up and ended again 5 times within 15 minutes\. It is left alone now\. Restart Pip/);
  const given_up_ms = Date.now() - began;
  assert.deepEqual(installation.processes(person.bot), [], "nothing is tried any more");
  const by = (name) => browser.page.getByTestId(name);
  await by("chat-away").getByText("It is left alone now.").waitFor();
  await browser.pictures("30-given-up");
  const asked = Date.now();
  await by("chat-restart").click();
  await sees(person, "it runs again", asked, BOOT_MAX_MS, ({ status }) => status === "running");
  return `crash loop: given up after ${ends} ends and ${given_up_ms} ms, runs ${Date.now() - asked} ms after a tap`;
}

// From here on OpenClaw is started by a command of the operator's own, which makes two time zones break it.
async function undoChanges(person) {
  await installation.stop();
  const installed = readdirSync(join(installation.dataDir, "runtime")).find((name) => !name.startsWith("."));
  const packages = join(installation.dataDir, "runtime", installed, "node_modules");
  const sick = `${installation.dataDir}.sick.mjs`;
  copyFileSync(join(here, "sick.mjs"), sick);
  const node = join(packages, `node-${process.platform}-${process.arch}/bin/node`);
  const command = [node, "--import", sick, join(packages, "openclaw/openclaw.mjs"), "gateway"];
  const settings = `${installation.dataDir}.toml`;
  writeFileSync(settings, `[runtime]\ncommand = ${JSON.stringify(command)}\n`);
  installation.configure(settings);
  await installation.launch();
  await person.running(BOOT_MAX_MS);
  console.log(await undone(person, ENDS_ON_CHANGE, "while it runs", async () => {}));
  await isWhole(person);
  await takesAnyName(person);
  console.log(await undone(person, REFUSED_AT_START, "at the next start", restarted));
  await isWhole(person);
}

// What is free text holds no surprise for the runtime, nor for its next start; only with that are these the settings that worked.
async function takesAnyName(person) {
  const { revision, settings } = await person.look();
  const began = Date.now();
  const odd = { ...settings, bot_name: ODD_NAME };
  const saved = await person.ask("POST", `/api/bots/${person.bot}/config`, odd, { "if-match": String(revision) });
  const seen = await sees(person, "the name is in force", began, BOOT_MAX_MS, ({ applied_revision }) => applied_revision === saved.revision);
  assert.deepEqual([seen.status, seen.bot_name, seen.reason ?? null], ["running", ODD_NAME, null]);
  const [cell] = installation.cells(person.bot);
  await person.ask("POST", `/api/bots/${person.bot}/restart`);
  await sees(person, "it starts with that name", began, BOOT_MAX_MS, ({ status }) => {
    return status === "running" && installation.cells(person.bot).some(({ pid }) => pid !== cell.pid);
  });
}

// Taken over while it ran, the change only shows when somebody restarts the bot.
async function restarted(person, revision) {
  const began = Date.now();
  await sees(person, "the change is in force", began, BOOT_MAX_MS, ({ applied_revision }) => applied_revision === revision);
  await person.ask("POST", `/api/bots/${person.bot}/restart`);
}

async function undone(person, timezone, when, then) {
  const before = await person.look();
  const cells = installation.cells(person.bot);
  const settings = { ...before.settings, timezone };
  const began = Date.now();
  const { revision } = await person.ask("POST", `/api/bots/${person.bot}/config`, settings, { "if-match": String(before.revision) });
  await then(person, revision);
  const seen = await sees(person, "the change is undone", began, 3 * BOOT_MAX_MS, (seen) => {
    assert.notEqual(seen.status, "error", `given up: ${seen.reason}`);
    return seen.status === "running" && seen.revision === revision + 1 && seen.applied_revision === revision + 1;
  });
  assert.deepEqual(seen.settings, before.settings, "the settings before are back");
  const change = `(time zone: ${before.settings.timezone} → ${timezone}), so it was undone.`;
  assert.ok(seen.reason.includes(change), `told which change it was: ${seen.reason}`);
  assert.ok(seen.steps.some(({ name, sentence }) => name === "undone" && sentence === seen.reason), "it is on the timeline");
  const event = await person.event("bot.settings_undone", ({ undone_revision }) => undone_revision === revision);
  assert.deepEqual(event.changes, [{ field: "time zone", from: before.settings.timezone, to: timezone }]);
  await browser.page.getByTestId("chat-away").getByText(change).waitFor();
  await browser.pictures(`31-undone-${revision}`);
  const same = installation.cells(person.bot)[0].pid === cells[0].pid;
  return `change undone ${when}: runs with the settings before after ${seen.after_ms} ms (${same ? "the same" : "another"} cell; ${lines(seen, began).join(", ")})`;
}
