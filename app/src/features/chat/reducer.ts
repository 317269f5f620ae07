// What the chat knows, made from frames: pure, and the same in the end whatever was cut, repeated or replayed.
// Never: a finished frame twice (they are keyed by `seq`), and never a wish lost: a message stays in the outbox until the server shows it back.

import type { Decision, Frame } from './frames';

export interface OpenText {
  message_id: string;
  type: 'message' | 'thinking';
  text: string;
  at: string;
  /** The connection was cut since: pieces would not fit; all of it so far has to come first. */
  stale: boolean;
}

export type Finished = Frame & { seq: number };

/** One turn: a message and everything that came of it. */
export interface Run {
  id: string;
  /** In the order of `seq`, each once. */
  frames: readonly Finished[];
  open: readonly OpenText[];
}

export interface Conversation {
  runs: Readonly<Record<string, Run>>;
  /** The lowest `seq` read from history; null before the first page. */
  from: number | null;
  /** There is more history above. */
  more: boolean;
}

export interface Outgoing {
  id: string;
  conversation: string;
  text: string;
  at: string;
  /** Set by the server's ack. */
  run_id: string | null;
  /** The server did not take it, in its words. */
  refused: string | null;
}

export interface ChatState {
  /** Everything up to here was seen, of all conversations; what `resume` continues after. */
  lastSeq: number;
  conversations: Readonly<Record<string, Conversation>>;
  outbox: readonly Outgoing[];
  decided: Readonly<Record<string, Decision>>;
}

export type Action =
  | { type: 'frame'; frame: Frame }
  /** `first`: asked before the first `resume` of this page, so that nothing before it can have been missed. */
  | { type: 'history'; conversation: string; items: readonly Frame[]; more: boolean; first: boolean }
  | { type: 'cut' }
  | { type: 'submit'; message: Outgoing }
  | { type: 'ack'; id: string; run_id: string }
  | { type: 'refused'; id: string; message: string }
  | { type: 'again'; id: string }
  | { type: 'withdraw'; id: string }
  | { type: 'decide'; approval_id: string; decision: Decision }
  /** The decision did not arrive: the question is open again. */
  | { type: 'undecide'; approval_id: string }
  | { type: 'forget'; conversation: string };

export const emptyChat: ChatState = { lastSeq: 0, conversations: {}, outbox: [], decided: {} };
const emptyConversation: Conversation = { runs: {}, from: null, more: false };

export function reduce(state: ChatState, action: Action): ChatState {
  switch (action.type) {
    case 'frame':
      return withFrame(state, action.frame, true);
    case 'history':
      return withHistory(state, action);
    case 'cut':
      return { ...state, conversations: mapValues(state.conversations, staleConversation) };
    case 'submit':
      return state.outbox.some((kept) => kept.id === action.message.id) ? state : { ...state, outbox: [...state.outbox, action.message] };
    case 'ack':
      return settleOutbox(editOutbox(state, action.id, { run_id: action.run_id, refused: null }), action.run_id);
    case 'refused':
      return editOutbox(state, action.id, { refused: action.message });
    case 'again':
      return editOutbox(state, action.id, { refused: null });
    case 'withdraw':
      return { ...state, outbox: state.outbox.filter((kept) => kept.id !== action.id) };
    case 'decide':
      return { ...state, decided: { ...state.decided, [action.approval_id]: action.decision } };
    case 'undecide': {
      const { [action.approval_id]: _undone, ...decided } = state.decided;
      return { ...state, decided };
    }
    case 'forget': {
      const { [action.conversation]: _gone, ...conversations } = state.conversations;
      return { ...state, conversations, outbox: state.outbox.filter((kept) => kept.conversation !== action.conversation) };
    }
  }
}

/** The run's last frame has come. */
export function isOver(run: Run): boolean {
  return run.frames.some(endsRun);
}

function endsRun(frame: Frame): boolean {
  return frame.type === 'run' && (frame.phase === 'finished' || frame.phase === 'failed' || frame.phase === 'aborted');
}

/** What the server has to be told again after a reconnection. */
export function unsent(state: ChatState): Outgoing[] {
  return state.outbox.filter((message) => message.run_id === null && message.refused === null);
}

function withHistory(state: ChatState, page: Extract<Action, { type: 'history' }>): ChatState {
  const filled = page.items.reduce((sum, frame) => withFrame(sum, frame, false), state);
  const seqs = page.items.map((frame) => frame.seq).filter((seq) => seq !== undefined);
  const next = page.first ? { ...filled, lastSeq: Math.max(state.lastSeq, ...seqs) } : filled;
  const conversation = next.conversations[page.conversation] ?? emptyConversation;
  const from = Math.min(conversation.from ?? Number.MAX_SAFE_INTEGER, ...seqs);
  return putConversation(next, page.conversation, { ...conversation, from, more: page.more });
}

function withFrame(state: ChatState, frame: Frame, live: boolean): ChatState {
  const conversation = state.conversations[frame.conversation] ?? emptyConversation;
  const run = conversation.runs[frame.run_id] ?? { id: frame.run_id, frames: [], open: [] };
  const changed = frame.seq === undefined ? withPiece(run, frame) : withFinished(run, frame as Finished);
  let next = state;
  if (changed !== run) {
    const runs = { ...conversation.runs, [run.id]: changed };
    next = putConversation(state, frame.conversation, { ...conversation, runs });
  }
  if (frame.seq !== undefined && live && frame.seq > next.lastSeq) next = { ...next, lastSeq: frame.seq };
  return frame.type === 'message' && frame.role === 'user' ? settleOutbox(next, frame.run_id, frame.id) : next;
}

function withFinished(run: Run, frame: Finished): Run {
  let at = run.frames.length;
  while (at > 0 && run.frames[at - 1]!.seq > frame.seq) at -= 1;
  if (at > 0 && run.frames[at - 1]!.seq === frame.seq) return run;
  const frames = [...run.frames.slice(0, at), frame, ...run.frames.slice(at)];
  return { ...run, frames, open: endsRun(frame) ? [] : run.open.filter((open) => !isSameText(open, frame)) };
}

function withPiece(run: Run, frame: Frame): Run {
  if (frame.type !== 'message' && frame.type !== 'thinking') return run;
  if (isOver(run) || run.frames.some((finished) => isSameText(frame, finished))) return run;
  const index = run.open.findIndex((open) => isSameText(open, frame));
  const known = run.open[index];
  if (frame.content === undefined && known?.stale) return run;
  const text = frame.content ?? (known?.text ?? '') + (frame.delta ?? '');
  const piece: OpenText = { message_id: frame.message_id, type: frame.type, text, at: known?.at ?? frame.at, stale: false };
  return { ...run, open: index < 0 ? [...run.open, piece] : run.open.map((open, i) => (i === index ? piece : open)) };
}

function isSameText(open: { message_id: string; type: string }, frame: Frame): boolean {
  return frame.type === open.type && (frame.type === 'message' || frame.type === 'thinking') && frame.message_id === open.message_id;
}

function staleConversation(conversation: Conversation): Conversation {
  const cut = (run: Run): Run => (run.open.length ? { ...run, open: run.open.map((open) => ({ ...open, stale: true })) } : run);
  return { ...conversation, runs: mapValues(conversation.runs, cut) };
}

/** The server shows the message back: it is history now. */
function settleOutbox(state: ChatState, runId: string, id?: string): ChatState {
  const shown = (message: Outgoing) =>
    message.id === id || (message.run_id === runId && hasUserMessage(state, message.conversation, runId));
  return state.outbox.some(shown) ? { ...state, outbox: state.outbox.filter((message) => !shown(message)) } : state;
}

function hasUserMessage(state: ChatState, conversation: string, runId: string): boolean {
  const run = state.conversations[conversation]?.runs[runId];
  return run?.frames.some((frame) => frame.type === 'message' && frame.role === 'user') ?? false;
}

function editOutbox(state: ChatState, id: string, change: Partial<Outgoing>): ChatState {
  return { ...state, outbox: state.outbox.map((kept) => (kept.id === id ? { ...kept, ...change } : kept)) };
}

function putConversation(state: ChatState, id: string, conversation: Conversation): ChatState {
  return { ...state, conversations: { ...state.conversations, [id]: conversation } };
}

function mapValues<V>(record: Readonly<Record<string, V>>, change: (value: V) => V): Record<string, V> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));
}
