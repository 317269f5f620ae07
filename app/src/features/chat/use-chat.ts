// One bot's chat for as long as its page is open.

import { useEffect, useMemo, useRef, useState } from 'react';
import { useStore } from 'zustand';
import { createStore } from 'zustand/vanilla';
import type { Link } from './connection';
import { emptyChat, type ChatState } from './reducer';
import { openChat, type Chat, type OnRefused } from './store';
import { activeRun, turnsOf, type Turn } from './turns';

const closedStore = createStore<{ chat: ChatState; link: Link }>(() => ({ chat: emptyChat, link: 'connecting' }));

export interface ChatView {
  chat: Chat | null;
  turns: Turn[];
  active: string | null;
  /** The first page of history has come. */
  loaded: boolean;
  more: boolean;
  link: Link;
}

export function useChat(botId: string, conversation: string, onRefused: OnRefused): ChatView {
  const refused = useRef(onRefused);
  refused.current = onRefused;
  const [chat, setChat] = useState<Chat | null>(null);
  useEffect(() => {
    const opened = openChat(botId, conversation, (code, message) => refused.current(code, message));
    setChat(opened);
    return () => opened.close();
    // The conversation that is shown changes without a new connection: see the next effect.
  }, [botId]);
  useEffect(() => chat?.connection.show(conversation), [chat, conversation]);
  const { chat: state, link } = useStore(chat?.store ?? closedStore);
  const turns = useMemo(() => turnsOf(state, conversation), [state, conversation]);
  const known = state.conversations[conversation];
  return { chat, turns, active: activeRun(turns), loaded: known !== undefined && known.from !== null, more: known?.more ?? false, link };
}
