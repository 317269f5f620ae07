// Every request of the app goes through here: the address, the token, one retry after a refused token, Problems.
// Never: a screen that calls fetch by itself.

import { Problem, problemFrom, unreachable } from './problem';
import { Session } from './session';
import type * as T from './types';

/** Longer than any answer of ours should take; then a person wants to hear about it. */
const TIMEOUT_MS = 20_000;

export const session = new Session({ fetch: (...args) => fetch(...args), now: () => Date.now() });

interface Ask {
  body?: unknown;
  headers?: Record<string, string>;
  /** For what may be asked before anybody is signed in. */
  open?: boolean;
}

export async function call<Answer>(method: string, path: string, ask: Ask = {}): Promise<Answer> {
  const token = ask.open ? null : await session.token();
  if (!ask.open && !token) throw new Problem({ code: 'signed_out', status: 401, title: 'Please log in again.' });
  let answer = await send(method, path, ask, token);
  if (answer.status === 401 && token) {
    const renewed = await session.renew(token);
    if (renewed) answer = await send(method, path, ask, renewed);
  }
  if (!answer.ok) throw await problemFrom(answer);
  if (answer.status === 204) return undefined as Answer;
  return (await answer.json().catch(() => undefined)) as Answer;
}

async function send(method: string, path: string, ask: Ask, token: string | null): Promise<Response> {
  const headers: Record<string, string> = { accept: 'application/json', ...ask.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  if (ask.body !== undefined) headers['content-type'] = 'application/json';
  const body = ask.body === undefined ? null : JSON.stringify(ask.body);
  const cut = new AbortController();
  const timer = setTimeout(() => cut.abort(), TIMEOUT_MS);
  try {
    return await fetch(path, { method, headers, body, credentials: 'same-origin', signal: cut.signal });
  } catch {
    throw unreachable();
  } finally {
    clearTimeout(timer);
  }
}

const bot = (id: string) => `/api/bots/${encodeURIComponent(id)}`;
const talk = (botId: string, id: string) => `${bot(botId)}/conversations/${encodeURIComponent(id)}`;

export const api = {
  clientConfig: () => call<T.ClientConfig>('GET', '/api/client-config', { open: true }),
  me: () => call<T.User>('GET', '/api/me'),
  changeMe: (body: { name?: string; timezone?: string }) => call<T.User>('PATCH', '/api/me', { body }),
  exportMe: () => call<unknown>('GET', '/api/me/export'),

  bots: () => call<T.Page<T.Bot>>('GET', '/api/bots'),
  bot: (id: string) => call<T.Bot>('GET', bot(id)),
  createBot: (body: T.NewBot) => call<T.Bot>('POST', '/api/bots', { body }),
  configureBot: (id: string, revision: number, body: T.Settings) =>
    call<{ revision: number }>('POST', `${bot(id)}/config`, { body, headers: { 'if-match': String(revision) } }),
  restartBot: (id: string) => call<void>('POST', `${bot(id)}/restart`),
  deleteBot: (id: string) => call<void>('DELETE', bot(id)),
  models: () => call<T.Page<T.Model>>('GET', '/api/models'),

  conversations: (id: string) => call<T.Page<T.Conversation>>('GET', `${bot(id)}/conversations`),
  createConversation: (id: string) => call<T.Conversation>('POST', `${bot(id)}/conversations`, { body: {} }),
  renameConversation: (id: string, conversation: string, title: string) =>
    call<T.Conversation>('PATCH', talk(id, conversation), { body: { title } }),
  deleteConversation: (id: string, conversation: string) => call<void>('DELETE', talk(id, conversation)),
  chatTicket: (id: string) => call<{ ticket: string; expires_at: string }>('POST', `${bot(id)}/chat-ticket`),

  checkout: (bot_id: string) => call<{ url: string }>('POST', '/api/billing/checkout', { body: { bot_id } }),
  portal: () => call<{ url: string }>('GET', '/api/billing/portal'),
  usage: () => call<T.Usage>('GET', '/api/billing/usage'),
  setCap: (cap_usd: string | null) => call<void>('PUT', '/api/billing/cap', { body: { cap_usd } }),
};
