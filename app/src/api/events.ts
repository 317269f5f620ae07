// The live stream of what changed for this person (GET /api/events): fetched, because EventSource cannot send a Bearer header.
// Never: state of its own beyond the last event id; whoever listens reads the changed thing again.

import { createParser } from 'eventsource-parser';
import { backoffMs } from './backoff';

export interface LiveEvent {
  kind: string;
  bot_id: string | null;
  /** Of a `chat` event: which frame was finished. */
  frame: string | null;
}

export interface EventsParts {
  fetch: typeof fetch;
  token: () => Promise<string | null>;
  /** The server refused this token; the next try gets a new one. */
  renew: (token: string) => Promise<string | null>;
  onEvent: (event: LiveEvent) => void;
  /** Called at every (re)connection: what was missed without an id is read again. */
  onOpen: () => void;
}

/** No byte for this long, and the connection is taken for dead. The server sends a comment more often than that. */
const SILENCE_MS = 60_000;

/** Listens until the returned function is called. */
export function listen(parts: EventsParts): () => void {
  const stop = new AbortController();
  void run(parts, stop.signal);
  return () => stop.abort();
}

async function run(parts: EventsParts, stopped: AbortSignal): Promise<void> {
  let lastId = '';
  for (let attempt = 0; !stopped.aborted; attempt += 1) {
    const opened = await readOnce(parts, stopped, lastId, (id) => (lastId = id)).catch(() => false);
    if (opened) attempt = 0;
    await sleep(backoffMs(attempt, Math.random()), stopped);
  }
}

async function readOnce(parts: EventsParts, stopped: AbortSignal, lastId: string, keepId: (id: string) => void): Promise<boolean> {
  const token = await parts.token();
  if (!token) return false;
  const cut = new AbortController();
  const abort = () => cut.abort();
  stopped.addEventListener('abort', abort);
  let silence = setTimeout(abort, SILENCE_MS);
  try {
    const headers: Record<string, string> = { accept: 'text/event-stream', authorization: `Bearer ${token}` };
    if (lastId) headers['last-event-id'] = lastId;
    const answer = await parts.fetch('/api/events', { headers, signal: cut.signal });
    if (answer.status === 401) await parts.renew(token);
    if (!answer.ok || !answer.body) return false;
    parts.onOpen();
    const parser = createParser({ onEvent: (raw) => (raw.id && keepId(raw.id), deliver(parts, raw.data)) });
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      clearTimeout(silence);
      silence = setTimeout(abort, SILENCE_MS);
      parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    clearTimeout(silence);
    stopped.removeEventListener('abort', abort);
  }
}

function deliver(parts: EventsParts, data: string): void {
  try {
    const { kind, bot_id, body } = JSON.parse(data) as { kind?: string; bot_id?: string; body?: { type?: string } };
    parts.onEvent({ kind: kind ?? '', bot_id: bot_id ?? null, frame: body?.type ?? null });
  } catch {
    // An event that is not JSON carries nothing that we could show.
  }
}

function sleep(ms: number, stopped: AbortSignal): Promise<void> {
  if (stopped.aborted) return Promise.resolve();
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    stopped.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true });
  });
}
