// An installation whose assistants live in containers of a Docker engine: what the journey asks about cells is asked of
// the engine.
// Never: a container that belongs to another installation.

import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { Installation } from "./installation.mjs";

export class DockerInstallation extends Installation {
  constructor(options) {
    super(options);
    this.socket = options.socket;
    this.options.push("--host", "docker");
    this.environment = { ...this.environment, MOLT_FLEET__DOCKER_SOCKET: this.socket };
  }

  docker(...parameters) {
    return execFileSync("docker", ["--host", `unix://${this.socket}`, ...parameters], { encoding: "utf8" }).trim();
  }

  cells() {
    const note = join(this.dataDir, "bots/.installation");
    if (!existsSync(note)) return [];
    const label = `label=molt.installation=${readFileSync(note, "utf8").trim()}`;
    const lines = this.docker("ps", "--filter", label, "--format", "{{.Names}}");
    return lines.split("\n").filter(Boolean).map((name) => ({ name }));
  }

  runtimes() {
    return this.cells().flatMap(({ name }) => {
      const lines = this.docker("top", name, "-eo", "pid,ppid,args").split("\n").slice(1);
      const processes = lines.map((line) => /^ *(\d+) +(\d+) +(.*)$/.exec(line)).filter(Boolean);
      const all = processes.map(([, pid, parent, command]) => ({ pid: Number(pid), parent: Number(parent), command }));
      return all.filter(({ command }) => command.includes("openclaw"));
    });
  }

  // What the cell of a bot says.
  cellLog(bot) {
    return spawnSync("docker", ["--host", `unix://${this.socket}`, "logs", bot], { encoding: "utf8" }).stderr;
  }

  // Nothing of this data folder runs, and no container of this installation.
  processes() {
    return [...super.processes(), ...this.cells()];
  }

  // Kill -9 of the cell, which is process 1 inside: all the rest ends with it.
  killCell() {
    const cells = this.cells();
    if (cells.length !== 1) throw new Error(`one cell expected: ${JSON.stringify(cells)}`);
    this.docker("kill", "--signal", "KILL", cells[0].name);
  }

  // Molt first: it would start them again.
  abandon() {
    super.abandon();
    for (const { name } of this.cells()) {
      this.docker("rm", "--force", name);
      this.docker("volume", "rm", name);
    }
  }

  remembers(words) {
    return this.cells().some(({ name }) => {
      try {
        return this.docker("exec", name, "grep", "-rl", "--include=*.md", words, "/state/workspace") !== "";
      } catch {
        return false;
      }
    });
  }
}
