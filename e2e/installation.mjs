// One installation of Molt for the journey: `molt dev` as a stranger starts it, in a folder that keeps its downloads.
// Never: a process that this run did not start, and none left behind.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, openSync, readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

// The first start fetches OpenClaw and its Node; on a slow line that takes minutes.
const READY_MAX_MS = 120_000;
const STOP_MAX_MS = 30_000;
const LOOK_AGAIN_MS = 50;

export class Installation {
  // `settings`: a configuration file; `environment`: added to what every program has.
  constructor({ molt, dataDir, port, settings, environment = {} }) {
    this.molt = molt;
    this.options = settings ? ["--config", settings] : [];
    this.environment = environment;
    this.dataDir = dataDir;
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
  }

  static async start(options) {
    const installation = new this({ ...options, port: await freePort() });
    await installation.launch(existsSync(options.dataDir) ? ["--reset", "--yes"] : []);
    return installation;
  }

  async launch(wishes = []) {
    mkdirSync(join(this.dataDir, ".."), { recursive: true });
    const screen = openSync(`${this.dataDir}.screen`, "w");
    const began = Date.now();
    const { PATH, HOME, USER, LANG, TMPDIR } = process.env;
    this.child = spawn(
      this.molt,
      ["dev", "--listen", `127.0.0.1:${this.port}`, "--data-dir", this.dataDir, ...this.options, ...wishes],
      { env: { PATH, HOME, USER, LANG, TMPDIR, ...this.environment }, stdio: ["ignore", screen, screen], detached: true },
    );
    await until("molt dev is ready", READY_MAX_MS, async () => {
      if (this.child.exitCode !== null) throw new Error(`molt dev ended:\n${this.screen()}`);
      return (await fetch(`${this.url}/healthz`).catch(() => null))?.ok;
    });
    return Date.now() - began;
  }

  // What the person who started it sees.
  screen() {
    return readFileSync(`${this.dataDir}.screen`, "utf8");
  }

  // Ctrl-C; an error when something is left running.
  async stop() {
    if (!this.child || this.child.exitCode !== null) return;
    this.child.kill("SIGINT");
    await until("molt dev has stopped", STOP_MAX_MS, () => this.child.exitCode !== null || this.child.signalCode !== null);
    const left = this.processes();
    if (left.length > 0) throw new Error(`left running after Ctrl-C: ${JSON.stringify(left)}`);
  }

  // For a run that failed: nothing of ours stays.
  abandon() {
    for (const { pid } of this.processes()) strike(pid, "SIGKILL");
  }

  // Starts with this configuration file from the next launch on.
  configure(settings) {
    this.options = ["--config", settings];
  }

  // Every process that names this data folder (or this bot's) in its command line or environment, and what they started: a
  // sealed cell doesn't know the folder, but its keeper does.
  processes(bot) {
    const place = bot ? this.botFolder(bot) : this.dataDir;
    const read = (pid, what) => {
      try {
        return readFileSync(`/proc/${pid}/${what}`, "latin1");
      } catch {
        return "";
      }
    };
    const ours = ancestors(read);
    const all = readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name) && !ours.has(name))
      .map((name) => ({ pid: Number(name), command: read(name, "cmdline").replaceAll("\0", " ").trim(), environment: read(name, "environ"), parent: Number(parent(read, name)) }));
    const known = new Set(
      all.filter(({ command, environment }) => command.includes(place) || environment.includes(place)).map(({ pid }) => pid),
    );
    for (let before = -1; before !== known.size; ) {
      before = known.size;
      for (const { pid, parent } of all) if (known.has(parent)) known.add(pid);
    }
    return all
      .filter(({ pid, command }) => known.has(pid) && command !== "")
      .map(({ pid, command, parent }) => ({ pid, command, parent }));
  }

  cells(bot) {
    return this.processes(bot).filter(({ command }) => /(^|\/)molt-cell[^/ ]*( |$)/.test(command) && !/(^|\/)bwrap /.test(command));
  }

  runtimes(bot) {
    return this.processes(bot).filter(({ command }) => command.includes("openclaw") && !command.includes("npm"));
  }

  // The runtimes without the helpers that they start for themselves: one per running bot, or something is wrong.
  gateways(bot) {
    const runtimes = this.runtimes(bot);
    const pids = new Set(runtimes.map(({ pid }) => pid));
    return runtimes.filter(({ parent, command }) => !pids.has(parent) && !/(^|\/)molt[^/ ]*( |$)/.test(command));
  }

  // Kill -9, or another signal, of the one cell or the one runtime that there is (of this bot). Answers its number.
  killCell(bot, signal = "SIGKILL") {
    const cells = this.cells(bot);
    if (cells.length !== 1) throw new Error(`one cell expected: ${JSON.stringify(cells)}`);
    strike(cells[0].pid, signal);
    return cells[0].pid;
  }

  killRuntime(bot, signal = "SIGKILL") {
    const gateways = this.gateways(bot);
    if (gateways.length !== 1) throw new Error(`one runtime expected: ${JSON.stringify(gateways)}`);
    strike(gateways[0].pid, signal);
    return gateways[0].pid;
  }

  async killMolt() {
    this.child.kill("SIGKILL");
    await until("molt is gone", STOP_MAX_MS, () => this.child.exitCode !== null || this.child.signalCode !== null);
  }

  botFolder(bot) {
    return join(this.dataDir, "bots", bot);
  }

  // What the cell of a bot says.
  cellLog(bot) {
    return readFileSync(join(this.botFolder(bot), "log/cell.log"), "utf8");
  }

  // How long the bot's runtime took to boot when it last did, by the cell's clock.
  bootMs(bot) {
    return Number([...this.cellLog(bot).matchAll(/boot_ms=(\d+)/g)].at(-1)?.[1]);
  }

  // The folders that bots have.
  botFolders() {
    return readdirSync(join(this.dataDir, "bots"), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  }

  // Whether a Markdown file of some bot's state holds these words.
  remembers(words) {
    const bots = join(this.dataDir, "bots");
    if (!existsSync(bots)) return false;
    return readdirSync(bots, { recursive: true })
      .filter((path) => path.endsWith(".md") && !path.includes("node_modules"))
      .some((path) => readFileSync(join(bots, path), "utf8").includes(words));
  }
}

// This process and those that started it: their command lines may name the folder too.
function ancestors(read) {
  const found = new Set();
  for (let pid = String(process.pid); pid && pid !== "0" && !found.has(pid); ) {
    found.add(pid);
    pid = parent(read, pid);
  }
  return found;
}

function parent(read, pid) {
  return /^PPid:\s*(\d+)/m.exec(read(pid, "status"))?.[1];
}

function strike(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch {
    // it was faster
  }
}

export async function until(what, max_ms, look) {
  const began = Date.now();
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() - began > max_ms) throw new Error(`waited ${max_ms} ms in vain: ${what}`);
    await pause(LOOK_AGAIN_MS);
  }
}

// Free, and the next one as well: that is where the operator's listener goes.
async function freePort() {
  const open = (port) =>
    new Promise((done) => {
      const server = createServer().once("error", () => done(null));
      server.listen(port, "127.0.0.1", () => {
        const { port } = server.address();
        server.close(() => done(port));
      });
    });
  for (;;) {
    const port = await open(0);
    if (port && (await open(port + 1))) return port;
  }
}
