// The page for an address that leads nowhere.

import { router } from 'expo-router';
import { View } from 'react-native';
import { Button } from '@/ui/button';
import { Column } from '@/ui/layout';
import { Brand } from '@/ui/mark';
import { Heading, Text } from '@/ui/text';

export function NotFound({ what = 'There is no such page.' }: { what?: string }) {
  return (
    <Column narrow middle testID="not-found">
      <Brand />
      <View className="gap-2">
        <Heading>Nothing here</Heading>
        <Text tone="muted">{what}</Text>
      </View>
      <Button label="Back to the start" onPress={() => router.replace('/')} testID="not-found-home" />
    </Column>
  );
}
