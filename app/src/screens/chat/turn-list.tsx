// The conversation: grows at the bottom, reads back at the top, and never moves under somebody who is reading.

import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react';
import { ScrollView, View, type NativeScrollEvent, type NativeSyntheticEvent } from 'react-native';
import { dayWord, isSameDay } from '@/features/chat/days';
import type { Turn } from '@/features/chat/turns';
import { Button } from '@/ui/button';
import { Spinner } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { TurnView, type TurnActions } from './turn';

/** Closer than this to the end counts as being there. */
const AT_END_PX = 80;
/** Earlier messages are asked for when this much is left above. */
const NEAR_START_PX = 400;

export function TurnList({ turns, more, onEarlier, actions, botName }: { turns: readonly Turn[]; more: boolean; onEarlier: () => void; actions: TurnActions; botName: string }) {
  const view = useRef<ScrollView>(null);
  const at = useRef({ height: 0, atEnd: true, firstKey: '' });
  const [away, setAway] = useState(false);
  const justSent = turns.findLast((turn) => turn.outgoing)?.key;
  const toEnd = useCallback(() => view.current?.scrollToEnd({ animated: false }), []);
  const firstKey = turns[0]?.key ?? '';

  // Earlier turns came in above: what is being read stays where it is, before the eye sees it move.
  useLayoutEffect(() => {
    const page = at.current;
    const node = view.current?.getScrollableNode() as HTMLElement | null | undefined;
    const grew = page.firstKey !== '' && page.firstKey !== firstKey && !page.atEnd;
    page.firstKey = firstKey;
    if (typeof node?.scrollHeight !== 'number') return;
    if (grew) node.scrollTop += node.scrollHeight - page.height;
    page.height = node.scrollHeight;
  }, [firstKey]);

  useEffect(() => {
    if (!justSent) return;
    at.current.atEnd = true;
    toEnd();
  }, [justSent, toEnd]);

  const onScroll = ({ nativeEvent: { contentOffset, contentSize, layoutMeasurement } }: NativeSyntheticEvent<NativeScrollEvent>) => {
    const atEnd = contentSize.height - contentOffset.y - layoutMeasurement.height < AT_END_PX;
    at.current.atEnd = atEnd;
    if (atEnd === away) setAway(!atEnd);
    if (more && contentOffset.y < NEAR_START_PX) onEarlier();
  };
  const onContentSize = (_width: number, height: number) => {
    at.current.height = height;
    if (at.current.atEnd) toEnd();
  };

  return (
    <View className="flex-1">
      <ScrollView ref={view} testID="chat-list" className="flex-1 [overflow-anchor:none]" contentContainerClassName="grow justify-end px-4 py-6" scrollEventThrottle={50} onScroll={onScroll} onContentSizeChange={onContentSize} keyboardShouldPersistTaps="handled">
        <View className="w-full max-w-3xl gap-6 self-center" role="log" aria-live="off" aria-label="Conversation">
          {more ? <View className="items-center py-2"><Spinner /></View> : null}
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
          <Button small kind="quiet" icon="down" label="Latest" hint="Jump to the latest message" onPress={toEnd} testID="chat-jump-latest" />
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
