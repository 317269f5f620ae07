// What is said of places on the web that an assistant wanted to reach.
// Never: a rule about who may go where; the server says what can be allowed.

import type { Allowed, Egress, Refused } from '../../api/types';

/** One place, whatever the ports were. */
export interface Wanted {
  domain: string;
  count: number;
  last_at: string;
  reason: Refused['reason'];
  can_allow: boolean;
  dismissed: boolean;
}

/** What was refused, a line for each place, the newest first. */
export function wantedPlaces(refused: readonly Refused[]): Wanted[] {
  const places = new Map<string, Wanted>();
  for (const { domain, count, last_at, reason, can_allow, dismissed } of refused) {
    const known = places.get(domain);
    if (!known) {
      places.set(domain, { domain, count, last_at, reason, can_allow, dismissed });
      continue;
    }
    known.count += count;
    known.dismissed &&= dismissed;
    if (can_allow && !known.can_allow) Object.assign(known, { can_allow, reason });
    if (Date.parse(last_at) > Date.parse(known.last_at)) known.last_at = last_at;
  }
  return [...places.values()].sort((a, b) => Date.parse(b.last_at) - Date.parse(a.last_at));
}

/** What the person is to be asked about: it can be allowed, and they have not said "not now". */
export const toAsk = (egress: Egress | undefined): Wanted[] =>
  wantedPlaces(egress?.refused ?? []).filter(({ can_allow, dismissed }) => can_allow && !dismissed);

/** The question above the chat. */
export function question(name: string, asked: readonly Wanted[]): string {
  const [first, ...others] = asked;
  if (!first) return '';
  const more = others.length ? ` ${others.length === 1 ? 'One more place is' : `${others.length} more places are`} in question.` : '';
  return `${name} wanted to reach ${first.domain}.${more}`;
}

const WHY: Record<Refused['reason'], string> = {
  not_listed: 'Nobody has allowed it.',
  port: 'Only web pages can be allowed, and this was something else.',
  address: 'It was asked for by a number instead of a name.',
  private_address: 'It leads into a private network.',
  other_name: 'On the way, another name was asked for.',
  no_name: 'On the way, no name was asked for.',
};

/** Why it stays closed, and how often it was tried. */
export function refusedWord({ reason, count }: Wanted): string {
  return `${WHY[reason]} ${count === 1 ? 'Tried once' : `Tried ${count} times`}`;
}

const BY: Record<Allowed['source'], string> = {
  you: 'Allowed by you',
  skill: 'Needed by a skill',
  operator: 'Allowed for everybody here',
};

export const allowedWord = ({ source }: Allowed): string => BY[source];

/** What somebody typed or pasted, as the name that the server wants: of an address in full only the host. */
export function typedDomain(text: string): string {
  const host = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i.exec(text.trim())?.[1] ?? text.trim();
  return host.replace(/^.*@/, '').replace(/:\d+$/, '').replace(/\/.*$/, '').toLowerCase();
}
