import { bars } from './chart';

test('one bar for each day of the period, used or not', () => {
  const day = (at: string, cost_usd: string) => ({ day: at, tokens_in: 1, tokens_out: 1, cost_usd, calls: 1 });
  const days = [day('2026-11-01', '0.5'), day('2026-11-03', '2')];
  const result = bars(days, '2026-11-01T00:00:00Z', '2026-11-05T00:00:00Z');
  expect(result.map((bar) => [bar.day, bar.height])).toEqual([
    ['2026-11-01', 0.25],
    ['2026-11-02', 0],
    ['2026-11-03', 1],
    ['2026-11-04', 0],
  ]);
  expect(bars([], '2026-11-01T00:00:00Z', '2026-11-02T00:00:00Z')).toEqual([{ day: '2026-11-01', usd: '0', height: 0 }]);
});
