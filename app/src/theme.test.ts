// The app and the landing page share their colours, and every text stands out enough from what is behind it (WCAG AA).

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const app = readFileSync(join(__dirname, 'theme.css'), 'utf8');
const site = readFileSync(join(__dirname, '../../site/site.css'), 'utf8');

function colors(css: string): Record<string, string> {
  return Object.fromEntries([...css.matchAll(/--(?:color-)?([\w-]+):\s*(#[0-9a-f]{6})\b/g)].map((match) => [match[1]!, match[2]!]));
}
const half = (css: string, mark: string): [string, string] => [css.slice(0, css.indexOf(mark)), css.slice(css.indexOf(mark))];
const [light, dark] = half(app, '@variant dark').map(colors) as [Record<string, string>, Record<string, string>];
const [siteLight, siteDark] = half(site, 'prefers-color-scheme: dark').map(colors) as [Record<string, string>, Record<string, string>];

function luminance(hex: string): number {
  const channel = (at: number) => {
    const value = parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
}

function contrast(a: string, b: string): number {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

test('the landing page has the same colours', () => {
  expect(light).toMatchObject(siteLight);
  expect(dark).toMatchObject(siteDark);
});

test('text has a contrast of 4.5, edges of controls 3', () => {
  const onPaper = ['ink', 'muted', 'accent-ink'].flatMap((text) => ['paper', 'surface', 'sunken'].map((behind) => [text, behind]));
  const pairs = [
    ...onPaper,
    ['on-accent', 'accent'],
    ['ink', 'accent-soft'],
    ['muted', 'accent-soft'],
    ['good', 'good-soft'],
    ['warn', 'warn-soft'],
    ['bad', 'bad-soft'],
    ['bad', 'surface'],
    ['bad', 'paper'],
    ['good', 'paper'],
    ['warn', 'surface'],
  ];
  for (const theme of [light, dark]) {
    const faint = pairs.filter(([text, behind]) => contrast(theme[text!]!, theme[behind!]!) < 4.5);
    expect(faint).toEqual([]);
    for (const behind of ['surface', 'paper', 'sunken']) expect(contrast(theme.edge!, theme[behind]!)).toBeGreaterThan(3);
  }
});
