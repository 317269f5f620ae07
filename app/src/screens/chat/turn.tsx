// One turn: what the person said, what came of it, what it cost, and what to do when it failed.

import { memo } from 'react';
import { View } from 'react-native';
import { tookWord } from '@/features/chat/days';
import type { Decision } from '@/features/chat/frames';
import type { Turn, TurnUsage } from '@/features/chat/turns';
import { count, exactUsd } from '@/features/usage/money';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Spinner } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { BlockView, Quiet } from './blocks';
import { CopyButton } from './prose';

export interface TurnActions {
  retry: (turn: Turn) => void;
  withdraw: (turn: Turn) => void;
  decide: (approvalId: string, decision: Decision) => void;
}

export const TurnView = memo(function TurnView({ turn, actions, botName }: { turn: Turn; actions: TurnActions; botName: string }) {
  const waiting = turn.blocks.length === 0 && turn.state === 'running';
  const answer = turn.blocks.flatMap((block) => (block.kind === 'text' ? [block.text] : [])).join('\n\n');
  return (
    <View className="gap-3" testID="turn" {...{ dataSet: { state: turn.state } }}>
      {turn.question !== null ? (
        <View className="max-w-[85%] self-end rounded-2xl rounded-br-md bg-accent-soft px-4 py-2.5" testID="message-user">
          <Text selectable aria-label={`You: ${turn.question}`}>
            {turn.question}
          </Text>
        </View>
      ) : null}
      {turn.state === 'waiting' ? (
        <View className="self-end">
          <Quiet icon="clock" text="Waits to be sent" testID="message-waiting" />
        </View>
      ) : null}
      {turn.blocks.map((block) => (
        <BlockView key={block.key} block={block} onDecide={actions.decide} />
      ))}
      {waiting ? (
        <View className="flex-row items-center gap-3" testID="turn-working" role="status">
          <Spinner />
          <Text size="sm" tone="muted">
            {botName} is on it…
          </Text>
        </View>
      ) : null}
      {turn.state === 'aborted' ? <Quiet icon="stop" text="Stopped" testID="turn-stopped" /> : null}
      {turn.state === 'failed' ? <Failed turn={turn} actions={actions} /> : null}
      {turn.state !== 'running' && (turn.usage || answer) ? <Foot usage={turn.usage} answer={answer} /> : null}
    </View>
  );
});

function Failed({ turn, actions }: { turn: Turn; actions: TurnActions }) {
  return (
    <View className="gap-2">
      <Banner kind="bad" testID="turn-failed">
        {turn.reason ?? 'This turn could not be finished.'}
      </Banner>
      <View className="flex-row gap-2">
        {turn.question ? (
          <Button small kind="quiet" icon="retry" label="Try again" onPress={() => actions.retry(turn)} testID="turn-retry" />
        ) : null}
        {turn.outgoing?.refused ? (
          <Button small kind="plain" icon="trash" label="Discard" onPress={() => actions.withdraw(turn)} testID="turn-discard" />
        ) : null}
      </View>
    </View>
  );
}

function Foot({ usage, answer }: { usage: TurnUsage | null; answer: string }) {
  return (
    <View className="flex-row flex-wrap items-center gap-x-5">
      {usage ? (
        <Text
          size="xs"
          tone="muted"
          className="tabular-nums"
          testID="usage-line"
          aria-label={`Used ${count(usage.tokensIn)} tokens in, ${count(usage.tokensOut)} out, ${usage.models.join(', ')}, ${tookWord(usage.durationMs)}, ${exactUsd(usage.costUsd)}`}
        >
          {count(usage.tokensIn)} in · {count(usage.tokensOut)} out · {usage.models.join(', ')} · {tookWord(usage.durationMs)} ·{' '}
          <Text size="xs" weight="bold" tone="muted" testID="usage-cost">
            {exactUsd(usage.costUsd)}
          </Text>
        </Text>
      ) : null}
      {answer ? (
        <View className="-ml-3">
          <CopyButton text={answer} testID="copy-answer" />
        </View>
      ) : null}
    </View>
  );
}
