// Dollars as the API writes them: decimal strings, added and shown without a rounding of ours.
// Never: floating point.

const NANOS = 9;

/** Nano-dollars of a decimal string such as "0.000123". What is no number counts as nothing. */
export function nanos(usd: string): bigint {
  const match = /^(-?)(\d*)(?:\.(\d*))?$/.exec(usd.trim());
  if (!match) return 0n;
  const [, sign, whole, part = ''] = match;
  const value = BigInt(whole || '0') * 10n ** BigInt(NANOS) + BigInt(part.slice(0, NANOS).padEnd(NANOS, '0'));
  return sign ? -value : value;
}

export function sumUsd(amounts: readonly string[]): string {
  return decimal(amounts.reduce((sum, usd) => sum + nanos(usd), 0n));
}

/** "$1.50", "$0.000123": at least cents, and every digit that counts. */
export function exactUsd(usd: string): string {
  const text = decimal(nanos(usd));
  return text.startsWith('-') ? `-$${text.slice(1)}` : `$${text}`;
}

/** To the cent, for totals; anything smaller than a cent is shown exactly, so that it never reads as nothing. */
export function roundUsd(usd: string): string {
  const value = nanos(usd);
  if (value !== 0n && value < 10_000_000n && value > -10_000_000n) return exactUsd(usd);
  const cents = (value + 5_000_000n) / 10_000_000n;
  return `$${group(cents / 100n)}.${(cents % 100n).toString().padStart(2, '0')}`;
}

/** How much of `cap` is used, in thousandths, at most 1000. Of a cap of nothing everything is used. */
export function usedOf(usd: string, cap: string): number {
  const [used, most] = [nanos(usd), nanos(cap)];
  if (most <= 0n || used >= most) return 1000;
  return used <= 0n ? 0 : Number((used * 1000n) / most);
}

/** What a person typed as dollars, or null when it is not an amount with at most two decimals. */
export function typedUsd(text: string): string | null {
  const clean = text.trim().replace(/^\$/, '').replace(',', '.');
  return /^\d{1,7}(\.\d{1,2})?$/.test(clean) ? clean : null;
}

/** "1,234,567" */
export function count(value: number): string {
  return group(BigInt(Math.trunc(value)));
}

function decimal(value: bigint): string {
  const sign = value < 0n ? '-' : '';
  const digits = (value < 0n ? -value : value).toString().padStart(NANOS + 1, '0');
  const whole = BigInt(digits.slice(0, -NANOS));
  const part = digits.slice(-NANOS).replace(/0+$/, '').padEnd(2, '0');
  return `${sign}${whole}.${part}`;
}

function group(value: bigint): string {
  return value.toString().replace(/\B(?=(\d{3})+$)/g, ',');
}
