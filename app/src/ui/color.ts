// The theme's colours for what cannot take a class: strokes, placeholders, spinners.
// Never: a literal colour; theme.css has them all.

import { useCSSVariable } from 'uniwind';

export type ColorName = 'ink' | 'muted' | 'accent' | 'accent-ink' | 'on-accent' | 'good' | 'warn' | 'bad' | 'line' | 'edge';

export function useColor(name: ColorName): string {
  return String(useCSSVariable(`--color-${name}`) ?? '#808080');
}
