// A bot's timeline in figures: where the seconds between an accepted plan and a running bot go.
// Never: a guess; what nobody wrote down is not told.

import assert from "node:assert/strict";

// `accepted`: when the plan was, in milliseconds; `boot_ms`: what the cell says of its runtime's own boot.
export function tellStart(accepted, steps, boot_ms) {
  const ready = steps.find(({ name }) => name === "ready");
  assert.ok(ready && boot_ms > 0, `it came up: ${JSON.stringify(steps)}`);
  const running_ms = Date.parse(ready.started_at) - accepted;
  const timeline = steps.map(({ name, started_at, ended_at }) => {
    return `${name} at ${Date.parse(started_at) - accepted} for ${Date.parse(ended_at) - Date.parse(started_at)}`;
  });
  return { running_ms, boot_ms, over_boot_ms: running_ms - boot_ms, timeline: timeline.join(", ") };
}
