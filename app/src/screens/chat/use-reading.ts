// Where a growing conversation stands: at its end, or wherever somebody reads.
// Never: a movement that the reader did not ask for.

import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react';
import type { NativeScrollEvent, NativeSyntheticEvent, ScrollView } from 'react-native';
import type { Turn } from '@/features/chat/turns';

/** Closer than this to the end counts as being there. */
const AT_END_PX = 80;
/** Less is a rounding of heights. */
const GROWN_PX = 2;
/** Earlier messages are asked for when this much is left above. */
const NEAR_START_PX = 400;

export function useReading(turns: readonly Turn[], more: boolean, onEarlier: () => void) {
  const view = useRef<ScrollView>(null);
  const at = useRef({ height: 0, atEnd: true, firstKey: '' });
  const [away, setAway] = useState(false);
  const justSent = turns.findLast((turn) => turn.outgoing && !turn.outgoing.refused)?.key;
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
    else if (page.atEnd) node.scrollTop = node.scrollHeight;
    page.height = node.scrollHeight;
  }, [firstKey]);

  useEffect(() => {
    if (!justSent) return;
    at.current.atEnd = true;
    toEnd();
  }, [justSent, toEnd]);

  const onScroll = ({ nativeEvent: { contentOffset, contentSize, layoutMeasurement } }: NativeSyntheticEvent<NativeScrollEvent>) => {
    // The content has grown since the end was last shown: nobody went away from it, and it is shown again in a moment.
    if (at.current.atEnd && contentSize.height - at.current.height > GROWN_PX) return;
    const atEnd = contentSize.height - contentOffset.y - layoutMeasurement.height < AT_END_PX;
    at.current.atEnd = atEnd;
    if (atEnd === away) setAway(!atEnd);
    if (more && contentOffset.y < NEAR_START_PX) onEarlier();
  };
  const onContentSize = (_width: number, height: number) => {
    at.current.height = height;
    if (at.current.atEnd) toEnd();
  };
  // The window, the keyboard, the composer or a banner took room: the end stays in sight.
  const onRoom = () => {
    if (at.current.atEnd) toEnd();
  };
  return { view, away, toEnd, onScroll, onContentSize, onRoom };
}
