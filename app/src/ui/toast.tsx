// A short word over the page's head that goes away by itself.
// Never: the only place of a failure that a person has to act on.

import { View } from 'react-native';
import { create } from 'zustand';
import { Text } from './text';

/** Long enough to read two short sentences. */
const STAY_MS = 4_500;

interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

const useToasts = create<{ toasts: Toast[]; nextId: number }>(() => ({ toasts: [], nextId: 1 }));

export function toast(text: string, kind: 'good' | 'bad' = 'good'): void {
  const id = useToasts.getState().nextId;
  useToasts.setState((state) => ({ nextId: id + 1, toasts: [...state.toasts.slice(-2), { id, text, bad: kind === 'bad' }] }));
  setTimeout(() => useToasts.setState((state) => ({ toasts: state.toasts.filter((kept) => kept.id !== id) })), STAY_MS);
}

export function Toasts() {
  const toasts = useToasts((state) => state.toasts);
  return (
    <View
      pointerEvents="none"
      aria-live="polite"
      role="status"
      className="absolute inset-x-0 top-1.5 items-center gap-2 px-4"
      testID="toasts"
    >
      {toasts.map(({ id, text, bad }) => (
        <View
          key={id}
          testID={bad ? 'toast-bad' : 'toast'}
          className={`max-w-md rounded-xl border px-4 py-3 ${bad ? 'border-bad bg-bad-soft' : 'border-edge bg-surface'}`}
        >
          <Text size="sm" weight="medium" tone={bad ? 'bad' : 'ink'}>
            {text}
          </Text>
        </View>
      ))}
    </View>
  );
}
