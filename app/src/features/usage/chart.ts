// The bars of the usage chart: every day of the period, those to come too, scaled to the largest.
// Never: a day left out because nothing was used on it.

import type { DayUsage } from '../../api/types';
import { nanos } from './money';

const DAY_MS = 86_400_000;
/** A period is a month; more bars than this would be a server's mistake. */
const DAYS_MAX = 62;

export interface Bar {
  day: string;
  usd: string;
  /** 0 to 1 of the tallest. */
  height: number;
}

export function bars(days: readonly DayUsage[], start: string, end: string): Bar[] {
  const known = new Map(days.map((day) => [day.day.slice(0, 10), day.cost_usd]));
  const tallest = days.reduce((max, day) => (nanos(day.cost_usd) > max ? nanos(day.cost_usd) : max), 0n);
  const last = Date.parse(end) - 1;
  const result: Bar[] = [];
  for (let at = Date.parse(start.slice(0, 10)); at <= last && result.length < DAYS_MAX; at += DAY_MS) {
    const day = new Date(at).toISOString().slice(0, 10);
    const usd = known.get(day) ?? '0';
    result.push({ day, usd, height: tallest ? Number((nanos(usd) * 1000n) / tallest) / 1000 : 0 });
  }
  return result;
}
