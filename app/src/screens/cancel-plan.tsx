// Cancelling the plan of built-in payments, after one question; and keeping it after all.
// Never: a plan that ends before its date, or a second payment for keeping it.

import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import { fullDate } from '@/features/chat/days';
import { keys, useChange } from '@/features/queries';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Dialog } from '@/ui/dialog';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { useCheckout } from './plan';

/** `ends`: when it would end. */
export function CancelPlan({ ends }: { ends: string | null | undefined }) {
  const [asking, setAsking] = useState(false);
  const cancel = useChange(api.cancelPlan, [keys.me]);
  const close = () => (setAsking(false), cancel.reset());
  const go = () =>
    cancel.mutate(undefined, {
      onSuccess: ({ ends_at }) => {
        close();
        toast(ends_at ? `Your plan ends on ${fullDate(ends_at)}.` : 'Your plan is cancelled.');
      },
    });
  return (
    <View className="flex-row">
      <Button kind="quiet" label="Cancel the plan" onPress={() => setAsking(true)} testID="your-plan-cancel" />
      <Dialog open={asking} title="Cancel the plan?" onClose={close} testID="cancel-plan-dialog">
        <Text>
          {ends ? `Everything goes on until ${fullDate(ends)}. ` : ''}
          Then your assistants are suspended. They keep their memory, files and conversations, and come back when the plan is renewed.
        </Text>
        {cancel.error ? (
          <Banner kind="bad" testID="cancel-plan-fault">
            {sentence(cancel.error)}
          </Banner>
        ) : null}
        <View className="flex-row gap-3">
          <Button kind="quiet" label="Keep it" onPress={close} testID="cancel-plan-keep" grow />
          <Button kind="danger" label="Cancel the plan" onPress={go} busy={cancel.isPending} testID="cancel-plan-confirm" grow />
        </View>
      </Dialog>
    </View>
  );
}

/** Takes the cancellation back, where plans are begun. */
export function KeepPlan() {
  const { start, busy, fault } = useCheckout(null);
  return (
    <View className="gap-3">
      {fault ? (
        <Banner kind="bad" testID="your-plan-keep-fault">
          {fault}
        </Banner>
      ) : null}
      <View className="flex-row">
        <Button label="Keep the plan" onPress={start} busy={busy} testID="your-plan-keep" />
      </View>
    </View>
  );
}
