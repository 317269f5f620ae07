// Time zones to choose from: the browser's own first guess, and a search that forgives.
// Never: a zone that the server would refuse.

/** Shown when the browser cannot list its zones. */
const FEW = [
  'UTC',
  'Europe/London',
  'Europe/Berlin',
  'America/New_York',
  'America/Chicago',
  'America/Denver',
  'America/Los_Angeles',
  'Asia/Kolkata',
  'Asia/Tokyo',
  'Australia/Sydney',
];

export function browserTimezone(): string {
  try {
    return Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
  } catch {
    return 'UTC';
  }
}

export function allTimezones(own: string): string[] {
  const listed = (Intl as { supportedValuesOf?: (key: string) => string[] }).supportedValuesOf?.('timeZone') ?? FEW;
  return [...new Set([own, 'UTC', ...listed])];
}

/** "Europe / Berlin · 12:30" */
export function zoneLabel(zone: string, now: Date): string {
  const name = zone.replace(/_/g, ' ').replace(/\//g, ' / ');
  try {
    return `${name} · ${now.toLocaleTimeString('en-GB', { timeZone: zone, hour: '2-digit', minute: '2-digit' })}`;
  } catch {
    return name;
  }
}

/** Every word of the search occurs in the text, whatever the case and the separators. */
export function matches(text: string, search: string): boolean {
  const flat = (value: string) =>
    value
      .toLowerCase()
      .normalize('NFD')
      .replace(/[\u0300-\u036f]/g, '')
      .replace(/[_/]+/g, ' ');
  const where = flat(text);
  return flat(search)
    .split(/\s+/)
    .every((word) => where.includes(word));
}
