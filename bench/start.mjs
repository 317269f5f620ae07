// From an accepted plan to a bot that runs, with the real OpenClaw: how long that takes, how much of it is the runtime's own
// boot, and what the bot's timeline says about the rest.
// Never: the download of the runtime, or the making of the image, among what is measured.
//
//   node bench/start.mjs [--docker <socket of an engine>] [--rounds <number>] [--molt <program>] [--data-dir <folder>] [--settings <file>]
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { DockerInstallation } from '../e2e/docker.mjs';
import { Installation } from '../e2e/installation.mjs';
import { Person } from '../e2e/person.mjs';
import { tellStart } from '../e2e/timeline.mjs';

const FETCH_MAX_MS = 900_000;
const RUNNING_MAX_MS = 150_000;

const { values: options } = parseArgs({
  options: {
    docker: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    molt: { type: 'string', default: join(dirname(fileURLToPath(import.meta.url)), '../target/debug/molt') },
    'data-dir': { type: 'string' },
    settings: { type: 'string' },
  },
});
const Kind = options.docker ? DockerInstallation : Installation;
const installation = await Kind.start({
  molt: resolve(options.molt),
  dataDir: resolve(options['data-dir'] ?? join(tmpdir(), 'molt-bench', options.docker ? 'docker' : 'process')),
  socket: options.docker,
  settings: options.settings,
});
try {
  const rounds = [];
  for (let round = 0; round <= Number(options.rounds); round += 1) {
    const person = await Person.signUp(installation, `round-${round}`);
    const accepted = await person.takeBot();
    const seen = await person.running(round === 0 ? FETCH_MAX_MS : RUNNING_MAX_MS);
    // The first one fetches what all others need.
    if (round > 0) {
      rounds.push(tellStart(accepted, seen.steps, installation.bootMs(person.bot)));
      console.log(JSON.stringify(rounds.at(-1)));
    }
    await person.leave();
  }
  const middle = (of) => rounds.map(of).sort((a, b) => a - b)[Math.floor(rounds.length / 2)];
  console.log(`medians of ${rounds.length}: running after ${middle((round) => round.running_ms)} ms, the runtime's own boot ${middle((round) => round.boot_ms)} ms, over it ${middle((round) => round.over_boot_ms)} ms`);
  await installation.stop();
} catch (error) {
  console.error(error, `\n--- molt dev\n${installation.screen()}`);
  process.exitCode = 1;
} finally {
  installation.abandon();
}
