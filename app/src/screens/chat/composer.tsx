// Where a person writes: grows with the text, sends on Enter at a desk, and can be used unless nobody would answer.
// Never: a text lost because the connection was.

import { useLayoutEffect, useRef, useState } from 'react';
import { TextInput, View, type NativeSyntheticEvent, type TextInputKeyPressEventData } from 'react-native';
import { IconButton } from '@/ui/button';
import { useColor } from '@/ui/color';
import { useIsDesk } from '@/ui/layout';
import { Text } from '@/ui/text';

/** Taller than this the text scrolls inside. */
const HEIGHT_MAX_PX = 200;

export interface ComposerProps {
  botName: string;
  draft: string;
  onDraft: (text: string) => void;
  onSend: (text: string) => void;
  onStop: (() => void) | null;
  /** Why nothing can be sent; the draft stays. */
  closed: string | null;
}

type Key = NativeSyntheticEvent<TextInputKeyPressEventData & { shiftKey?: boolean; isComposing?: boolean }>;

export function Composer({ closed, ...open }: ComposerProps) {
  return closed ? <Closed why={closed} /> : <Open {...open} />;
}

function Closed({ why }: { why: string }) {
  return (
    <View className="px-3 pb-3 pt-1">
      <View className="w-full max-w-3xl self-center rounded-2xl border-2 border-edge bg-sunken px-4 py-3" testID="composer-closed">
        <Text size="sm" tone="muted">
          {why}
        </Text>
      </View>
    </View>
  );
}

function Open({ botName, draft, onDraft, onSend, onStop }: Omit<ComposerProps, 'closed'>) {
  const desk = useIsDesk();
  const input = useRef<TextInput>(null);
  const [focused, setFocused] = useState(false);
  const placeholder = useColor('muted');
  const text = draft.trim();
  useLayoutEffect(() => fitHeight(input.current as unknown), [draft]);
  const send = () => {
    if (!text) return;
    onSend(text);
    input.current?.focus();
  };
  const onKey = (event: Key) => {
    const { key, shiftKey, isComposing } = event.nativeEvent;
    if (!desk || key !== 'Enter' || shiftKey || isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <View className="px-3 pb-3 pt-1">
      <View
        className={`w-full max-w-3xl flex-row items-end gap-1 self-center rounded-2xl border-2 bg-surface p-1.5 pl-4 ${focused ? 'border-accent' : 'border-edge'}`}
      >
        <TextInput
          ref={input}
          testID="composer"
          aria-label={`Message to ${botName}`}
          placeholder={`Message ${botName}`}
          placeholderTextColor={placeholder}
          value={draft}
          onChangeText={onDraft}
          onKeyPress={onKey as (event: NativeSyntheticEvent<TextInputKeyPressEventData>) => void}
          onFocus={() => setFocused(true)}
          onBlur={() => setFocused(false)}
          multiline
          {...{ rows: 1 }}
          autoFocus={desk}
          enterKeyHint={desk ? 'send' : 'enter'}
          className="shrink grow resize-none py-2 text-base leading-6 text-ink"
        />
        {onStop ? <IconButton icon="stop" label="Stop the answer" color="bad" onPress={onStop} testID="composer-stop" /> : null}
        <IconButton icon="send" label="Send" filled disabled={!text} onPress={send} testID="composer-send" />
      </View>
    </View>
  );
}

/** A browser's text area does not grow by itself everywhere. */
function fitHeight(element: unknown): void {
  const area = element as HTMLTextAreaElement | null;
  if (!area?.style || typeof area.scrollHeight !== 'number') return;
  area.style.height = 'auto';
  area.style.height = `${Math.min(HEIGHT_MAX_PX, area.scrollHeight)}px`;
}
