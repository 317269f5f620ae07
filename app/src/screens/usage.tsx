// What this month costs so far: totals, days, models, and the cap.

import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Usage } from '@/api/types';
import { keys, useChange, useUsage } from '@/features/queries';
import { count, exactUsd, roundUsd, typedUsd } from '@/features/usage/money';
import { Button } from '@/ui/button';
import { Card, Row } from '@/ui/card';
import { Field } from '@/ui/field';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { Fault } from './fault';
import { Page } from './page';
import { DayChart } from './usage-chart';

export function UsagePage() {
  const usage = useUsage();
  return (
    <Page title="Usage" testID="usage">
      {usage.error ? <Fault error={usage.error} onRetry={() => void usage.refetch()} testID="usage-fault" /> : null}
      {usage.isPending ? <Skeleton lines={6} /> : null}
      {usage.data ? (
        <>
          <Totals usage={usage.data} />
          <Card title="By day">
            <DayChart usage={usage.data} />
          </Card>
          <ByModel usage={usage.data} />
          <Cap usage={usage.data} />
        </>
      ) : null}
    </Page>
  );
}

/** The last day of the period: its end is the first moment that is no longer in it. */
const lastDay = (end: string) => new Date(Date.parse(end) - 1).toISOString();
const date = (at: string) => new Date(at).toLocaleDateString(undefined, { day: 'numeric', month: 'long', timeZone: 'UTC' });

function Totals({ usage }: { usage: Usage }) {
  return (
    <Card>
      <Text size="sm" tone="muted">
        {date(usage.period_start)} to {date(lastDay(usage.period_end))}
      </Text>
      <Text size="title" weight="heavy" className="tabular-nums" testID="usage-total" aria-label={`Total ${exactUsd(usage.total_usd)}`}>
        {roundUsd(usage.total_usd)}
      </Text>
      <Row name="The plan" value={roundUsd(usage.base_usd)} testID="usage-base" />
      <Row name="Usage, the 20 % included" value={exactUsd(usage.usage_usd)} testID="usage-usage" />
      <Row name="Tokens in" value={count(usage.tokens_in)} testID="usage-tokens-in" />
      <Row name="Tokens out" value={count(usage.tokens_out)} testID="usage-tokens-out" />
    </Card>
  );
}

function ByModel({ usage }: { usage: Usage }) {
  return (
    <Card title="By model">
      {usage.by_model.length === 0 ? <Text tone="muted">Nothing yet. The first answer will be here.</Text> : null}
      {usage.by_model.map((row) => (
        <View key={row.model} className="flex-row items-start justify-between gap-4" testID="usage-model">
          <View className="shrink">
            <Text>{row.model}</Text>
            <Text size="sm" tone="muted">
              {count(row.tokens_in)} in · {count(row.tokens_out)} out
            </Text>
          </View>
          <Text className="tabular-nums">{exactUsd(row.cost_usd)}</Text>
        </View>
      ))}
    </Card>
  );
}

function Cap({ usage }: { usage: Usage }) {
  const [typed, setTyped] = useState(exactUsd(usage.cap_usd).slice(1));
  const [wrong, setWrong] = useState<string | null>(null);
  const change = useChange(api.setCap, [keys.usage]);
  const save = () => {
    const cap = typedUsd(typed);
    setWrong(cap === null ? 'Write an amount such as 20 or 12.50.' : null);
    if (cap !== null) change.mutate(cap, { onSuccess: () => toast('The cap is set.') });
  };
  return (
    <Card title="Monthly cap on usage">
      <Text tone="muted">
        When usage reaches it, your assistant says so and waits until you raise it or the month ends. The highest possible here is{' '}
        {roundUsd(usage.cap_max_usd)}.
      </Text>
      <Field
        label="Dollars a month"
        testID="usage-cap"
        value={typed}
        onChangeText={setTyped}
        onSubmitEditing={save}
        inputMode="decimal"
        fault={wrong ?? (change.error ? sentence(change.error) : null)}
      />
      <View className="flex-row">
        <Button label="Set the cap" onPress={save} busy={change.isPending} testID="usage-cap-save" />
      </View>
    </Card>
  );
}
