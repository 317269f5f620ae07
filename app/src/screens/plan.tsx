// What it costs, before anything starts.

import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot } from '@/api/types';
import { goTo } from '@/features/leave';
import { checkoutAddress } from '@/features/bots/face';
import { useClientConfig } from '@/features/queries';
import { roundUsd } from '@/features/usage/money';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Card } from '@/ui/card';
import { Icon } from '@/ui/icon';
import { Column } from '@/ui/layout';
import { Brand } from '@/ui/mark';
import { Heading, Text } from '@/ui/text';
import { useTitle } from '@/ui/title';

const points = (markup: number) => [
  'Every model call is counted when it happens. Its cost stands under the answer, exactly.',
  `Usage is what the model provider charges, plus ${markup} %. An ordinary question costs a fraction of a cent with a small model.`,
  'You set a monthly cap. When it is reached, your assistant says so and waits.',
];

/** The price, and what it means. */
export function PlanCard() {
  const config = useClientConfig();
  const plan = roundUsd(config.data?.plan_usd ?? '50').replace(/\.00$/, '');
  const markup = config.data?.markup_percent ?? 20;
  return (
    <Card>
      <View className="flex-row flex-wrap items-end gap-x-2">
        <Heading level={2} size="title" weight="heavy">
          {plan}
        </Heading>
        <Text tone="muted" className="pb-1">
          a month, plus usage at cost + {markup} %
        </Text>
      </View>
      {points(markup).map((point) => (
        <View key={point} className="flex-row gap-3">
          <View className="pt-0.5">
            <Icon name="check" color="good" />
          </View>
          <Text className="shrink">{point}</Text>
        </View>
      ))}
    </Card>
  );
}

/** Begins to buy the plan, for an assistant or for none in particular, and goes to the page where it is paid. */
export function useCheckout(botId: string | null) {
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const begin = async () => {
    setBusy(true);
    setFault(null);
    try {
      goTo(checkoutAddress((await api.checkout(botId)).url));
    } catch (error) {
      setFault(sentence(error));
      setBusy(false);
    }
  };
  return { busy, fault, start: () => void begin() };
}

export function Plan({ bot }: { bot: Bot }) {
  useTitle('The plan');
  const config = useClientConfig();
  const { busy, fault, start } = useCheckout(bot.id);
  return (
    <Column narrow testID="plan">
      <Brand />
      <View className="gap-2">
        <Heading>One plan for {bot.bot_name}</Heading>
        <Text tone="muted">A runtime, a memory and a quiet place of its own, always on.</Text>
      </View>
      <PlanCard />
      {config.data?.payments === 'local' ? (
        <Banner kind="info" testID="plan-free">
          This installation charges nobody. The next page only asks you to confirm.
        </Banner>
      ) : null}
      {fault ? (
        <Banner kind="bad" testID="plan-fault">
          {fault}
        </Banner>
      ) : null}
      <Button label="Go on to the plan" onPress={start} busy={busy} testID="plan-checkout" />
    </Column>
  );
}
