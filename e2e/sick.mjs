// What an operator's own command of the runtime may bring along: loaded into the process of the real OpenClaw before it
// (node --import), it makes two time zones break it. No setting that a person can choose does that by itself.
// Never: anything at all with any other time zone.

import { readFileSync, watchFile, writeFileSync } from "node:fs";
import { isMainThread } from "node:worker_threads";

// Takes the change over while it runs; its own check of the configuration refuses the next start.
export const REFUSED_AT_START = "Antarctica/Troll";
// Ends when it is given the change, and doesn't start with it either.
export const ENDS_ON_CHANGE = "Antarctica/Vostok";

const LOOK_MS = 100;
const file = process.env.OPENCLAW_CONFIG_PATH;

function configuration() {
  return JSON.parse(readFileSync(file, "utf8"));
}

// Not in the processes and threads that the runtime starts for itself, which inherit the option.
if (file && isMainThread && process.argv.includes("gateway")) {
  const now = configuration();
  const timezone = now.agents.defaults.userTimezone;
  if ([REFUSED_AT_START, ENDS_ON_CHANGE].includes(timezone)) {
    writeFileSync(file, JSON.stringify({ ...now, nonsense: true }));
  }
  watchFile(file, { interval: LOOK_MS, persistent: false }, () => {
    if (configuration().agents.defaults.userTimezone === ENDS_ON_CHANGE) process.exit(1);
  });
}
