import type { Frame } from './frames';
import { emptyChat, reduce } from './reducer';
import { activeRun, turnsOf } from './turns';

let seq = 0;
const at = (second: number) => `2026-11-22T11:00:0${second}Z`;
const frame = (body: object, second = 0) => ({ run_id: 'r1', conversation: 'main', at: at(second), seq: (seq += 1), ...body }) as Frame;
const usage = (cost_usd: string) => frame({ type: 'usage', model: 'p/m', tokens_in: 10, tokens_out: 2, cost_usd, duration_ms: 7 });

test('a turn with a tool, memory, two messages and two model calls', () => {
  const frames = [
    frame({ type: 'message', role: 'user', message_id: 'u', content: 'remember trains', done: true }),
    frame({ type: 'tool_call', call_id: 'c', tool: 'write', args: { path: 'memory/x.md' } }),
    frame({ type: 'tool_result', call_id: 'c', tool: 'write', result: 'ok', success: true }),
    frame({ type: 'memory_access', action: 'write', file: 'memory/x.md' }),
    frame({ type: 'memory_access', action: 'write', file: 'memory/y.md' }),
    frame({ type: 'memory_access', action: 'search', file: 'MEMORY.md' }),
    usage('0.000001'),
    frame({ type: 'message', role: 'assistant', message_id: 'm', content: 'Done.', done: true }),
    usage('0.0000005'),
    frame({ type: 'run', phase: 'finished' }, 4),
  ];
  const state = frames.reduce((sum, next) => reduce(sum, { type: 'frame', frame: next }), emptyChat);
  const [turn] = turnsOf(state, 'main');
  expect(turn).toMatchObject({ question: 'remember trains', state: 'finished', reason: null });
  expect(turn!.blocks.map((block) => block.kind)).toEqual(['tool', 'memory', 'memory', 'text']);
  expect(turn!.blocks[0]).toMatchObject({ state: 'done', result: 'ok', memory: true });
  expect(turn!.blocks.slice(1, 3)).toMatchObject([{ sentence: 'Wrote memory/y.md' }, { sentence: 'Looked into MEMORY.md' }]);
  expect(turn!.usage).toEqual({ models: ['p/m'], tokensIn: 20, tokensOut: 4, costUsd: '0.0000015', durationMs: 4000 });
  expect(turnsOf(state, 'main')[0]).toBe(turn);
  expect(activeRun(turnsOf(state, 'main'))).toBeNull();
});

test('a message on its way: waiting, running, refused', () => {
  const message = { id: 'c1', conversation: 'main', text: 'hi', at: at(0), run_id: null, refused: null };
  const submitted = reduce(emptyChat, { type: 'submit', message });
  expect(turnsOf(submitted, 'main')).toMatchObject([{ key: 'c1', state: 'waiting', question: 'hi' }]);
  const acked = reduce(submitted, { type: 'ack', id: 'c1', run_id: 'r9' });
  expect(activeRun(turnsOf(acked, 'main'))).toBe('r9');
  const started = reduce(acked, {
    type: 'frame',
    frame: { type: 'run', phase: 'started', run_id: 'r9', conversation: 'main', at: at(1), seq: 900 },
  });
  expect(turnsOf(started, 'main')).toMatchObject([{ key: 'c1', runId: 'r9', state: 'running', question: 'hi' }]);
  const refused = reduce(submitted, { type: 'refused', id: 'c1', message: 'Too long.' });
  expect(turnsOf(refused, 'main')).toMatchObject([{ state: 'failed', reason: 'Too long.' }]);
  const next = reduce(refused, { type: 'submit', message: { ...message, id: 'c2', at: at(3) } });
  const answered = reduce(next, {
    type: 'frame',
    frame: frame({ type: 'message', role: 'user', message_id: 'u', content: 'hi', id: 'c2', done: true }, 3),
  });
  for (const state of [next, answered]) expect(turnsOf(state, 'main').map((turn) => turn.key)).toEqual(['c1', 'c2']);
});

test('an approval: asked, decided here, closed by the end of the run', () => {
  const ask = frame({ type: 'approval', approval_id: 'a1', tool: 'exec', args: { command: 'ls' } });
  const asked = reduce(emptyChat, { type: 'frame', frame: ask });
  const decision = (state: typeof asked) => turnsOf(state, 'main')[0]!.blocks[0];
  expect(decision(asked)).toMatchObject({ kind: 'approval', decision: null });
  const answered = reduce(asked, { type: 'decide', approval_id: 'a1', decision: 'once' });
  expect(decision(answered)).toMatchObject({ decision: 'once' });
  const over = reduce(asked, { type: 'frame', frame: frame({ type: 'run', phase: 'failed', error: { code: 'x', message: 'It broke.' } }) });
  expect(decision(over)).toMatchObject({ decision: 'closed' });
  expect(decision(reduce(over, { type: 'decide', approval_id: 'a1', decision: 'no' }))).toMatchObject({ decision: 'no' });
  expect(turnsOf(over, 'main')[0]).toMatchObject({ state: 'failed', reason: 'It broke.' });
});
