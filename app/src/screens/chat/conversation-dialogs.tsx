// A new name for a conversation, or its end.

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

interface Props {
  botId: string;
  conversation: Conversation | null;
  onClose: () => void;
}

export function RenameConversation({ botId, conversation, onClose }: Props) {
  const [title, setTitle] = useState('');
  const rename = useChange((next: string) => api.renameConversation(botId, conversation?.id ?? '', next), [keys.conversations(botId)]);
  useEffect(() => setTitle(conversation ? conversationTitle(conversation) : ''), [conversation]);
  const save = () => void rename.mutateAsync(title.trim()).then(onClose, () => undefined);
  return (
    <Dialog open={conversation !== null} title="Rename" onClose={onClose} testID="conversation-rename-dialog">
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
      <Button label="Save" onPress={save} busy={rename.isPending} disabled={!title.trim()} testID="conversation-title-save" />
    </Dialog>
  );
}

export function DeleteConversation({ botId, conversation, onClose, onDeleted }: Props & { onDeleted: (id: string) => void }) {
  const remove = useChange((id: string) => api.deleteConversation(botId, id), [keys.conversations(botId)]);
  const confirm = () => {
    if (!conversation) return;
    const { id } = conversation;
    void remove.mutateAsync(id).then(
      () => (onClose(), onDeleted(id)),
      () => undefined,
    );
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
