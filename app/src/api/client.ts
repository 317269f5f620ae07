// Every request of the app goes through here: the address, the token, one retry after a refused token, Problems.
// Never: a screen that calls fetch by itself, or a request that openapi.json does not know (the types refuse it).

import { Problem, problemFrom, unreachable } from './problem';
import type { paths } from './schema';
import { Session } from './session';
import type { NewBot, Settings } from './types';

/** Longer than any answer of ours should take; then a person wants to hear about it. */
const TIMEOUT_MS = 20_000;

export const session = new Session({ fetch: (...args) => fetch(...args), now: () => Date.now() });

type Method = 'get' | 'post' | 'put' | 'patch' | 'delete';
type Json<Answer> = Answer extends { content: { 'application/json': infer Body } } ? Body : void;
type Good<Responses> = keyof Responses & (200 | 201 | 202 | 204);
type AnswerOf<Operation> = Operation extends { responses: infer Responses } ? Json<Responses[Good<Responses>]> : never;
type BodyOf<Operation> = Operation extends { requestBody: { content: { 'application/json': infer Body } } }
  ? { body: Body }
  : Operation extends { requestBody?: { content: { 'application/json': infer Body } } }
    ? { body?: Body }
    : { body?: undefined };

interface Ask {
  /** What stands in the braces of the path. */
  at?: Record<string, string>;
  headers?: Record<string, string>;
  /** For what may be asked before anybody is signed in. */
  open?: boolean;
}

async function call<Path extends keyof paths, Verb extends Method & keyof paths[Path]>(
  method: Verb,
  path: Path,
  ask: Ask & BodyOf<paths[Path][Verb]>,
): Promise<AnswerOf<paths[Path][Verb]>> {
  const address = path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(ask.at?.[name] ?? ''));
  const token = ask.open ? null : await session.token();
  if (!ask.open && !token) throw new Problem({ code: 'signed_out', status: 401, title: 'Please log in again.' });
  let answer = await send(method, address, ask, token);
  if (answer.status === 401 && token) {
    const renewed = await session.renew(token);
    if (renewed) answer = await send(method, address, ask, renewed);
  }
  if (!answer.ok) throw await problemFrom(answer);
  return (await answer.json().catch(() => undefined)) as AnswerOf<paths[Path][Verb]>;
}

async function send(method: string, address: string, ask: Ask & { body?: unknown }, token: string | null): Promise<Response> {
  const headers: Record<string, string> = { accept: 'application/json', ...ask.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  if (ask.body !== undefined) headers['content-type'] = 'application/json';
  const body = ask.body === undefined ? null : JSON.stringify(ask.body);
  const cut = new AbortController();
  const timer = setTimeout(() => cut.abort(), TIMEOUT_MS);
  try {
    return await fetch(address, { method: method.toUpperCase(), headers, body, credentials: 'same-origin', signal: cut.signal });
  } catch {
    throw unreachable();
  } finally {
    clearTimeout(timer);
  }
}

export const api = {
  clientConfig: () => call('get', '/api/client-config', { open: true }),
  me: () => call('get', '/api/me', {}),
  changeMe: (body: { name?: string; timezone?: string }) => call('patch', '/api/me', { body }),
  exportMe: () => call('get', '/api/me/export', {}),
  eraseMe: () => call('delete', '/api/me', {}),

  bots: () => call('get', '/api/bots', {}),
  bot: (id: string) => call('get', '/api/bots/{id}', { at: { id } }),
  /** The same `key` again, as after an answer that never came, is the same assistant. */
  createBot: ({ key, ...body }: NewBot & { key: string }) => call('post', '/api/bots', { body, headers: { 'idempotency-key': key } }),
  configureBot: (id: string, revision: number, body: Settings) =>
    call('post', '/api/bots/{id}/config', { at: { id }, body, headers: { 'if-match': String(revision) } }),
  restartBot: (id: string) => call('post', '/api/bots/{id}/restart', { at: { id } }),
  resumeBot: (id: string) => call('post', '/api/bots/{id}/resume', { at: { id } }),
  deleteBot: (id: string) => call('delete', '/api/bots/{id}', { at: { id } }),
  egress: (id: string) => call('get', '/api/bots/{id}/egress', { at: { id } }),
  allowDomain: (id: string, domain: string) => call('post', '/api/bots/{id}/egress/allow', { at: { id }, body: { domain } }),
  takeBackDomain: (id: string, domain: string) => call('delete', '/api/bots/{id}/egress/allow/{domain}', { at: { id, domain } }),
  dismissRefusals: (id: string, domain: string) => call('post', '/api/bots/{id}/egress/dismiss', { at: { id }, body: { domain } }),
  models: () => call('get', '/api/models', {}),

  conversations: (id: string) => call('get', '/api/bots/{id}/conversations', { at: { id } }),
  createConversation: (id: string) => call('post', '/api/bots/{id}/conversations', { at: { id }, body: {} }),
  changeConversation: (id: string, cid: string, body: { title?: string; archived?: boolean }) =>
    call('patch', '/api/bots/{id}/conversations/{cid}', { at: { id, cid }, body }),
  deleteConversation: (id: string, cid: string) => call('delete', '/api/bots/{id}/conversations/{cid}', { at: { id, cid } }),
  chatTicket: (id: string) => call('post', '/api/bots/{id}/chat-ticket', { at: { id } }),

  checkout: (bot_id: string | null) => call('post', '/api/billing/checkout', { body: { bot_id } }),
  portal: () => call('get', '/api/billing/portal', {}),
  cancelPlan: () => call('post', '/api/billing/cancel', {}),
  usage: () => call('get', '/api/billing/usage', {}),
  setCap: (cap_usd: string | null) => call('put', '/api/billing/cap', { body: { cap_usd } }),
};
