import fc from 'fast-check';
import { count, exactUsd, nanos, roundUsd, sumUsd, typedUsd, usedOf } from './money';

test('amounts are shown with every digit that counts, and at least cents', () => {
  const table: [string, string, string][] = [
    ['0', '$0.00', '$0.00'],
    ['0.000123', '$0.000123', '$0.000123'],
    ['0.000000001', '$0.000000001', '$0.000000001'],
    ['0.1', '$0.10', '$0.10'],
    ['1.005', '$1.005', '$1.01'],
    ['52.16', '$52.16', '$52.16'],
    ['1234567.891', '$1234567.891', '$1,234,567.89'],
    ['nonsense', '$0.00', '$0.00'],
  ];
  for (const [usd, exact, rounded] of table) expect([exactUsd(usd), roundUsd(usd)]).toEqual([exact, rounded]);
});

test('how much of a cap is used', () => {
  const table: [used: string, cap: string, thousandths: number][] = [
    ['0', '20', 0],
    ['0.000001', '20', 0],
    ['5', '20', 250],
    ['19.999999999', '20', 999],
    ['20', '20', 1000],
    ['21', '20', 1000],
    ['0', '0', 1000],
  ];
  for (const [used, cap, thousandths] of table) expect([used, cap, usedOf(used, cap)]).toEqual([used, cap, thousandths]);
});

test('sums are exact where floating point is not', () => {
  expect(sumUsd(['0.1', '0.2'])).toBe('0.30');
  expect(sumUsd([])).toBe('0.00');
  fc.assert(
    fc.property(fc.array(fc.bigInt({ min: 0n, max: 10n ** 15n })), (amounts) => {
      const texts = amounts.map((n) => `${n / 10n ** 9n}.${(n % 10n ** 9n).toString().padStart(9, '0')}`);
      expect(nanos(sumUsd(texts))).toBe(amounts.reduce((a, b) => a + b, 0n));
    }),
  );
});

test('what a person types as an amount', () => {
  expect(['$20', ' 20.5 ', '20,50', '0'].map(typedUsd)).toEqual(['20', '20.5', '20.50', '0']);
  expect(['', '-3', '1.234', 'ten', '1e3', '99999999'].map(typedUsd)).toEqual([null, null, null, null, null, null]);
  expect(count(1234567)).toBe('1,234,567');
});
