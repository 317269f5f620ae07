// What can be done with a conversation: a new name, away with it, or its end.

import { useEffect, useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Conversation } from '@/api/types';
import { conversationTitle } from '@/features/chat/conversations';
import { keys, useChange } from '@/features/queries';
import { Button } from '@/ui/button';
import { Dialog } from '@/ui/dialog';
import { Field } from '@/ui/field';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';

interface Props {
  botId: string;
  conversation: Conversation | null;
  onClose: () => void;
}

export interface ChangeProps extends Props {
  onArchived: (id: string) => void;
  onDelete: (conversation: Conversation) => void;
}

/** Name, archive, delete. The main conversation has only a name: it stays as long as the assistant. */
export function ChangeConversation({ botId, conversation, onClose, onArchived, onDelete }: ChangeProps) {
  const id = conversation?.id ?? '';
  const before = conversation ? conversationTitle(conversation) : '';
  const [title, setTitle] = useState('');
  const stale = [keys.conversations(botId)];
  const rename = useChange((next: string) => api.changeConversation(botId, id, { title: next }), stale);
  const archive = useChange(() => api.changeConversation(botId, id, { archived: true }), stale);
  useEffect(() => setTitle(before), [id, before]);
  const save = () => rename.mutate(title.trim(), { onSuccess: onClose });
  const away = () =>
    archive.mutate(undefined, {
      onSuccess: () => (onClose(), onArchived(id), toast('Archived. It waits under “Archived”.')),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return (
    <Dialog open={conversation !== null} title="Conversation" onClose={onClose} testID="conversation-dialog">
      <Field
        label="Title"
        testID="conversation-title"
        value={title}
        onChangeText={setTitle}
        onSubmitEditing={save}
        fault={rename.error ? sentence(rename.error) : null}
        autoFocus
        selectTextOnFocus
      />
      <Button
        label="Save the title"
        onPress={save}
        busy={rename.isPending}
        disabled={!title.trim() || title.trim() === before}
        testID="conversation-title-save"
      />
      {conversation && id !== 'main' ? (
        <View className="flex-row gap-3 border-t border-line pt-4">
          <Button kind="quiet" icon="archive" label="Archive" onPress={away} busy={archive.isPending} testID="conversation-archive" grow />
          <Button kind="danger" icon="trash" label="Delete" onPress={() => onDelete(conversation)} testID="conversation-delete" grow />
        </View>
      ) : null}
    </Dialog>
  );
}

export function DeleteConversation({ botId, conversation, onClose, onDeleted }: Props & { onDeleted: (id: string) => void }) {
  const remove = useChange((id: string) => api.deleteConversation(botId, id), [keys.conversations(botId)]);
  const confirm = () => {
    if (!conversation) return;
    const { id } = conversation;
    remove.mutate(id, { onSuccess: () => (onClose(), onDeleted(id)) });
  };
  return (
    <Dialog open={conversation !== null} title="Delete this conversation?" onClose={onClose} testID="conversation-delete-dialog">
      <Text>“{conversation ? conversationTitle(conversation) : ''}” goes for good. What your assistant wrote into its memory stays.</Text>
      {remove.error ? <Text tone="bad">{sentence(remove.error)}</Text> : null}
      <View className="flex-row gap-3">
        <Button kind="quiet" label="Keep it" onPress={onClose} testID="conversation-delete-cancel" grow />
        <Button kind="danger" label="Delete" onPress={confirm} busy={remove.isPending} testID="conversation-delete-confirm" grow />
      </View>
    </Dialog>
  );
}
