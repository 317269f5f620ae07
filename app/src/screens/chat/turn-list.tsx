// The conversation: grows at the bottom, reads back at the top, and never moves under somebody who is reading.

import { ScrollView, View } from 'react-native';
import { dayWord, isSameDay } from '@/features/chat/days';
import type { Turn } from '@/features/chat/turns';
import { Button } from '@/ui/button';
import { Spinner } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { TurnView, type TurnActions } from './turn';
import { useReading } from './use-reading';

export function TurnList({
  turns,
  more,
  onEarlier,
  actions,
  botName,
}: {
  turns: readonly Turn[];
  more: boolean;
  onEarlier: () => void;
  actions: TurnActions;
  botName: string;
}) {
  const { view, away, toEnd, onScroll, onContentSize, onRoom } = useReading(turns, more, onEarlier);
  return (
    <View className="flex-1">
      <ScrollView
        ref={view}
        testID="chat-list"
        className="flex-1 [overflow-anchor:none]"
        contentContainerClassName="grow justify-end px-4 py-6"
        scrollEventThrottle={50}
        onScroll={onScroll}
        onContentSizeChange={onContentSize}
        onLayout={onRoom}
        keyboardShouldPersistTaps="handled"
      >
        <View className="w-full max-w-3xl gap-6 self-center" role="log" aria-live="off" aria-label="Conversation">
          {more ? (
            <View className="items-center py-2">
              <Spinner />
            </View>
          ) : null}
          {turns.map((turn, index) => (
            <View key={turn.key} className="gap-6">
              {index === 0 || !isSameDay(turns[index - 1]!.at, turn.at) ? <Day at={turn.at} /> : null}
              <TurnView turn={turn} actions={actions} botName={botName} />
            </View>
          ))}
        </View>
      </ScrollView>
      {away ? (
        <View className="absolute inset-x-0 bottom-3 items-center" pointerEvents="box-none">
          <Button
            small
            kind="quiet"
            icon="down"
            label="Latest"
            hint="Jump to the latest message"
            onPress={toEnd}
            testID="chat-jump-latest"
          />
        </View>
      ) : null}
    </View>
  );
}

function Day({ at }: { at: string }) {
  const word = dayWord(at, new Date());
  if (!word) return null;
  return (
    <View className="flex-row items-center gap-3" testID="day">
      <View className="h-px grow bg-line" />
      <Text size="xs" tone="muted">
        {word}
      </Text>
      <View className="h-px grow bg-line" />
    </View>
  );
}
