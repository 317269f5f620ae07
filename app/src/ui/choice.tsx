// One of a few, all in sight: cards with a title and a line.

import { Pressable, View } from 'react-native';
import { Icon } from './icon';
import { Text } from './text';

export function ChoiceCard({
  title,
  line,
  chosen,
  onPress,
  testID,
}: {
  title: string;
  line: string;
  chosen: boolean;
  onPress: () => void;
  testID: string;
}) {
  const face = chosen ? 'border-accent bg-accent-soft' : 'border-line bg-surface hover:border-edge';
  return (
    <Pressable
      testID={testID}
      role="radio"
      aria-checked={chosen}
      aria-label={`${title}. ${line}`}
      onPress={onPress}
      className={`flex-row items-center gap-3 rounded-2xl border-2 p-4 ${face}`}
    >
      <View className="shrink grow gap-1">
        <Text weight="bold">{title}</Text>
        <Text size="sm" tone="muted">
          {line}
        </Text>
      </View>
      <View className={`h-6 w-6 items-center justify-center rounded-full ${chosen ? 'bg-accent' : 'border-2 border-edge'}`}>
        {chosen ? <Icon name="check" size={14} color="on-accent" /> : null}
      </View>
    </Pressable>
  );
}

/** On or off, with its words beside it. */
export function Toggle({
  label,
  line,
  on,
  onChange,
  testID,
}: {
  label: string;
  line?: string;
  on: boolean;
  onChange: (on: boolean) => void;
  testID: string;
}) {
  return (
    <Pressable
      testID={testID}
      role="switch"
      aria-checked={on}
      aria-label={label}
      onPress={() => onChange(!on)}
      className="min-h-12 flex-row items-center justify-between gap-4 rounded-xl"
    >
      <View className="shrink">
        <Text>{label}</Text>
        {line ? (
          <Text size="sm" tone="muted">
            {line}
          </Text>
        ) : null}
      </View>
      <View
        className={`h-7 w-12 justify-center rounded-full border-2 px-0.5 ${on ? 'items-end border-accent bg-accent' : 'items-start border-edge bg-sunken'}`}
      >
        <View className={`h-5 w-5 rounded-full ${on ? 'bg-on-accent' : 'bg-edge'}`} />
      </View>
    </Pressable>
  );
}
