// What a person sets about an assistant, and its restart and end.

import { router, useLocalSearchParams } from 'expo-router';
import { useMemo, type ReactNode } from 'react';
import { View } from 'react-native';
import { Problem } from '@/api/problem';
import type { Bot } from '@/api/types';
import { useBot, useModels } from '@/features/queries';
import { savedWord } from '@/features/settings/draft';
import { modelOptions } from '@/features/settings/models';
import { useDraft } from '@/features/settings/use-draft';
import { allTimezones, zoneLabel } from '@/features/wizard/timezones';
import { PERSONALITIES } from '@/features/wizard/verticals';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Card } from '@/ui/card';
import { ChoiceCard, Toggle } from '@/ui/choice';
import { Field } from '@/ui/field';
import { Select } from '@/ui/select';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { EndOfLife } from './end-of-life';
import { Fault } from './fault';
import { NotFound } from './not-found';
import { Page } from './page';

export function SettingsPage() {
  const { bot: id } = useLocalSearchParams<{ bot: string }>();
  const bot = useBot(id);
  if (bot.error instanceof Problem && bot.error.status === 404) return <NotFound what="You have no assistant at this address." />;
  const fault = bot.error ? <Fault error={bot.error} onRetry={() => void bot.refetch()} testID="settings-unreachable" /> : null;
  if (bot.data) return <Form key={id} bot={bot.data} fault={fault} />;
  return (
    <Page title="Settings" testID="settings">
      {fault ?? <Skeleton lines={6} />}
    </Page>
  );
}

type Draft = ReturnType<typeof useDraft>;

function Form({ bot, fault }: { bot: Bot; fault: ReactNode }) {
  const draft = useDraft(bot);
  return (
    <Page title="Settings" testID="settings" foot={<Save draft={draft} bot={bot} />}>
      {fault}
      {bot.status === 'running' && bot.reason ? (
        <Banner kind="warn" testID="settings-undone">
          {bot.reason}
        </Banner>
      ) : null}
      <Character draft={draft} />
      <Models draft={draft} />
      <Notifications draft={draft} />
      <Web bot={bot} />
      <EndOfLife bot={bot} />
    </Page>
  );
}

function Character({ draft }: { draft: Draft }) {
  const { settings, edit } = draft;
  const zones = useMemo(
    () => allTimezones(settings.timezone).map((zone) => ({ value: zone, label: zoneLabel(zone, new Date()) })),
    [settings.timezone],
  );
  return (
    <Card title="Character">
      <Field
        label="Name"
        testID="settings-name"
        value={settings.bot_name}
        onChangeText={(bot_name) => edit({ bot_name })}
        fault={draft.fault?.field === 'bot_name' ? draft.fault.text : null}
      />
      <View className="gap-1.5">
        <Text size="sm" weight="bold">
          Personality
        </Text>
        <View role="radiogroup" aria-label="Personality" className="gap-2">
          {PERSONALITIES.map(({ id, title, line }) => (
            <ChoiceCard
              key={id}
              title={title}
              line={line}
              chosen={settings.personality === id}
              onPress={() => edit({ personality: id })}
              testID={`settings-personality-${id}`}
            />
          ))}
        </View>
      </View>
      <Select
        label="Time zone"
        testID="settings-timezone"
        value={settings.timezone}
        options={zones}
        onChange={(timezone) => edit({ timezone })}
      />
    </Card>
  );
}

/** Stands for "no fallback" among the options. */
const NONE = '';

function Models({ draft: { settings, edit } }: { draft: Draft }) {
  const models = useModels();
  const options = modelOptions(models.data?.items ?? []);
  return (
    <Card title="Models">
      {models.error ? <Fault error={models.error} onRetry={() => void models.refetch()} testID="settings-models-fault" /> : null}
      <Select
        label="Model"
        testID="settings-model"
        value={settings.default_model}
        options={options}
        onChange={(default_model) => edit({ default_model })}
        help="Answers your messages. Prices are the provider’s; 20 % is added."
      />
      <Select
        label="Fallback"
        testID="settings-fallback"
        value={settings.fallback_model ?? NONE}
        options={[{ value: NONE, label: 'None' }, ...options]}
        onChange={(model) => edit({ fallback_model: model === NONE ? null : model })}
        help="Steps in when the first one does not answer."
      />
    </Card>
  );
}

function Notifications({ draft }: { draft: Draft }) {
  const { notifications } = draft.settings;
  const edit = (change: Partial<typeof notifications>) => draft.edit({ notifications: { ...notifications, ...change } });
  const summary = notifications.daily_summary_at;
  return (
    <Card title="Notifications">
      <Toggle label="By e-mail" on={notifications.email} onChange={(email) => edit({ email })} testID="settings-notify-email" />
      <Toggle label="On my phone" on={notifications.push} onChange={(push) => edit({ push })} testID="settings-notify-push" />
      <Toggle
        label="A daily summary"
        line="Your assistant writes it by itself, so it costs a little each day."
        on={summary !== null}
        onChange={(on) => edit({ daily_summary_at: on ? '09:00' : null })}
        testID="settings-summary"
      />
      {summary !== null ? (
        <Field
          label="At"
          testID="settings-summary-at"
          value={summary}
          onChangeText={(daily_summary_at) => edit({ daily_summary_at })}
          fault={draft.fault?.field === 'notifications.daily_summary_at' ? draft.fault.text : null}
          help="Hours and minutes in the assistant’s time zone, such as 09:00."
        />
      ) : null}
    </Card>
  );
}

function Web({ bot }: { bot: Bot }) {
  return (
    <Card title="Places on the web">
      <Text tone="muted">What {bot.bot_name} may reach besides its models, and what it was refused.</Text>
      <View className="flex-row">
        <Button
          small
          kind="quiet"
          icon="shield"
          label="Open"
          hint="Open the places on the web"
          onPress={() => router.push({ pathname: '/bots/[bot]/egress', params: { bot: bot.id } })}
          testID="settings-to-egress"
        />
      </View>
    </Card>
  );
}

function Save({ draft, bot }: { draft: Draft; bot: Bot }) {
  const { dirty, saving, fault, overtaken } = draft;
  const live = savedWord(draft.revision, bot.applied_revision) === 'live';
  return (
    <>
      {overtaken ? (
        <Banner kind="warn" testID="settings-overtaken">
          These settings were changed elsewhere meanwhile. The newest are loaded, with your own changes on top. Look, then save again.
        </Banner>
      ) : null}
      {fault ? (
        <Banner kind="bad" testID="settings-fault">
          {fault.text}
        </Banner>
      ) : null}
      <View className="flex-row items-center gap-3">
        <Button label="Save" onPress={() => void draft.save()} busy={saving} disabled={!dirty} testID="settings-save" />
        {dirty ? <Button kind="plain" label="Undo" onPress={draft.reset} testID="settings-undo" /> : null}
        <Text size="sm" tone={dirty || !live ? 'muted' : 'good'} testID="settings-state" role="status">
          {dirty ? 'Not saved yet' : live ? 'Live' : 'Saved. It goes live in a moment.'}
        </Text>
      </View>
    </>
  );
}
