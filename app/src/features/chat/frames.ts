// What goes over the chat's WebSocket, as front-door.md fixes it.
// Never: trust in a frame's shape; `parseFrame` lets through only what the reducer can use.

interface Base {
  run_id: string;
  conversation: string;
  at: string;
  /** Finished frames only: counts per bot and never repeats. */
  seq?: number;
}

/** One of: a piece (`delta`), all of it so far (`content`, not done), all of it (`content`, done). */
interface Text {
  message_id: string;
  done: boolean;
  delta?: string;
  content?: string;
}

export type Decision = 'once' | 'always' | 'no';
export type RunPhase = 'started' | 'model' | 'fallback' | 'resumed' | 'finished' | 'failed' | 'aborted';

export type Message = Base & Text & { type: 'message'; role: 'user' | 'assistant'; id?: string };
export type Thinking = Base & Text & { type: 'thinking' };
export type ToolCall = Base & { type: 'tool_call'; call_id: string; tool: string; args: unknown };
export type ToolResult = Base & { type: 'tool_result'; call_id: string; tool: string; result: unknown; success: boolean };
export type MemoryAccess = Base & { type: 'memory_access'; action: string; file: string };
export type Approval = Base & { type: 'approval'; approval_id: string; tool: string; args: unknown };
export type UsageFrame = Base & {
  type: 'usage';
  model: string;
  tokens_in: number;
  tokens_out: number;
  cost_usd: string;
  duration_ms: number;
};
export type RunFrame = Base & {
  type: 'run';
  phase: RunPhase;
  model?: string;
  error?: { code: string; message: string; retry?: boolean } | null;
};
export type ErrorInRun = Base & { type: 'error'; code: string; message: string };

/** A frame of a run. */
export type Frame = Message | Thinking | ToolCall | ToolResult | MemoryAccess | Approval | UsageFrame | RunFrame | ErrorInRun;

export type FromServer =
  | { kind: 'frame'; frame: Frame }
  | { kind: 'ack'; id: string; run_id: string }
  /** Something that we sent was not taken. `id` is there when it was a message. */
  | { kind: 'refused'; id: string | null; code: string; message: string }
  | { kind: 'history'; conversation: string; items: Frame[]; more: boolean }
  | { kind: 'other' };

export type ToServer =
  | { type: 'send'; id: string; conversation: string; text: string }
  | { type: 'abort'; run_id: string }
  | { type: 'approve'; approval_id: string; decision: Decision }
  | { type: 'history'; conversation: string; limit: number; before?: number }
  | { type: 'resume'; after: number };

type Raw = Record<string, unknown>;
const text = (value: unknown): value is string => typeof value === 'string';
const RUN_TYPES = new Set(['message', 'thinking', 'tool_call', 'tool_result', 'memory_access', 'approval', 'usage', 'run']);

export function parseFrame(data: string): FromServer {
  let raw: Raw;
  try {
    raw = JSON.parse(data) as Raw;
  } catch {
    return { kind: 'other' };
  }
  if (!raw || typeof raw !== 'object') return { kind: 'other' };
  if (raw.type === 'ack' && text(raw.id) && text(raw.run_id)) return { kind: 'ack', id: raw.id, run_id: raw.run_id };
  if (raw.type === 'history') return history(raw);
  const frame = runFrame(raw);
  if (frame) return { kind: 'frame', frame };
  if (raw.type !== 'error') return { kind: 'other' };
  const message = text(raw.message) ? raw.message : 'The server did not take this.';
  return { kind: 'refused', id: text(raw.id) ? raw.id : null, code: text(raw.code) ? raw.code : 'error', message };
}

function history(raw: Raw): FromServer {
  const items = Array.isArray(raw.items) ? raw.items : [];
  const frames = items.map((item) => runFrame(item as Raw)).filter((frame) => frame !== null);
  const more = raw.more === true || (raw.next !== undefined && raw.next !== null);
  return { kind: 'history', conversation: text(raw.conversation) ? raw.conversation : 'main', items: frames, more };
}

function runFrame(raw: Raw): Frame | null {
  if (!raw || !text(raw.run_id)) return null;
  if (!RUN_TYPES.has(raw.type as string) && !(raw.type === 'error' && !text(raw.id))) return null;
  const full: Raw = { ...raw, conversation: text(raw.conversation) ? raw.conversation : 'main' };
  if (raw.type === 'message' || raw.type === 'thinking') {
    full.done = raw.done !== false;
    full.message_id = text(raw.message_id) ? raw.message_id : `${raw.type}-${String(raw.seq ?? 'open')}`;
  }
  return full as unknown as Frame;
}
