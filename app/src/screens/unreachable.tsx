// The page when no server answers at all.

import { useState } from 'react';
import { View } from 'react-native';
import { Button } from '@/ui/button';
import { Column } from '@/ui/layout';
import { Brand } from '@/ui/mark';
import { Heading, Text } from '@/ui/text';

export function Unreachable({ onRetry }: { onRetry: () => Promise<unknown> }) {
  const [busy, setBusy] = useState(false);
  const retry = async () => {
    setBusy(true);
    await onRetry();
    setBusy(false);
  };
  return (
    <Column narrow middle testID="unreachable">
      <Brand />
      <View className="gap-2">
        <Heading>No answer</Heading>
        <Text tone="muted">The server cannot be reached. Check your connection; nothing of yours is lost.</Text>
      </View>
      <Button label="Try again" icon="retry" onPress={() => void retry()} busy={busy} testID="unreachable-retry" />
    </Column>
  );
}
