// A raised sheet of paper, and a row of two columns in one.

import type { ReactNode } from 'react';
import { View } from 'react-native';
import { Heading, Text } from './text';

export function Card({ children, testID, title }: { children: ReactNode; testID?: string; title?: string }) {
  return (
    <View testID={testID} className="gap-4 rounded-2xl border border-line bg-surface p-5">
      {title ? <Heading level={2}>{title}</Heading> : null}
      {children}
    </View>
  );
}

/** A name on the left, a value on the right. */
export function Row({ name, value, strong, testID }: { name: string; value: string; strong?: boolean; testID?: string }) {
  return (
    <View className="flex-row justify-between gap-4" testID={testID}>
      <Text weight={strong ? 'bold' : 'normal'} tone={strong ? 'ink' : 'muted'} className="shrink">
        {name}
      </Text>
      <Text weight={strong ? 'bold' : 'normal'} className="tabular-nums">
        {value}
      </Text>
    </View>
  );
}
