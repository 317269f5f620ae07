// Kill -9 with the real OpenClaw: of molt, of the cell and of the runtime, at several moments of provisioning, and then in
// the middle of a turn. In the end there is always one bot that runs, in one cell with one runtime; the timeline tells what
// happened; a message is there once, its run has one end, and nothing is left behind by a bot that is deleted.
// Never: a second try for what has to hold the first time.
//
//   node kills.mjs [--molt <program>] [--data-dir <folder>] [--rounds <number>] [--docker <socket of an engine>]

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { DockerInstallation } from "./docker.mjs";
import { Installation, until } from "./installation.mjs";
import { ENDS, Person } from "./person.mjs";

// The first run on a machine fetches OpenClaw and its Node.
const FETCH_MAX_MS = 900_000;
// From the strike to a bot that runs: its runtime boots a second time, and the fleet may wait a few seconds in between.
const RUNNING_MAX_MS = 150_000;
// From the strike to the end of the run: the runtime starts again and the turn is gone through once more.
const TURN_MAX_MS = 150_000;
// A victim that has not been started yet is struck as soon as it is there.
const VICTIM_MAX_MS = 30_000;
// Everything together, so that a hang is no mystery.
const PROOF_MAX_MS = 25 * 60_000;

const PLAIN = "Tell me a long story about the lighthouse near Porto.";
const TOOL = "Keep in mind that the spare key hangs behind the blue clock.";

// Who is struck how long after the plan, and then who in the middle of a turn, and when.
const ROUNDS = [
  { victim: "molt", after_ms: 100, turn: { victim: "molt", when: "acknowledged" } },
  { victim: "cell", after_ms: 100 },
  { victim: "runtime", after_ms: 100, turn: { victim: "cell", when: "words" } },
  { victim: "molt", after_ms: 2_000, turn: { victim: "runtime", when: "words" } },
  { victim: "cell", after_ms: 3_000 },
  { victim: "runtime", after_ms: 3_000, turn: { victim: "molt", when: "tool" } },
  { victim: "molt", after_ms: 6_000, turn: { victim: "runtime", when: "tool" } },
  { victim: "cell", after_ms: 6_000, turn: { victim: "molt", when: "words" } },
  { victim: "runtime", after_ms: 7_000, turn: { victim: "cell", when: "acknowledged" } },
  { victim: "molt", after_ms: 9_000, turn: { victim: "cell", when: "tool" } },
  { victim: "cell", after_ms: 9_000, turn: { victim: "runtime", when: "acknowledged" } },
];

const here = import.meta.dirname;
const { values: options } = parseArgs({
  options: {
    molt: { type: "string", default: join(here, "../target/debug/molt") },
    "data-dir": { type: "string" },
    // Assistants live in containers of this engine.
    docker: { type: "string" },
    rounds: { type: "string", default: String(ROUNDS.length) },
  },
});

const Kind = options.docker ? DockerInstallation : Installation;
const installation = await Kind.start({
  molt: resolve(options.molt),
  dataDir: resolve(options["data-dir"] ?? join(tmpdir(), "molt-e2e", options.docker ? "docker" : "data")),
  socket: options.docker,
});
const limit = setTimeout(() => fail(new Error(`the proof took more than ${PROOF_MAX_MS / 60_000} minutes`)), PROOF_MAX_MS);
try {
  await fetchRuntime();
  for (const [number, round] of ROUNDS.slice(0, Number(options.rounds)).entries()) await prove(number + 1, round);
  await installation.stop();
} catch (error) {
  fail(error);
}
clearTimeout(limit);

function fail(error) {
  console.error(error, `\n--- molt dev\n${installation.screen()}`);
  installation.abandon();
  process.exit(1);
}

// What is measured and struck later is a bot's start, not the download.
async function fetchRuntime() {
  const person = await Person.signUp(installation, "first");
  await person.takeBot();
  await person.running(FETCH_MAX_MS);
  await person.leave();
}

async function prove(number, { victim, after_ms, turn }) {
  const person = await Person.signUp(installation, `round-${number}`);
  await person.takeBot();
  const began = Date.now();
  await pause(after_ms);
  await strike(victim);
  const struck_ms = Date.now() - began;
  const seen = await person.running(RUNNING_MAX_MS);
  onlyOne(person.bot);
  tells(seen.steps, victim, struck_ms);
  const failed = seen.steps.filter(({ outcome }) => outcome === "failed").length;
  let told = `${number}. ${victim} killed after ${struck_ms} ms: runs after ${Date.now() - began} ms, ${seen.steps.length} steps (${failed} failed)`;
  if (turn) told += `; ${await proveTurn(person, turn)}`;
  await person.leave();
  assert.deepEqual(installation.processes().filter(({ command }) => /molt-cell|openclaw/.test(command)), [], "nothing of any cell is left");
  console.log(told);
}

async function strike(victim) {
  if (victim === "molt") {
    await installation.killMolt();
    await installation.launch();
    return;
  }
  const [there, kill] = { cell: ["cells", "killCell"], runtime: ["gateways", "killRuntime"] }[victim];
  await until(`a ${victim} to strike`, VICTIM_MAX_MS, () => installation[there]().length === 1);
  installation[kill]();
}

function onlyOne(bot) {
  const counts = [installation.cells().length, installation.gateways().length];
  assert.deepEqual(counts, [1, 1], `one cell and one runtime: ${JSON.stringify(installation.processes(), null, 1)}`);
  assert.deepEqual(installation.botFolders(), [bot], "no folder but the bot's");
}

// The timeline in order, closed, with the failure in it where there was one, and `ready` at its end.
function tells(steps, victim, struck_ms) {
  const told = JSON.stringify(steps.map(({ name, outcome, sentence }) => [name, outcome, sentence]), null, 1);
  assert.ok(steps.every(({ ended_at, outcome, sentence }) => ended_at && outcome && sentence), `every step has ended: ${told}`);
  const starts = steps.map(({ started_at }) => Date.parse(started_at));
  assert.deepEqual(starts, starts.toSorted((a, b) => a - b), `in order: ${told}`);
  assert.equal(steps.at(-1).name, "ready", `ready in the end: ${told}`);
  assert.equal(steps.filter(({ name, outcome }) => name === "reserved" && outcome === "done").length, 1, `one place: ${told}`);
  const cells = steps.filter(({ name }) => name === "cell").length;
  assert.ok(victim !== "cell" || cells > 1, `it tells of the second cell (struck after ${struck_ms} ms): ${told}`);
}

// One message whose turn is struck, sent again as a client does that never saw its ack.
async function proveTurn(person, { victim, when }) {
  const id = randomUUID();
  const seen = [];
  const text = when === "tool" ? TOOL : PLAIN;
  let run;
  const ends = (frame) => frame.type === "run" && frame.run_id === run && ENDS.includes(frame.phase);
  const moments = {
    acknowledged: () => run !== undefined,
    words: (frame) => frame.run_id === run && frame.type === "message" && frame.done === false,
    tool: (frame) => frame.run_id === run && frame.type === "tool_call",
  };
  const hear = (frame) => {
    if (frame.type === "ack" && frame.id === id) run = frame.run_id;
    if (Number.isInteger(frame.seq)) seen.push(frame);
  };
  const send = { type: "send", id, conversation: "main", text };
  await person.chat([send], hear, moments[when], TURN_MAX_MS);
  const began = Date.now();
  await strike(victim);
  const newest = () => Math.max(0, ...seen.map(({ seq }) => seq));
  while (!seen.some(ends)) {
    assert.ok(Date.now() - began < TURN_MAX_MS, `the run ends: ${JSON.stringify(seen)}`);
    await person.chat([{ type: "resume", after: newest() }, send], hear, ends, TURN_MAX_MS).catch(() => pause(100));
  }
  const took = Date.now() - began;
  await person.running(RUNNING_MAX_MS);
  onlyOne(person.bot);
  await nothingLostOrDoubled(person, seen, run);
  const end = seen.find(ends);
  assert.ok(end.phase === "finished" || end.error?.retry === true, `finished, or a retry is offered: ${JSON.stringify(end)}`);
  return `${victim} killed at ${when}: ${end.phase} ${took} ms later`;
}

// What came through all the breaks is what somebody sees who comes fresh.
async function nothingLostOrDoubled(person, seen, run) {
  const whole = [];
  const newest = Math.max(...seen.map(({ seq }) => seq));
  const hear = (frame) => Number.isInteger(frame.seq) && whole.push(frame);
  await person.chat([{ type: "resume", after: 0 }], hear, ({ seq }) => seq >= newest, TURN_MAX_MS);
  const seqs = seen.map(({ seq }) => seq);
  assert.deepEqual(seqs, [...new Set(seqs)].toSorted((a, b) => a - b), "no seq twice, all in order");
  assert.deepEqual(seqs, whole.map(({ seq }) => seq).filter((seq) => seq <= newest), "none lost");
  const count = (wanted) => whole.filter(wanted).length;
  assert.equal(count(({ type, role }) => type === "message" && role === "user"), 1, "the message is there once");
  const isEnd = ({ type, run_id, phase }) => type === "run" && run_id === run && ENDS.includes(phase);
  assert.equal(count(isEnd), 1, "the run has one end");
  const calls = whole.filter(({ type }) => type === "usage").map(({ seq, request_id }) => request_id ?? seq);
  assert.equal(calls.length, new Set(calls).size, "every call is charged once");
}
