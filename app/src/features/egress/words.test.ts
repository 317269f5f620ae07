import type { Refused } from '../../api/types';
import { question, refusedWord, toAsk, typedDomain, wantedPlaces } from './words';

const refused = (domain: string, port: number, more: Partial<Refused> = {}): Refused => ({
  domain,
  port,
  count: 1,
  last_at: '2026-11-27T10:00:00Z',
  reason: 'not_listed',
  can_allow: true,
  dismissed: false,
  ...more,
});

test('one place is one line, whatever the ports were', () => {
  const places = wantedPlaces([
    refused('b.example', 22, { reason: 'port', can_allow: false, last_at: '2026-11-27T12:00:00Z' }),
    refused('a.example', 80, { count: 3, last_at: '2026-11-27T11:00:00Z' }),
    refused('b.example', 443, { count: 2, last_at: '2026-11-27T10:30:00Z' }),
  ]);
  expect(places.map(({ domain }) => domain)).toEqual(['b.example', 'a.example']);
  expect(places[0]).toMatchObject({ count: 3, can_allow: true, reason: 'not_listed', last_at: '2026-11-27T12:00:00Z' });
  expect(refusedWord(places[0]!)).toBe('Nobody has allowed it. Tried 3 times');
});

test('only what can be allowed and was not put aside is asked about', () => {
  const egress = {
    allowed: [],
    refused: [
      refused('a.example', 443),
      refused('b.example', 443, { dismissed: true }),
      refused('10.0.0.1', 80, { reason: 'address', can_allow: false }),
      refused('c.example', 443),
    ],
  };
  const asked = toAsk(egress);
  expect(asked.map(({ domain }) => domain)).toEqual(['a.example', 'c.example']);
  expect(question('Pip', asked)).toBe('Pip wanted to reach a.example. One more place is in question.');
  expect(question('Pip', asked.slice(1))).toBe('Pip wanted to reach c.example.');
  expect(toAsk(undefined)).toEqual([]);
});

test('a pasted address is read as its domain', () => {
  expect(typedDomain(' https://Example.org/a?b ')).toBe('example.org');
  expect(typedDomain('example.org:443')).toBe('example.org');
  expect(typedDomain('example.org/path')).toBe('example.org');
  expect(typedDomain('http://user:word@example.org:8080')).toBe('example.org');
  expect(typedDomain('')).toBe('');
});
