// What this month costs so far: totals, days, models, and the cap.

import { View } from 'react-native';
import type { Usage } from '@/api/types';
import { useUsage } from '@/features/queries';
import { count, exactUsd, roundUsd } from '@/features/usage/money';
import { Card, Row } from '@/ui/card';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { Fault } from './fault';
import { Page } from './page';
import { CapCard } from './usage-cap';
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
          <CapCard usage={usage.data} />
          <Card title="By day">
            <DayChart usage={usage.data} />
          </Card>
          <ByModel usage={usage.data} />
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
      <View className="flex-row flex-wrap items-end gap-x-2">
        <Text size="title" weight="heavy" className="tabular-nums" testID="usage-total" aria-label={`Total ${exactUsd(usage.total_usd)}`}>
          {roundUsd(usage.total_usd)}
        </Text>
        <Text tone="muted" className="pb-1">
          so far
        </Text>
      </View>
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
              {count(row.calls)} {row.calls === 1 ? 'call' : 'calls'} · {count(row.tokens_in)} in · {count(row.tokens_out)} out
            </Text>
          </View>
          <Text className="tabular-nums">{exactUsd(row.cost_usd)}</Text>
        </View>
      ))}
    </Card>
  );
}
