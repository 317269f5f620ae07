// How long to wait before trying a lost connection again.
// Never: a fixed rhythm, which would bring every client back in the same moment.

/** The first wait; short, because most losses are a server that restarts. */
const FIRST_MS = 400;
/** The longest wait; a person who looks at the page should not wait longer. */
const LONGEST_MS = 15_000;

/** `attempt` counts from 0. `random` is in [0, 1): half of the wait is fixed, half is spread. */
export function backoffMs(attempt: number, random: number): number {
  const full = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return Math.round(full / 2 + (full / 2) * random);
}
