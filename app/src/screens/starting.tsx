// The assistant comes to life: what happens now, for how long already, and what to do when it does not work.

import { useEffect, useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot } from '@/api/types';
import { overallMs, timeline, type TimelineRow } from '@/features/bots/face';
import { tookWord } from '@/features/chat/days';
import { keys, useChange } from '@/features/queries';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Card } from '@/ui/card';
import { Icon } from '@/ui/icon';
import { Column } from '@/ui/layout';
import { Brand } from '@/ui/mark';
import { Skeleton, Spinner } from '@/ui/spinner';
import { Heading, Text } from '@/ui/text';
import { useTitle } from '@/ui/title';

export function Starting({ bot }: { bot: Bot }) {
  const failed = bot.status === 'error';
  useTitle(failed ? `${bot.bot_name} needs you` : `${bot.bot_name} is starting`);
  const now = useNow(failed ? null : 200);
  const restart = useChange(() => api.restartBot(bot.id), [keys.bots]);
  return (
    <Column narrow middle testID={failed ? 'starting-failed' : 'starting'}>
      <Brand />
      <View className="gap-2" aria-live="polite">
        <Heading>{failed ? `${bot.bot_name} did not come up` : `${bot.bot_name} is starting`}</Heading>
        <Text tone="muted" testID="starting-overall">
          {failed ? 'Nothing is lost. Trying again is safe.' : `${tookWord(overallMs(bot.steps, now))} so far. The chat opens by itself.`}
        </Text>
      </View>
      <Card>{bot.steps.length ? timeline(bot.steps, now).map((row) => <StepRow key={row.key} row={row} />) : <Skeleton lines={2} />}</Card>
      {failed ? (
        <>
          <Banner kind="bad" testID="starting-reason">
            {bot.reason ?? 'It stopped for a reason that is not known.'}
          </Banner>
          {restart.error ? (
            <Banner kind="bad" testID="starting-restart-fault">
              {sentence(restart.error)}
            </Banner>
          ) : null}
          <Button
            label="Try again"
            icon="retry"
            onPress={() => restart.mutate(undefined)}
            busy={restart.isPending}
            testID="starting-retry"
          />
        </>
      ) : null}
    </Column>
  );
}

function StepRow({ row }: { row: TimelineRow }) {
  const { state } = row;
  const note = state === 'late' ? 'This takes longer than it should. It goes on trying.' : null;
  return (
    <View
      className="flex-row items-start gap-3"
      testID="starting-step"
      aria-label={`${row.sentence}, ${state}, ${tookWord(row.elapsedMs)}`}
    >
      <View className="h-6 w-6 items-center justify-center" aria-hidden>
        {state === 'done' ? <Icon name="check" color="good" /> : state === 'failed' ? <Icon name="close" color="bad" /> : <Spinner />}
      </View>
      <View className="shrink grow">
        <Text weight={state === 'done' ? 'normal' : 'medium'} tone={state === 'failed' ? 'bad' : 'ink'}>
          {row.sentence}
        </Text>
        {note ? (
          <Text size="sm" tone="warn">
            {note}
          </Text>
        ) : null}
      </View>
      <Text size="sm" tone="muted" className="shrink-0 pt-0.5 tabular-nums">
        {tookWord(row.elapsedMs)}
      </Text>
    </View>
  );
}

/** The time, moving on every `everyMs`; standing still for null. */
function useNow(everyMs: number | null): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    setNow(Date.now());
    if (everyMs === null) return undefined;
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}
