// The words between turns of different days.
// Never: a word for a time that is not a time.

const DAY_MS = 86_400_000;

/** "Today", "Yesterday", "Tuesday", "3 November", "3 November 2025"; in the person's own calendar. */
export function dayWord(at: string, now: Date, locale?: string): string {
  const then = new Date(at);
  if (Number.isNaN(then.getTime())) return '';
  const midnight = (date: Date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
  const days = Math.round((midnight(now) - midnight(then)) / DAY_MS);
  if (days <= 0) return 'Today';
  if (days === 1) return 'Yesterday';
  if (days < 7) return then.toLocaleDateString(locale, { weekday: 'long' });
  const year = then.getFullYear() === now.getFullYear() ? undefined : ('numeric' as const);
  return then.toLocaleDateString(locale, { day: 'numeric', month: 'long', year });
}

/** "3 November 2025", in the person's own calendar. */
export function fullDate(at: string, locale?: string): string {
  return new Date(at).toLocaleDateString(locale, { day: 'numeric', month: 'long', year: 'numeric' });
}

export const isSameDay = (a: string, b: string) => new Date(a).toDateString() === new Date(b).toDateString();

/** "0.4 s", "12 s", "2 min 5 s" */
export function tookWord(ms: number): string {
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
