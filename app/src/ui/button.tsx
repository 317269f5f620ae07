// A button in four weights, with its busy and disabled faces.
// Never: a second press while the first is still under way.

import { Pressable, View } from 'react-native';
import type { ColorName } from './color';
import { Icon, type IconName } from './icon';
import { Spinner } from './spinner';
import { Text, type Tone } from './text';

type Kind = 'primary' | 'quiet' | 'plain' | 'danger';

const FACES: Record<Kind, { box: string; tone: Tone; color: ColorName }> = {
  primary: { box: 'bg-accent hover:bg-accent-ink active:bg-accent-ink', tone: 'on-accent', color: 'on-accent' },
  quiet: { box: 'border border-edge bg-surface hover:bg-sunken active:bg-sunken', tone: 'ink', color: 'ink' },
  plain: { box: 'hover:bg-sunken active:bg-sunken', tone: 'ink', color: 'ink' },
  danger: { box: 'border border-bad bg-surface hover:bg-bad-soft active:bg-bad-soft', tone: 'bad', color: 'bad' },
};

export interface ButtonProps {
  label: string;
  onPress: () => void;
  testID: string;
  kind?: Kind;
  icon?: IconName;
  busy?: boolean;
  disabled?: boolean;
  small?: boolean;
  grow?: boolean;
  /** A fuller name for a screen reader than the visible words. */
  hint?: string;
}

export function Button({ label, onPress, testID, kind = 'primary', icon, busy, disabled, small, grow, hint }: ButtonProps) {
  const face = FACES[kind];
  const off = Boolean(disabled || busy);
  const size = small ? 'min-h-9 px-3 rounded-lg' : 'min-h-12 px-5 rounded-xl';
  return (
    <Pressable
      testID={testID}
      role="button"
      aria-label={hint ?? label}
      aria-busy={busy}
      aria-disabled={off}
      disabled={off}
      onPress={onPress}
      className={`flex-row items-center justify-center gap-2 ${size} ${face.box} ${off ? 'opacity-60' : ''} ${grow ? 'grow basis-0' : ''}`}
    >
      {busy ? <Spinner color={face.color} /> : icon ? <Icon name={icon} size={small ? 16 : 20} color={face.color} /> : null}
      <Text size={small ? 'sm' : 'base'} weight="bold" tone={face.tone}>
        {label}
      </Text>
    </Pressable>
  );
}

/** A round or square button that shows only an icon; `label` names it. */
export function IconButton({
  label,
  icon,
  onPress,
  testID,
  color = 'muted',
  filled,
  disabled,
  expanded,
}: {
  label: string;
  icon: IconName;
  onPress: () => void;
  testID: string;
  color?: ColorName;
  filled?: boolean;
  disabled?: boolean;
  expanded?: boolean;
}) {
  const soft = color === 'bad' ? 'bg-bad-soft' : '';
  const face = filled ? 'bg-accent hover:bg-accent-ink' : `${soft} hover:bg-sunken active:bg-sunken`;
  return (
    <Pressable
      testID={testID}
      role="button"
      aria-label={label}
      aria-disabled={disabled}
      aria-expanded={expanded}
      disabled={disabled}
      onPress={onPress}
      className={`h-10 w-10 items-center justify-center rounded-xl ${face} ${disabled ? 'opacity-40' : ''}`}
    >
      <View aria-hidden>
        <Icon name={icon} color={filled ? 'on-accent' : color} />
      </View>
    </Pressable>
  );
}
