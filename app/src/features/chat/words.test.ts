import { dayWord, tookWord } from './days';
import { detail, toolTitle } from './toolwords';

test('days in words', () => {
  const now = new Date(2026, 10, 22, 0, 30);
  const day = (y: number, m: number, d: number) => dayWord(new Date(y, m - 1, d, 23, 50).toISOString(), now, 'en-GB');
  expect([day(2026, 11, 22), day(2026, 11, 21), day(2026, 11, 17), day(2026, 11, 3), day(2025, 11, 3), dayWord('nonsense', now)]).toEqual([
    'Today',
    'Yesterday',
    'Tuesday',
    '3 November',
    '3 November 2025',
    '',
  ]);
  expect([420, 12_400, 125_000].map(tookWord)).toEqual(['0.4 s', '12 s', '2 min 5 s']);
});

test('tools in words', () => {
  expect(toolTitle('write', { path: 'memory/x.md', content: '…' }, true)).toBe('Writing memory/x.md');
  expect(toolTitle('exec', { command: 'ls -la\nrm x' }, false)).toBe('Ran ls -la');
  expect(toolTitle('github_list_issues', null, false)).toBe('Github list issues');
  expect(detail({ a: 1 })).toBe('{\n  "a": 1\n}');
  expect(detail('x'.repeat(7000))).toContain('1000 more characters');
});
