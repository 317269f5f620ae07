// The settings form's draft: what a person changed, kept when the settings change underneath.
// Never: an edit overwritten by what somebody else saved.

import type { Settings } from '../../api/types';

export interface Draft {
  base: Settings;
  edited: Settings;
  /** The revision that `base` is of; goes into If-Match. */
  revision: number;
}

export const draftOf = (settings: Settings, revision: number): Draft => ({ base: settings, edited: settings, revision });

export function isDirty(draft: Draft): boolean {
  return !same(draft.base, draft.edited);
}

/** Fields that differ from the base, by their paths. */
export function changed(draft: Draft): string[] {
  return paths(draft.base, draft.edited);
}

/** The newest settings as the base, with the person's own edits still on top. */
export function rebase(draft: Draft, settings: Settings, revision: number): Draft {
  return { base: settings, edited: merge(draft.base, draft.edited, settings) as Settings, revision };
}

/** "saved" until the cell took it over, then "live". */
export function savedWord(revision: number, applied: number): 'saved' | 'live' {
  return applied >= revision ? 'live' : 'saved';
}

function merge(base: unknown, mine: unknown, theirs: unknown): unknown {
  if (!isRecord(base) || !isRecord(mine) || !isRecord(theirs)) return same(base, mine) ? theirs : mine;
  return Object.fromEntries(Object.keys(theirs).map((key) => [key, merge(base[key], mine[key], theirs[key])]));
}

function paths(a: unknown, b: unknown, at = ''): string[] {
  if (!isRecord(a) || !isRecord(b)) return same(a, b) ? [] : [at];
  return Object.keys(b).flatMap((key) => paths(a[key], b[key], at ? `${at}.${key}` : key));
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

function same(a: unknown, b: unknown): boolean {
  if (!isRecord(a) || !isRecord(b)) return a === b;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].every((key) => same(a[key], b[key]));
}
