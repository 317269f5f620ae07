// The frame of the pages beside the chat: a way back, a title, one column, and a foot that stays in sight.

import { router } from 'expo-router';
import type { ReactNode } from 'react';
import { View } from 'react-native';
import { IconButton } from '@/ui/button';
import { Column } from '@/ui/layout';
import { Heading } from '@/ui/text';
import { useTitle } from '@/ui/title';

export function Page({ title, children, testID, foot }: { title: string; children: ReactNode; testID: string; foot?: ReactNode }) {
  useTitle(title);
  const back = () => (router.canGoBack() ? router.back() : router.replace('/'));
  return (
    <View className="flex-1 bg-paper">
      <View role="banner" className="flex-row items-center gap-1 border-b border-line px-2 py-1.5">
        <IconButton icon="left" label="Back" onPress={back} testID="page-back" />
        <Heading size="lg" className="shrink grow" numberOfLines={1}>
          {title}
        </Heading>
      </View>
      <Column testID={testID}>{children}</Column>
      {foot ? (
        <View className="border-t border-line bg-paper px-5 py-3">
          <View className="w-full max-w-2xl gap-3 self-center">{foot}</View>
        </View>
      ) : null}
    </View>
  );
}
