// The person: name, assistants, plan, their data, the way out.

import { router } from 'expo-router';
import { useState } from 'react';
import { View } from 'react-native';
import { api, session } from '@/api/client';
import { sentence } from '@/api/problem';
import { fullDate } from '@/features/chat/days';
import { logOut } from '@/features/leave';
import { useBots, useChange, useClientConfig, useMe } from '@/features/queries';
import { useSession } from '@/features/session/use-session';
import { Button } from '@/ui/button';
import { Card, Row } from '@/ui/card';
import { Field } from '@/ui/field';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { DeleteAccount, ExportButton } from './delete-account';
import { Page } from './page';

export function Account() {
  const state = useSession();
  if (state.status !== 'signed-in') return null;
  return (
    <Page title="Account" testID="account">
      <You name={state.user.name ?? ''} email={state.user.email} />
      <Assistants />
      <PlanLine />
      <Data />
      <DeleteAccount user={state.user} />
    </Page>
  );
}

function You({ name, email }: { name: string; email: string }) {
  const [edited, setEdited] = useState(name);
  const change = useChange(api.changeMe, []);
  const save = () => change.mutate({ name: edited.trim() }, { onSuccess: (user) => (session.update(user), toast('Saved.')) });
  return (
    <Card title="You">
      <Row name="E-mail" value={email} testID="account-email" />
      <Field
        label="Name"
        testID="account-name"
        value={edited}
        onChangeText={setEdited}
        onSubmitEditing={save}
        fault={change.error ? sentence(change.error) : null}
      />
      <View className="flex-row gap-3">
        <Button
          label="Save"
          onPress={save}
          busy={change.isPending}
          disabled={!edited.trim() || edited.trim() === name}
          testID="account-save"
        />
        <LogOut />
      </View>
    </Card>
  );
}

function LogOut() {
  const leave = useChange(logOut, []);
  const go = () =>
    leave.mutate(undefined, {
      onSuccess: () => router.replace('/log-in'),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return <Button kind="quiet" icon="leave" label="Log out" onPress={go} busy={leave.isPending} testID="account-log-out" />;
}

function Assistants() {
  const bots = useBots();
  const limit = useClientConfig().data?.bots_per_user ?? 1;
  const full = (bots.data?.items.length ?? 0) >= limit;
  return (
    <Card title="Assistants">
      {bots.data?.items.map((bot) => (
        <View key={bot.id} className="flex-row items-center justify-between gap-3">
          <Text className="shrink">{bot.bot_name}</Text>
          <Button
            small
            kind="quiet"
            label="Open"
            hint={`Open ${bot.bot_name}`}
            onPress={() => router.push({ pathname: '/bots/[bot]', params: { bot: bot.id } })}
            testID={`account-bot-${bot.id}`}
          />
        </View>
      ))}
      {full ? (
        <Text size="sm" tone="muted">
          This installation allows {limit === 1 ? 'one assistant' : `${limit} assistants`} a person.
        </Text>
      ) : (
        <View className="flex-row">
          <Button small kind="quiet" icon="plus" label="Another assistant" onPress={() => router.push('/new')} testID="account-new-bot" />
        </View>
      )}
    </Card>
  );
}

function PlanLine() {
  const plan = useMe().data?.plan;
  return (
    <Card title="Plan">
      <View className="flex-row items-center justify-between gap-3">
        <Text className="shrink" testID="account-plan">
          {plan?.in_force ? (plan.period_end ? `In force until ${fullDate(plan.period_end)}` : 'In force') : 'None in force'}
        </Text>
        <Button small kind="quiet" label="Open" hint="Open the plan" onPress={() => router.push('/plan')} testID="account-to-plan" />
      </View>
    </Card>
  );
}

function Data() {
  return (
    <Card title="Your data">
      <Text tone="muted">Everything that is kept about you, in one file.</Text>
      <View className="flex-row">
        <ExportButton label="Download" testID="account-export" />
      </View>
    </Card>
  );
}
