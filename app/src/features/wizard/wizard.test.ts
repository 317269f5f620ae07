import { allTimezones, matches, zoneLabel } from './timezones';
import { suggestionsFor, VERTICALS } from './verticals';
import { missing } from './wizard';

test('each question says what it lacks', () => {
  const answers = { vertical: null, name: ' ', timezone: 'UTC' };
  expect(missing('vertical', answers)).toContain('Choose');
  expect(missing('name', answers)).toContain('name');
  expect(missing('name', { ...answers, name: 'x'.repeat(41) })).toContain('40');
  expect(missing('name', { ...answers, name: 'Pip 🦞' })).toBeNull();
  expect(missing('timezone', answers)).toBeNull();
});

test('every vertical greets with at least three suggestions', () => {
  for (const { id } of VERTICALS) expect(suggestionsFor(id).length).toBeGreaterThanOrEqual(3);
});

test('zones are found by parts of their names', () => {
  expect(allTimezones('Europe/Berlin')[0]).toBe('Europe/Berlin');
  expect([matches('America/Los_Angeles', 'los ang'), matches('America/Sao_Paulo', 'são'), matches('UTC', 'ber')]).toEqual([
    true,
    true,
    false,
  ]);
  expect(zoneLabel('Europe/Berlin', new Date('2026-11-22T11:30:00Z'))).toBe('Europe / Berlin · 12:30');
  expect(zoneLabel('No/Where', new Date())).toBe('No / Where');
});
