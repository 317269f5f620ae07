// The parts of a turn beside its text: thinking, tools, memory, approvals.
// Never: louder than the answer; they stay folded until somebody wants to know.

import { useState, type ReactNode } from 'react';
import { Pressable, ScrollView, View } from 'react-native';
import type { Decision } from '@/features/chat/frames';
import { detail, toolTitle } from '@/features/chat/toolwords';
import type { Block } from '@/features/chat/turns';
import { Button } from '@/ui/button';
import { Icon, type IconName } from '@/ui/icon';
import { Spinner } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { Markdown } from './prose';

export function BlockView({ block, onDecide }: { block: Block; onDecide: (id: string, decision: Decision) => void }) {
  switch (block.kind) {
    case 'text':
      return (
        <View testID={block.streaming ? 'message-streaming' : 'message-assistant'}>
          <Markdown text={block.text} />
        </View>
      );
    case 'thinking':
      return (
        <Fold icon="thought" title={block.streaming ? 'Thinking…' : 'Thought about it'} testID="thinking">
          <Text size="sm" tone="muted" selectable>
            {block.text}
          </Text>
        </Fold>
      );
    case 'tool':
      return <Tool block={block} />;
    case 'memory':
      return <Quiet icon="file" text={block.sentence} testID="memory" />;
    case 'note':
      return <Quiet icon="retry" text={block.sentence} testID="note" />;
    case 'approval':
      return <Approval block={block} onDecide={onDecide} />;
  }
}

export function Quiet({ icon, text, testID }: { icon: IconName; text: string; testID: string }) {
  return (
    <View className="flex-row items-center gap-2" testID={testID}>
      <Icon name={icon} size={16} color="muted" />
      <Text size="sm" tone="muted" className="shrink">
        {text}
      </Text>
    </View>
  );
}

function Fold({
  icon,
  title,
  note,
  testID,
  busy,
  bad,
  children,
}: {
  icon: IconName;
  title: string;
  note?: string;
  testID: string;
  busy?: boolean;
  bad?: boolean;
  children: ReactNode;
}) {
  const [open, setOpen] = useState(false);
  return (
    <View className={`max-w-full rounded-xl border bg-surface ${open ? '' : 'self-start'} ${bad ? 'border-bad' : 'border-line'}`}>
      <Pressable
        testID={testID}
        role="button"
        aria-expanded={open}
        aria-label={note ? `${title} ${note}` : title}
        onPress={() => setOpen(!open)}
        className="min-h-10 flex-row items-center gap-2 rounded-xl px-3 py-2 hover:bg-sunken"
      >
        {busy ? <Spinner /> : <Icon name={icon} size={16} color={bad ? 'bad' : 'muted'} />}
        <Text size="sm" tone={bad ? 'bad' : 'muted'} className="shrink" numberOfLines={1}>
          {title}
        </Text>
        {note ? (
          <Text size="xs" tone="muted" className="rounded-md bg-sunken px-1.5 py-0.5">
            {note}
          </Text>
        ) : null}
        <View className="ml-auto">
          <Icon name={open ? 'down' : 'right'} size={14} color="muted" />
        </View>
      </Pressable>
      {open ? <View className="gap-3 border-t border-line px-3 py-3">{children}</View> : null}
    </View>
  );
}

function Tool({ block }: { block: Extract<Block, { kind: 'tool' }> }) {
  const running = block.state === 'running';
  const title = toolTitle(block.tool, block.args, running);
  const failed = block.state === 'failed';
  return (
    <Fold
      icon={block.memory ? 'file' : 'tool'}
      title={failed ? `${title}: did not work` : title}
      note={block.memory ? 'memory' : undefined}
      testID="tool-card"
      busy={running}
      bad={failed}
    >
      <Detail name="Asked with" value={block.args} />
      <Detail name={failed ? 'It answered' : 'Result'} value={block.result} />
      <Text size="xs" tone="muted" mono>
        {block.tool}
      </Text>
    </Fold>
  );
}

function Detail({ name, value }: { name: string; value: unknown }) {
  const text = detail(value);
  if (!text) return null;
  return (
    <View className="gap-1">
      <Text size="xs" weight="bold" tone="muted">
        {name}
      </Text>
      <ScrollView className="max-h-64 rounded-lg bg-sunken" contentContainerClassName="px-3 py-2" tabIndex={0}>
        <Text size="xs" mono selectable>
          {text}
        </Text>
      </ScrollView>
    </View>
  );
}

const DECIDED: Record<Decision | 'closed', string> = {
  once: 'You allowed this once.',
  always: 'You allowed this always.',
  no: 'You did not allow this.',
  closed: 'This question is closed.',
};

function Approval({
  block,
  onDecide,
}: {
  block: Extract<Block, { kind: 'approval' }>;
  onDecide: (id: string, decision: Decision) => void;
}) {
  const decide = (decision: Decision) => onDecide(block.id, decision);
  if (block.decision)
    return (
      <Quiet icon="shield" text={`${toolTitle(block.tool, block.args, true)}. ${DECIDED[block.decision]}`} testID="approval-decided" />
    );
  return (
    <View
      testID="approval"
      role="group"
      aria-label="Your permission is needed"
      className="gap-3 rounded-xl border-2 border-accent bg-surface p-4"
    >
      <View className="flex-row items-center gap-2">
        <Icon name="shield" color="accent-ink" />
        <Text weight="bold" className="shrink">
          May I? {toolTitle(block.tool, block.args, true)}
        </Text>
      </View>
      <Detail name="Exactly this" value={block.args} />
      <View className="flex-row flex-wrap gap-2">
        <Button small label="Allow once" onPress={() => decide('once')} testID="approve-once" />
        <Button small kind="quiet" label="Always allow" onPress={() => decide('always')} testID="approve-always" />
        <Button small kind="danger" label="Don’t allow" onPress={() => decide('no')} testID="approve-no" />
      </View>
    </View>
  );
}
