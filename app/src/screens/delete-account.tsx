// The end of an account: first what is lost, then a copy to take along, then the address to type.

import { router } from 'expo-router';
import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { User } from '@/api/types';
import { eraseMe, saveFile } from '@/features/leave';
import { useBots, useChange } from '@/features/queries';
import { Button } from '@/ui/button';
import { Card } from '@/ui/card';
import { Icon } from '@/ui/icon';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { TypeToConfirm } from './type-to-confirm';

export function DeleteAccount({ user }: { user: User }) {
  const [asking, setAsking] = useState(false);
  const erase = useChange(eraseMe, []);
  const confirm = () => erase.mutate(undefined, { onSuccess: () => router.replace('/log-in') });
  return (
    <Card title="Delete account">
      <Text tone="muted">Ends everything here, for good. You see what is lost before you confirm.</Text>
      <View className="flex-row">
        <Button kind="danger" icon="trash" label="Delete account" onPress={() => setAsking(true)} testID="account-delete" />
      </View>
      <TypeToConfirm
        open={asking}
        title="Delete your account?"
        word={user.email}
        label="Delete"
        onConfirm={confirm}
        onClose={() => setAsking(false)}
        busy={erase.isPending}
        error={erase.error}
        testID="account-delete"
      >
        <Losses />
        <View className="flex-row">
          <ExportButton label="Download my data first" testID="account-delete-export" small />
        </View>
      </TypeToConfirm>
    </Card>
  );
}

/** "Pip", "Pip and Max", "Pip, Max and Ida" */
const listOf = new Intl.ListFormat('en', { type: 'conjunction' });

function Losses() {
  const names = useBots().data?.items.map((bot) => bot.bot_name) ?? [];
  const who = names.length ? listOf.format(names) : 'Every assistant of yours';
  const losses = [
    `${who}: memory, files and every conversation, the archived ones too.`,
    'Your name, your address, your settings and your log-ins on every device.',
    'What is left of the plan.',
  ];
  return (
    <View className="gap-3">
      <Text>These are removed and nobody can bring them back:</Text>
      {losses.map((loss) => (
        <View key={loss} className="flex-row gap-3">
          <View className="pt-0.5">
            <Icon name="trash" size={18} color="bad" />
          </View>
          <Text className="shrink">{loss}</Text>
        </View>
      ))}
      <Text size="sm" tone="muted">
        The books keep what was used, under a number that leads to nobody.
      </Text>
    </View>
  );
}

/** Everything that is kept of the person, as a file. */
export function ExportButton({ label, testID, small }: { label: string; testID: string; small?: boolean }) {
  const take = useChange(api.exportMe, []);
  const save = () =>
    take.mutate(undefined, {
      onSuccess: (everything) => saveFile('molt-export.json', everything),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return <Button kind="quiet" icon="download" small={small} label={label} onPress={save} busy={take.isPending} testID={testID} />;
}
