// The chat of one bot while its page is open: the reducer's state, the connection, and the outbox kept over a reload.
// Never: a message in storage after the server has shown it back.

import { createStore, type StoreApi } from 'zustand/vanilla';
import { api } from '@/api/client';
import { newId } from '@/api/id';
import { Connection, type Link, type Socket } from './connection';
import type { Decision } from './frames';
import { emptyChat, reduce, type ChatState, type Outgoing } from './reducer';

export interface Chat {
  store: StoreApi<{ chat: ChatState; link: Link }>;
  connection: Connection;
  say: (conversation: string, text: string) => void;
  stop: (runId: string) => void;
  decide: (approvalId: string, decision: Decision) => void;
  withdraw: (id: string) => void;
  forget: (conversation: string) => void;
  close: () => void;
}

/** A page hidden for longer than this has probably lost its socket without being told. */
const HIDDEN_TOO_LONG_MS = 30_000;
/** When frames are not drawn (a hidden page), pieces are still taken in, in lumps. */
const HIDDEN_GATHER_MS = 250;

/** What the page does when something other than a message is not taken. */
export type OnRefused = (code: string, message: string) => void;

export function openChat(botId: string, conversation: string, onRefused: OnRefused): Chat {
  let lastDecided: string | null = null;
  const kept = outboxOf(botId);
  const store = createStore<{ chat: ChatState; link: Link }>(() => ({ chat: { ...emptyChat, outbox: kept.read() }, link: 'connecting' }));
  const dispatch = (actions: Parameters<typeof reduce>[1][]) => {
    const before = store.getState().chat;
    const chat = actions.reduce(reduce, before);
    if (chat === before) return;
    store.setState({ chat });
    if (chat.outbox !== before.outbox) kept.write(chat.outbox);
  };
  const connection = new Connection(
    {
      ticket: async () => (await api.chatTicket(botId)).ticket,
      open: (ticket) => openSocket(botId, ticket),
      state: () => store.getState().chat,
      dispatch,
      onLink: (link) => store.setState({ link }),
      onRefused: (code, message) => {
        if (code === 'assistant_unreachable' && lastDecided) dispatch([{ type: 'undecide', approval_id: lastDecided }]);
        onRefused(code, message);
      },
      gather,
    },
    conversation,
  );
  const unwatch = watchPage(() => connection.wake());
  return {
    store,
    connection,
    say: (to, text) =>
      connection.submit({ id: newId(), conversation: to, text, at: new Date().toISOString(), run_id: null, refused: null }),
    stop: (run_id) => void connection.tell({ type: 'abort', run_id }),
    decide: (approval_id, decision) => {
      lastDecided = approval_id;
      if (connection.tell({ type: 'approve', approval_id, decision })) dispatch([{ type: 'decide', approval_id, decision }]);
    },
    withdraw: (id) => dispatch([{ type: 'withdraw', id }]),
    forget: (gone) => dispatch([{ type: 'forget', conversation: gone }]),
    close: () => (unwatch(), connection.close()),
  };
}

function openSocket(botId: string, ticket: string): Socket {
  const address = new URL(`/api/chat/${encodeURIComponent(botId)}`, window.location.href);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  address.searchParams.set('ticket', ticket);
  return new WebSocket(address) as unknown as Socket;
}

function gather(work: () => void): void {
  if (document.hidden) setTimeout(work, HIDDEN_GATHER_MS);
  else requestAnimationFrame(work);
}

function watchPage(wake: () => void): () => void {
  let hiddenAt = 0;
  const onVisible = () => {
    if (document.hidden) hiddenAt = Date.now();
    else if (hiddenAt && Date.now() - hiddenAt > HIDDEN_TOO_LONG_MS) wake();
  };
  window.addEventListener('online', wake);
  document.addEventListener('visibilitychange', onVisible);
  return () => {
    window.removeEventListener('online', wake);
    document.removeEventListener('visibilitychange', onVisible);
  };
}

/** Storage of this tab only; gone when the tab is closed. */
function outboxOf(botId: string) {
  const key = `molt.outbox.${botId}`;
  return {
    read: (): Outgoing[] => {
      try {
        return JSON.parse(sessionStorage.getItem(key) ?? '[]') as Outgoing[];
      } catch {
        return [];
      }
    },
    write: (outbox: readonly Outgoing[]) => {
      try {
        if (outbox.length) sessionStorage.setItem(key, JSON.stringify(outbox));
        else sessionStorage.removeItem(key);
      } catch {
        // A full or forbidden storage only costs the outbox its life over a reload.
      }
    },
  };
}

/** At log-out nothing of a person stays in the tab. */
export function clearOutboxes(): void {
  for (const key of Object.keys(sessionStorage)) if (key.startsWith('molt.outbox.')) sessionStorage.removeItem(key);
}
