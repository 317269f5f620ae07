// Something is on its way: a turning ring for an action, grey bars for content.

import { ActivityIndicator, View } from 'react-native';
import { useColor, type ColorName } from './color';

export function Spinner({ color = 'accent', large }: { color?: ColorName; large?: boolean }) {
  return <ActivityIndicator color={useColor(color)} size={large ? 'large' : 'small'} aria-label="Loading" />;
}

/** Grey bars in the shape of lines; `lines` says how many. */
export function Skeleton({ lines = 3 }: { lines?: number }) {
  return (
    <View className="gap-3" role="status" aria-label="Loading" testID="skeleton">
      {Array.from({ length: lines }, (_, line) => (
        <View key={line} className={`h-4 rounded-md bg-line opacity-60 animate-pulse ${line === lines - 1 ? 'w-1/2' : 'w-full'}`} />
      ))}
    </View>
  );
}
