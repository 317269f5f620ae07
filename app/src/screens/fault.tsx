// A part of a page that could not be read: what happened, and another try.

import { View } from 'react-native';
import { sentence } from '@/api/problem';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';

export function Fault({ error, onRetry, testID }: { error: unknown; onRetry: () => void; testID: string }) {
  return (
    <Banner
      kind="bad"
      testID={testID}
      action={
        <View>
          <Button small kind="quiet" label="Try again" onPress={onRetry} testID={`${testID}-retry`} />
        </View>
      }
    >
      {sentence(error)}
    </Banner>
  );
}
