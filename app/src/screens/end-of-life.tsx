// Restarting an assistant, and deleting it: the second only after its name was typed.

import { router } from 'expo-router';
import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot } from '@/api/types';
import { keys, queryClient, useChange } from '@/features/queries';
import { Button } from '@/ui/button';
import { Card } from '@/ui/card';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { TypeToConfirm } from './type-to-confirm';

export function EndOfLife({ bot }: { bot: Bot }) {
  const [asking, setAsking] = useState(false);
  const restart = useChange(() => api.restartBot(bot.id), [keys.bots]);
  const again = () =>
    restart.mutate(undefined, {
      onSuccess: () => toast(`${bot.bot_name} is restarting.`),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return (
    <Card title="Restart and delete">
      <Text tone="muted">
        {bot.suspended ? `${bot.bot_name} is suspended, so it can't be restarted. ` : 'A restart takes a few seconds and forgets nothing. '}
        Deleting takes its memory, files and conversations with it.
      </Text>
      <View className="flex-row flex-wrap gap-3">
        {bot.suspended ? null : (
          <Button kind="quiet" icon="retry" label="Restart" onPress={again} busy={restart.isPending} testID="bot-restart" />
        )}
        <Button kind="danger" icon="trash" label="Delete" onPress={() => setAsking(true)} testID="bot-delete" />
      </View>
      <DeleteBot bot={bot} open={asking} onClose={() => setAsking(false)} />
    </Card>
  );
}

function DeleteBot({ bot, open, onClose }: { bot: Bot; open: boolean; onClose: () => void }) {
  const remove = useChange(() => api.deleteBot(bot.id), []);
  const confirm = () =>
    remove.mutate(undefined, {
      onSuccess: () => {
        onClose();
        queryClient.removeQueries({ queryKey: keys.bots });
        router.replace('/');
      },
    });
  return (
    <TypeToConfirm
      open={open}
      title={`Delete ${bot.bot_name}?`}
      word={bot.bot_name}
      label="Delete"
      onConfirm={confirm}
      onClose={onClose}
      busy={remove.isPending}
      error={remove.error}
      testID="bot-delete"
    >
      <Text>Its memory, files and conversations are removed for good. What it has used this month stays on the bill.</Text>
    </TypeToConfirm>
  );
}
