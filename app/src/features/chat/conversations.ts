// The names of conversations.

import type { Conversation } from '@/api/types';

/** The title that a conversation gets before its first message. */
export const UNTITLED = 'New conversation';
const TITLE_CHARACTERS_MAX = 48;

export function conversationTitle({ id, title }: Conversation): string {
  return title?.trim() || (id === 'main' ? 'First conversation' : UNTITLED);
}

/** The default conversation is there even before the server lists it. */
export function withMain(items: readonly Conversation[]): readonly Conversation[] {
  return items.some(({ id }) => id === 'main') ? items : [...items, { id: 'main', title: null }];
}

/** A title out of the first message. */
export function titleFrom(text: string): string {
  const line = text.trim().split('\n')[0]!.trim();
  const letters = [...line];
  return letters.length > TITLE_CHARACTERS_MAX ? `${letters.slice(0, TITLE_CHARACTERS_MAX - 1).join('').trimEnd()}…` : line;
}
