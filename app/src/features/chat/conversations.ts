// The names of conversations, and which of them the side panel shows.
// Never: a title made here; the server names a conversation after its first message.

import type { Conversation } from '@/api/types';

export function conversationTitle({ id, title }: Pick<Conversation, 'id' | 'title'>): string {
  return title.trim() || (id === 'main' ? 'First conversation' : 'New conversation');
}

const main: Conversation = { id: 'main', title: '', archived: false, created_at: '', updated_at: '' };

/** The default conversation is there even before the server lists it; put-away ones are not. */
export function listed(items: readonly Conversation[]): readonly Conversation[] {
  const shown = items.filter(({ archived }) => !archived);
  return items.some(({ id }) => id === 'main') ? shown : [...shown, main];
}

/** The put-away ones, the one written in last first. */
export function archived(items: readonly Conversation[]): readonly Conversation[] {
  return items.filter((conversation) => conversation.archived).sort((a, b) => b.updated_at.localeCompare(a.updated_at));
}
