// The side panel: which assistant, which conversation, and the ways to the other pages.

import { router } from 'expo-router';
import { useState } from 'react';
import { Pressable, ScrollView, View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot, Conversation } from '@/api/types';
import { archived, conversationTitle, listed } from '@/features/chat/conversations';
import { keys, useBots, useChange, useConversations } from '@/features/queries';
import { Button, IconButton } from '@/ui/button';
import { Icon, type IconName } from '@/ui/icon';
import { Mark } from '@/ui/mark';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { Fault } from '../fault';
import { ChangeConversation, DeleteConversation } from './conversation-dialogs';

export interface SidebarProps {
  bot: Bot;
  current: string;
  onChoose: (conversation: string) => void;
  onArchived: (conversation: string) => void;
  onDeleted: (conversation: string) => void;
}

export function Sidebar({ bot, current, onChoose, onArchived, onDeleted }: SidebarProps) {
  const create = useChange(() => api.createConversation(bot.id), [keys.conversations(bot.id)]);
  const begin = () =>
    create.mutateAsync(undefined).then(
      (made) => onChoose(made.id),
      (error: unknown) => toast(sentence(error), 'bad'),
    );
  return (
    <View className="flex-1 gap-3 bg-sunken p-3" role="navigation" aria-label="Conversations">
      <Assistants bot={bot} />
      <Button
        small
        kind="quiet"
        icon="plus"
        label="New conversation"
        onPress={() => void begin()}
        busy={create.isPending}
        testID="conversation-new"
      />
      <Conversations {...{ bot, current, onChoose, onArchived, onDeleted }} />
      <View className="border-t border-line pt-2">
        <Way icon="chart" label="Usage" testID="nav-usage" onPress={() => router.push('/usage')} />
        <Way
          icon="sliders"
          label="Settings"
          testID="nav-settings"
          onPress={() => router.push({ pathname: '/bots/[bot]/settings', params: { bot: bot.id } })}
        />
        <Way icon="person" label="Account" testID="nav-account" onPress={() => router.push('/account')} />
      </View>
    </View>
  );
}

function Assistants({ bot }: { bot: Bot }) {
  const others = useBots().data?.items.filter((other) => other.id !== bot.id) ?? [];
  return (
    <View>
      <View className="flex-row items-center gap-2 px-2 py-1">
        <Mark size={24} />
        <Text weight="bold" className="shrink" numberOfLines={1} testID="bot-name">
          {bot.bot_name}
        </Text>
      </View>
      {others.map((other) => (
        <Way
          key={other.id}
          icon="right"
          label={other.bot_name}
          testID={`bot-${other.id}`}
          onPress={() => router.replace({ pathname: '/bots/[bot]', params: { bot: other.id } })}
        />
      ))}
    </View>
  );
}

function Conversations({ bot, current, onChoose, onArchived, onDeleted }: SidebarProps) {
  const list = useConversations(bot.id);
  const [changing, setChanging] = useState<Conversation | null>(null);
  const [deleting, setDeleting] = useState<Conversation | null>(null);
  const away = archived(list.data?.items ?? []).length;
  return (
    <ScrollView className="-mx-1 flex-1" contentContainerClassName="gap-0.5 p-1">
      {list.isPending ? <Skeleton lines={3} /> : null}
      {list.error ? <Fault error={list.error} onRetry={() => void list.refetch()} testID="conversations-fault" /> : null}
      {list.data
        ? listed(list.data.items).map((conversation) => (
            <ConversationRow
              key={conversation.id}
              conversation={conversation}
              current={conversation.id === current}
              onPress={() => onChoose(conversation.id)}
              onChange={() => setChanging(conversation)}
            />
          ))
        : null}
      {away ? (
        <Way
          icon="archive"
          label={`Archived (${away})`}
          testID="nav-archived"
          onPress={() => router.push({ pathname: '/bots/[bot]/archived', params: { bot: bot.id } })}
        />
      ) : null}
      <ChangeConversation
        botId={bot.id}
        conversation={changing}
        onClose={() => setChanging(null)}
        onArchived={onArchived}
        onDelete={(conversation) => (setChanging(null), setDeleting(conversation))}
      />
      <DeleteConversation botId={bot.id} conversation={deleting} onClose={() => setDeleting(null)} onDeleted={onDeleted} />
    </ScrollView>
  );
}

function ConversationRow({
  conversation,
  current,
  onPress,
  onChange,
}: {
  conversation: Conversation;
  current: boolean;
  onPress: () => void;
  onChange: () => void;
}) {
  const title = conversationTitle(conversation);
  return (
    <View className={`flex-row items-center rounded-xl ${current ? 'bg-surface' : ''}`}>
      <Pressable
        testID={`conversation-${conversation.id}`}
        role="link"
        aria-current={current ? 'page' : undefined}
        aria-label={title}
        onPress={onPress}
        className="min-h-11 shrink grow basis-0 justify-center rounded-xl px-3 hover:bg-surface"
      >
        <Text size="sm" weight={current ? 'bold' : 'normal'} numberOfLines={1}>
          {title}
        </Text>
      </Pressable>
      {current ? <IconButton icon="more" label={`Change ${title}`} onPress={onChange} testID="conversation-more" /> : null}
    </View>
  );
}

function Way({ icon, label, onPress, testID }: { icon: IconName; label: string; onPress: () => void; testID: string }) {
  return (
    <Pressable
      testID={testID}
      role="link"
      aria-label={label}
      onPress={onPress}
      className="min-h-11 flex-row items-center gap-3 rounded-xl px-3 hover:bg-surface"
    >
      <Icon name={icon} color="muted" />
      <Text size="sm" weight="medium">
        {label}
      </Text>
    </Pressable>
  );
}
