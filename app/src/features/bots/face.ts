// Which page a bot asks for, and what its timeline says about time.
// Never: a guess about progress; only what the steps carry.

import type { Bot, Step } from '../../api/types';
import { fullDate } from '../chat/days';

export type Face = 'plan' | 'starting' | 'failed' | 'chat';

/** `wasRunning`: it was seen running since the page was opened; then the chat stays, with a banner. So it does when the
 *  bot has lived before: once it took settings over, there may be a conversation to read. */
export function faceOf(bot: Pick<Bot, 'status' | 'phase' | 'applied_revision'>, wasRunning: boolean): Face {
  if (bot.phase === 'awaiting_plan') return 'plan';
  if (bot.status === 'running' || bot.status === 'stopped' || wasRunning || bot.applied_revision > 0) return 'chat';
  return bot.status === 'error' ? 'failed' : 'starting';
}

/** What the banner above the chat says while the bot cannot answer, or when it runs otherwise than was wanted; or null. */
export function awayWord(bot: Pick<Bot, 'status' | 'reason' | 'bot_name' | 'suspended'>, locale?: string): string | null {
  if (bot.suspended) {
    const { since, reason, mend } = bot.suspended;
    return `${bot.bot_name} is suspended since ${fullDate(since, locale)}. ${reason} ${mend}`;
  }
  if (bot.status === 'running') return bot.reason ?? null;
  if (bot.status === 'provisioning') return `${bot.bot_name} is restarting. What you write waits and is answered then.`;
  if (bot.status === 'error') return bot.reason ?? `${bot.bot_name} did not come up.`;
  return bot.reason ?? `${bot.bot_name} is stopped.`;
}

/** What stands where one writes, while nobody would answer for a time that nobody knows; or null: one can write. */
export function closedWord(bot: Pick<Bot, 'bot_name' | 'suspended'>): string | null {
  if (!bot.suspended) return null;
  return `${bot.bot_name} is suspended and takes no messages. You can read what was said; what you had begun to write is kept.`;
}

/** What the banner says when the use of a bot looked unusual, or null; `action` is what the person can press. */
export function unusualWord(bot: Pick<Bot, 'unusual' | 'bot_name'>): { kind: 'warn' | 'bad'; text: string; action: string } | null {
  if (!bot.unusual) return null;
  const { caution, reason } = bot.unusual;
  const why = reason || 'Something about its use looked unusual.';
  if (caution === 'paused') return { kind: 'bad', text: `${bot.bot_name} is paused. ${why}`, action: 'Resume' };
  if (caution === 'slowed') return { kind: 'warn', text: `${bot.bot_name} thinks only a few times a minute for now. ${why}`, action: 'All is well' };
  return { kind: 'warn', text: why, action: 'All is well' };
}

export interface TimelineRow {
  key: string;
  sentence: string;
  state: 'done' | 'failed' | 'now' | 'late';
  elapsedMs: number;
}

export function timeline(steps: readonly Step[], nowMs: number): TimelineRow[] {
  return steps.map((step, index) => {
    const started = Date.parse(step.started_at);
    const ended = step.ended_at ? Date.parse(step.ended_at) : null;
    const late = ended === null && nowMs > Date.parse(step.deadline_at);
    const state = step.outcome ?? (ended !== null ? 'done' : late ? 'late' : 'now');
    return { key: `${index}-${step.name}`, sentence: step.sentence, state, elapsedMs: Math.max(0, (ended ?? nowMs) - started) };
  });
}

/** From the first start to the last end, or to now. */
export function overallMs(steps: readonly Step[], nowMs: number): number {
  if (!steps.length) return 0;
  const first = Math.min(...steps.map((step) => Date.parse(step.started_at)));
  const ends = steps.map((step) => (step.ended_at ? Date.parse(step.ended_at) : nowMs));
  return Math.max(0, Math.max(...ends) - first);
}

/** Our own payments page is opened on the address that the person is at: the session's cookie belongs to that one. */
export function checkoutAddress(url: string): string {
  const path = /^https?:\/\/[^/]+(\/checkout\/[\w-]+)$/.exec(url)?.[1];
  return path ?? url;
}
