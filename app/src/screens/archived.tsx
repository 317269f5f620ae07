// Conversations that were put away: read one, bring it back, or delete it.

import { router, useLocalSearchParams } from 'expo-router';
import { useState } from 'react';
import { Pressable, View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Conversation } from '@/api/types';
import { archived, conversationTitle } from '@/features/chat/conversations';
import { fullDate } from '@/features/chat/days';
import { keys, useChange, useConversations } from '@/features/queries';
import { Button, IconButton } from '@/ui/button';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { DeleteConversation } from './chat/conversation-dialogs';
import { Fault } from './fault';
import { Page } from './page';

export function ArchivedPage() {
  const { bot } = useLocalSearchParams<{ bot: string }>();
  const list = useConversations(bot);
  const [deleting, setDeleting] = useState<Conversation | null>(null);
  const put = list.data ? archived(list.data.items) : [];
  return (
    <Page title="Archived conversations" testID="archived">
      {list.isPending ? <Skeleton lines={4} /> : null}
      {list.error ? <Fault error={list.error} onRetry={() => void list.refetch()} testID="archived-fault" /> : null}
      {list.data && put.length === 0 ? (
        <View className="items-center gap-2 py-12" testID="archived-empty">
          <Text weight="bold">Nothing is archived</Text>
          <Text tone="muted" className="text-center">
            What you archive leaves the side panel and waits here. Your assistant forgets nothing by it.
          </Text>
        </View>
      ) : null}
      {put.length ? (
        <View role="list" className="rounded-2xl border border-line bg-surface">
          {put.map((conversation, index) => (
            <ArchivedRow
              key={conversation.id}
              bot={bot}
              conversation={conversation}
              first={index === 0}
              onDelete={() => setDeleting(conversation)}
            />
          ))}
        </View>
      ) : null}
      <DeleteConversation botId={bot} conversation={deleting} onClose={() => setDeleting(null)} onDeleted={() => toast('Deleted.')} />
    </Page>
  );
}

function ArchivedRow({
  bot,
  conversation,
  first,
  onDelete,
}: {
  bot: string;
  conversation: Conversation;
  first: boolean;
  onDelete: () => void;
}) {
  const { id } = conversation;
  const title = conversationTitle(conversation);
  const restore = useChange(() => api.changeConversation(bot, id, { archived: false }), [keys.conversations(bot)]);
  const back = () =>
    restore.mutate(undefined, {
      onSuccess: () => toast('It is back in the side panel.'),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return (
    <View role="listitem" className={`flex-row flex-wrap items-center gap-x-2 px-3 py-2 ${first ? '' : 'border-t border-line'}`}>
      <Pressable
        testID={`archived-${id}`}
        role="link"
        onPress={() => router.push({ pathname: '/bots/[bot]', params: { bot, c: id } })}
        className="min-h-12 min-w-56 shrink grow basis-0 justify-center rounded-xl px-2 py-1 hover:bg-sunken"
      >
        <Text numberOfLines={2}>{title}</Text>
        <Text size="sm" tone="muted">
          {fullDate(conversation.updated_at)}
        </Text>
      </Pressable>
      <View className="ml-auto flex-row items-center gap-2">
        <Button
          small
          kind="quiet"
          label="Bring back"
          hint={`Bring back ${title}`}
          onPress={back}
          busy={restore.isPending}
          testID={`archived-restore-${id}`}
        />
        <IconButton icon="trash" label={`Delete ${title}`} onPress={onDelete} testID={`archived-delete-${id}`} />
      </View>
    </View>
  );
}
