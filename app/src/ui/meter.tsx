// A bar that fills up.
// Never: the only carrier of the number; the words stand beside it.

import { View } from 'react-native';

const COLORS = { accent: 'bg-accent', warn: 'bg-warn', bad: 'bg-bad' } as const;

export interface MeterProps {
  label: string;
  /** The number in words, for a screen reader. */
  words: string;
  thousandths: number;
  color: keyof typeof COLORS;
  testID: string;
}

export function Meter({ label, words, thousandths, color, testID }: MeterProps) {
  return (
    <View
      testID={testID}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={1000}
      aria-valuenow={thousandths}
      aria-valuetext={words}
      className="h-2.5 overflow-hidden rounded-full bg-line"
    >
      <View className={`h-full min-w-1 rounded-full ${COLORS[color]}`} style={{ width: `${thousandths / 10}%` }} />
    </View>
  );
}
