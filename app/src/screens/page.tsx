// The frame of the pages beside the chat: a way back, a title, one column.

import { router } from 'expo-router';
import type { ReactNode } from 'react';
import { View } from 'react-native';
import { IconButton } from '@/ui/button';
import { Column } from '@/ui/layout';
import { Heading } from '@/ui/text';
import { useTitle } from '@/ui/title';

export function Page({ title, children, testID, action }: { title: string; children: ReactNode; testID: string; action?: ReactNode }) {
  useTitle(title);
  const back = () => (router.canGoBack() ? router.back() : router.replace('/'));
  return (
    <View className="flex-1 bg-paper">
      <View className="flex-row items-center gap-1 border-b border-line px-2 py-1.5">
        <IconButton icon="left" label="Back" onPress={back} testID="page-back" />
        <Heading size="lg" className="shrink grow" numberOfLines={1}>
          {title}
        </Heading>
        {action}
      </View>
      <Column testID={testID}>{children}</Column>
    </View>
  );
}
