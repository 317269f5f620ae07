// A sheet over the page: from below on a phone, in the middle on a desk. Holds the focus, closes on Escape.
// Never: opened by itself, except to ask about something that cannot be undone.

import type { ReactNode } from 'react';
import { Modal, Pressable, ScrollView, View } from 'react-native';
import { IconButton } from './button';
import { useIsDesk } from './layout';
import { Heading } from './text';

export interface DialogProps {
  open: boolean;
  title: string;
  onClose: () => void;
  children: ReactNode;
  testID: string;
  /** The children scroll by themselves. */
  still?: boolean;
}

export function Dialog({ open, title, onClose, children, testID, still }: DialogProps) {
  const desk = useIsDesk();
  const place = desk ? 'items-center justify-center p-6' : 'justify-end';
  const shape = desk ? 'w-full max-w-md rounded-2xl max-h-[80%]' : 'rounded-t-2xl max-h-[88%]';
  return (
    <Modal visible={open} transparent animationType="fade" onRequestClose={onClose} aria-label={title}>
      <View className={`flex-1 ${place}`}>
        <Pressable className="absolute inset-0 bg-veil" onPress={onClose} tabIndex={-1} aria-hidden />
        <View testID={testID} className={`border border-line bg-surface ${shape}`}>
          <View className="flex-row items-center justify-between py-3 pl-5 pr-3">
            <Heading level={2} className="shrink">
              {title}
            </Heading>
            <IconButton icon="close" label="Close" onPress={onClose} testID={`${testID}-close`} />
          </View>
          {still ? children : <ScrollView contentContainerClassName="gap-4 px-5 pb-6">{children}</ScrollView>}
        </View>
      </View>
    </Modal>
  );
}
