// Text in the app's sizes and tones.
// Never: a colour or a font size anywhere else.

import { Text as NativeText, type TextProps as NativeTextProps } from 'react-native';

const SIZES = {
  xs: 'text-xs leading-4',
  sm: 'text-sm leading-5',
  base: 'text-base leading-6',
  lg: 'text-lg leading-7',
  xl: 'text-2xl leading-8 tracking-tight',
  title: 'text-3xl leading-9 tracking-tight',
} as const;

const TONES = {
  ink: 'text-ink',
  muted: 'text-muted',
  accent: 'text-accent-ink',
  'on-accent': 'text-on-accent',
  good: 'text-good',
  warn: 'text-warn',
  bad: 'text-bad',
} as const;

const WEIGHTS = { normal: 'font-normal', medium: 'font-medium', bold: 'font-semibold', heavy: 'font-bold' } as const;

export type Tone = keyof typeof TONES;

export interface TextProps extends NativeTextProps {
  size?: keyof typeof SIZES;
  tone?: Tone;
  weight?: keyof typeof WEIGHTS;
  mono?: boolean;
}

export function Text({ size = 'base', tone = 'ink', weight = 'normal', mono, className = '', ...rest }: TextProps) {
  return <NativeText {...rest} className={`${SIZES[size]} ${TONES[tone]} ${WEIGHTS[weight]} ${mono ? 'font-mono' : ''} ${className}`} />;
}

/** A heading, for the eye and for a screen reader. */
export function Heading({ level = 1, ...rest }: TextProps & { level?: 1 | 2 | 3 }) {
  const size = level === 1 ? 'title' : level === 2 ? 'lg' : 'base';
  return <Text size={size} weight={level === 1 ? 'heavy' : 'bold'} role="heading" aria-level={level} {...rest} />;
}
