// What a person sees of a conversation: turns made of blocks, from the runs that the reducer keeps.
// Never: work for a run that did not change (a streaming answer changes one run sixty times a second).

import { sumUsd } from '../usage/money';
import type { Decision } from './frames';
import { toolTitle } from './toolwords';
import type { ChatState, Conversation, Finished, Outgoing, Run } from './reducer';

export type Block =
  | { kind: 'text'; key: string; text: string; streaming: boolean }
  | { kind: 'thinking'; key: string; text: string; streaming: boolean }
  /** `memory`: the call reads or writes the assistant's memory, and its title says which file. */
  | { kind: 'tool'; key: string; tool: string; args: unknown; result: unknown; state: 'running' | 'done' | 'failed'; memory: boolean }
  | { kind: 'memory'; key: string; sentence: string }
  | { kind: 'note'; key: string; sentence: string }
  | { kind: 'approval'; key: string; id: string; tool: string; args: unknown; decision: Decision | 'closed' | null };

export interface TurnUsage {
  models: string[];
  tokensIn: number;
  tokensOut: number;
  costUsd: string;
  durationMs: number;
}

export type TurnState = 'waiting' | 'running' | 'finished' | 'failed' | 'aborted';

export interface Turn {
  key: string;
  runId: string | null;
  at: string;
  question: string | null;
  blocks: readonly Block[];
  usage: TurnUsage | null;
  state: TurnState;
  /** Why it failed, or why it was not taken, in words for a person. */
  reason: string | null;
  /** The outbox message behind it, while the server has not shown it back. */
  outgoing: Outgoing | null;
}

const made = new WeakMap<Run, Turn>();

/** The turns of a conversation, oldest first; what is not sent yet comes last, what was refused stays where it was said. */
export function turnsOf(state: ChatState, conversationId: string): Turn[] {
  const conversation = state.conversations[conversationId];
  const mine = state.outbox.filter((message) => message.conversation === conversationId);
  const turns = runsInOrder(conversation).map((run) => {
    const turn = decided(turnOf(run), state.decided);
    const outgoing = mine.find((message) => message.run_id === run.id);
    return outgoing ? { ...turn, key: outgoing.id, question: turn.question ?? outgoing.text, outgoing } : turn;
  });
  const shown = new Set(turns.map((turn) => turn.runId));
  const own = mine.filter((message) => !message.run_id || !shown.has(message.run_id));
  for (const message of own.filter(({ refused }) => refused)) turns.splice(placeOf(message, turns), 0, waiting(message));
  return [...turns, ...own.filter(({ refused }) => !refused).map(waiting)];
}

/** Before the first turn that began later. */
function placeOf(message: Outgoing, turns: readonly Turn[]): number {
  const later = turns.findIndex((turn) => Date.parse(turn.at) > Date.parse(message.at));
  return later < 0 ? turns.length : later;
}

/** The run that a stop button would stop: the oldest that is not over. */
export function activeRun(turns: readonly Turn[]): string | null {
  return turns.find((turn) => turn.state === 'running' && turn.runId)?.runId ?? null;
}

function runsInOrder(conversation: Conversation | undefined): Run[] {
  const first = (run: Run) => run.frames[0]?.seq ?? Number.MAX_SAFE_INTEGER;
  return Object.values(conversation?.runs ?? {}).sort((a, b) => first(a) - first(b));
}

function waiting(message: Outgoing): Turn {
  const state = message.refused ? 'failed' : message.run_id ? 'running' : 'waiting';
  const turn = { key: message.id, runId: message.run_id, at: message.at, question: message.text, blocks: [], usage: null };
  return { ...turn, state, reason: message.refused, outgoing: message };
}

function decided(turn: Turn, decisions: ChatState['decided']): Turn {
  const mine = (block: Block) => (block.kind === 'approval' ? decisions[block.id] : undefined);
  if (!turn.blocks.some(mine)) return turn;
  const blocks = turn.blocks.map((block) => (block.kind === 'approval' && mine(block) ? { ...block, decision: mine(block)! } : block));
  return { ...turn, blocks };
}

function turnOf(run: Run): Turn {
  const known = made.get(run);
  if (known) return known;
  const first = run.frames[0] ?? run.open[0];
  const question = run.frames.find((frame) => frame.type === 'message' && frame.role === 'user');
  const ended = endOf(run);
  const state = ended?.state ?? 'running';
  const turn: Turn = {
    key: (question?.type === 'message' ? question.id : undefined) ?? run.id,
    runId: run.id,
    at: question?.at ?? first?.at ?? '',
    question: question?.type === 'message' ? (question.content ?? '') : null,
    blocks: blocksOf(run, state !== 'running'),
    usage: usageOf(run, ended?.at),
    state,
    reason: ended?.reason ?? null,
    outgoing: null,
  };
  made.set(run, turn);
  return turn;
}

function endOf(run: Run): { state: TurnState; at: string; reason: string | null } | null {
  let reason: string | null = null;
  for (const frame of run.frames) {
    if (frame.type === 'error') reason = frame.message;
    if (frame.type !== 'run') continue;
    const { phase } = frame;
    if (phase !== 'finished' && phase !== 'failed' && phase !== 'aborted') continue;
    const why = frame.error?.message ?? reason ?? (phase === 'failed' ? 'This turn could not be finished.' : null);
    return { state: phase, at: frame.at, reason: phase === 'failed' ? why : null };
  }
  return null;
}

function blocksOf(run: Run, over: boolean): Block[] {
  const blocks: Block[] = [];
  for (const frame of run.frames) addBlock(blocks, frame, over);
  for (const open of run.open) {
    if (open.text.trim())
      blocks.push({ kind: open.type === 'message' ? 'text' : 'thinking', key: textKey(open), text: open.text, streaming: true });
  }
  return blocks;
}

const textKey = (text: { type: string; message_id: string }) => `${text.type}/${text.message_id}`;

function addBlock(blocks: Block[], frame: Finished, over: boolean): void {
  const key = String(frame.seq);
  if (frame.type === 'message' || frame.type === 'thinking') {
    const mine = frame.type === 'message' && frame.role === 'user';
    const text = frame.content ?? '';
    if (mine || !text.trim()) return;
    blocks.push({ kind: frame.type === 'message' ? 'text' : 'thinking', key: textKey(frame), text, streaming: false });
  } else if (frame.type === 'tool_call') {
    blocks.push({
      kind: 'tool',
      key: `tool/${frame.call_id}`,
      tool: frame.tool,
      args: frame.args,
      result: null,
      state: over ? 'failed' : 'running',
      memory: false,
    });
  } else if (frame.type === 'tool_result') {
    const state = frame.success ? ('done' as const) : ('failed' as const);
    const at = blocks.findIndex((block) => block.key === `tool/${frame.call_id}`);
    const call = blocks[at];
    if (call?.kind === 'tool') blocks[at] = { ...call, result: frame.result, state };
    else
      blocks.push({ kind: 'tool', key: `tool/${frame.call_id}`, tool: frame.tool, args: null, result: frame.result, state, memory: false });
  } else if (frame.type === 'memory_access') {
    if (!markMemory(blocks, frame.action, frame.file))
      blocks.push({ kind: 'memory', key, sentence: memorySentence(frame.action, frame.file) });
  } else if (frame.type === 'approval') {
    blocks.push({ kind: 'approval', key, id: frame.approval_id, tool: frame.tool, args: frame.args, decision: over ? 'closed' : null });
  } else if (frame.type === 'run' && (frame.phase === 'fallback' || frame.phase === 'resumed')) {
    const sentence = frame.phase === 'resumed' ? 'Went on after a restart' : `Switched to ${frame.model ?? 'the fallback model'}`;
    blocks.push({ kind: 'note', key, sentence });
  }
}

/** A tool card that already names the file gets a mark instead of a line that says the same again. */
function markMemory(blocks: Block[], action: string, file: string): boolean {
  const at = blocks.findLastIndex((block) => block.kind === 'tool' && toolTitle(block.tool, block.args, false).includes(file));
  const card = blocks[at];
  if (action === 'search' || card?.kind !== 'tool') return false;
  blocks[at] = { ...card, memory: true };
  return true;
}

function memorySentence(action: string, file: string): string {
  const verbs: Record<string, string> = { read: 'Read', write: 'Wrote', append: 'Added to', delete: 'Removed', edit: 'Changed' };
  if (action === 'search') return file.endsWith('.md') ? `Looked into ${file}` : `Searched memory for “${file}”`;
  return `${verbs[action] ?? 'Used'} ${file}`;
}

function usageOf(run: Run, endedAt: string | undefined): TurnUsage | null {
  const calls = run.frames.filter((frame) => frame.type === 'usage');
  if (!calls.length) return null;
  const started = Date.parse(run.frames[0]!.at);
  const took = endedAt ? Date.parse(endedAt) - started : calls.reduce((sum, call) => sum + call.duration_ms, 0);
  return {
    models: [...new Set(calls.map((call) => call.model))],
    tokensIn: calls.reduce((sum, call) => sum + call.tokens_in, 0),
    tokensOut: calls.reduce((sum, call) => sum + call.tokens_out, 0),
    costUsd: sumUsd(calls.map((call) => call.cost_usd)),
    durationMs: Math.max(0, took),
  };
}
