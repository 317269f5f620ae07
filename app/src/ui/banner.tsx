// A line across the page that says what is the matter, and what to do about it.

import type { ReactNode } from 'react';
import { View } from 'react-native';
import { Icon, type IconName } from './icon';
import { Text } from './text';

const FACES = {
  info: { box: 'bg-sunken', icon: 'info', tone: 'ink' },
  good: { box: 'bg-good-soft', icon: 'check', tone: 'good' },
  warn: { box: 'bg-warn-soft', icon: 'alert', tone: 'warn' },
  bad: { box: 'bg-bad-soft', icon: 'alert', tone: 'bad' },
} as const;

export function Banner({
  kind,
  children,
  action,
  testID,
}: {
  kind: keyof typeof FACES;
  children: ReactNode;
  action?: ReactNode;
  testID: string;
}) {
  const face = FACES[kind];
  const color = face.tone === 'ink' ? 'muted' : face.tone;
  return (
    <View
      testID={testID}
      role={kind === 'bad' ? 'alert' : 'status'}
      className={`flex-row items-center gap-3 rounded-xl px-4 py-3 ${face.box}`}
    >
      <View className="shrink-0">
        <Icon name={face.icon as IconName} color={color} />
      </View>
      <Text size="sm" tone={face.tone} className="shrink grow">
        {children}
      </Text>
      {action}
    </View>
  );
}
