// The plan in force, or none: until when, what it costs, and the way to begin, end or renew it.

import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { ClientConfig, User } from '@/api/types';
import { goTo } from '@/features/leave';
import { fullDate } from '@/features/chat/days';
import { useBots, useChange, useClientConfig, useMe } from '@/features/queries';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Card, Row } from '@/ui/card';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { CancelPlan, KeepPlan } from './cancel-plan';
import { Fault } from './fault';
import { Page } from './page';
import { PlanCard, useCheckout } from './plan';

export function YourPlan() {
  const me = useMe();
  const config = useClientConfig();
  const error = me.error ?? config.error;
  const again = () => void Promise.all([me.refetch(), config.refetch()]);
  return (
    <Page title="Plan" testID="your-plan">
      {error ? <Fault error={error} onRetry={again} testID="your-plan-fault" /> : null}
      {me.isPending || config.isPending ? <Skeleton lines={5} /> : null}
      {me.data && config.data ? me.data.plan?.in_force ? <InForce me={me.data} config={config.data} /> : <NotInForce me={me.data} /> : null}
    </Page>
  );
}

function InForce({ me, config }: { me: User; config: ClientConfig }) {
  const end = me.plan?.period_end;
  const ends = me.plan?.ends_at;
  return (
    <>
      {ends ? (
        <Banner kind="warn" testID="your-plan-ends">
          {`Your plan is cancelled and ends on ${fullDate(ends)}. Until then everything goes on; then your assistants are suspended and keep everything.`}
        </Banner>
      ) : (
        <Banner kind="good" testID="your-plan-in-force">
          Your plan is in force. Your assistants run and answer.
        </Banner>
      )}
      <Card title="This month">
        {me.plan?.period_start ? <Row name="Since" value={fullDate(me.plan.period_start)} /> : null}
        {end ? <Row name="Until" value={fullDate(end)} testID="your-plan-until" /> : null}
        {config.payments === 'local' ? (
          <>
            <Text size="sm" tone="muted">
              {ends ? 'This installation charges nobody.' : 'It goes on by itself each month. This installation charges nobody.'}
            </Text>
            {ends ? <KeepPlan /> : <CancelPlan ends={end} />}
          </>
        ) : (
          <Portal />
        )}
      </Card>
      <PlanCard />
    </>
  );
}

/** Where the payment provider shows invoices and cards, and ends the plan. */
function Portal() {
  const open = useChange(api.portal, []);
  const [fault, setFault] = useState<string | null>(null);
  const go = () => open.mutate(undefined, { onSuccess: ({ url }) => goTo(url), onError: (error) => setFault(sentence(error)) });
  return (
    <View className="gap-3">
      <Text tone="muted">Invoices, the card and the end of the plan are with the payment provider.</Text>
      {fault ? (
        <Banner kind="bad" testID="your-plan-portal-fault">
          {fault}
        </Banner>
      ) : null}
      <View className="flex-row">
        <Button kind="quiet" label="Manage the plan" onPress={go} busy={open.isPending} testID="your-plan-portal" />
      </View>
    </View>
  );
}

function NotInForce({ me }: { me: User }) {
  const bots = useBots();
  const waiting = bots.data?.items.find((bot) => bot.phase === 'awaiting_plan') ?? bots.data?.items[0];
  const { start, busy, fault } = useCheckout(waiting?.id ?? null);
  const ended = me.plan?.ends_at;
  return (
    <>
      <Banner kind="warn" testID="your-plan-none">
        {ended
          ? `Your plan ended on ${fullDate(ended)}. Your assistants are suspended and keep everything; they come back when it is renewed.`
          : 'No plan is in force yet. Your assistants start as soon as one is.'}
      </Banner>
      <PlanCard />
      {fault ? (
        <Banner kind="bad" testID="your-plan-checkout-fault">
          {fault}
        </Banner>
      ) : null}
      <View className="flex-row">
        <Button label={ended ? 'Renew the plan' : 'Go on to the plan'} onPress={start} busy={busy} testID="your-plan-checkout" />
      </View>
    </>
  );
}
