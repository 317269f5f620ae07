import fc from 'fast-check';
import type { Frame } from './frames';
import { emptyChat, isOver, reduce, unsent, type ChatState } from './reducer';

const at = '2026-11-22T11:00:00Z';
type Beat = Frame & { seq?: number };

/** Everything that a server says about some runs, in order, pieces included. */
function script(runs: { conversation: string; words: string[]; thoughts: string[]; end: 'finished' | 'aborted' }[]): Beat[] {
  let seq = 0;
  const beats: Beat[] = [];
  runs.forEach(({ conversation, words, thoughts, end }, index) => {
    const base = { run_id: `r${index}`, conversation, at };
    const finished = (frame: object) => beats.push({ ...base, ...frame, seq: (seq += 1) } as Beat);
    const say = (type: string, id: string, pieces: string[]) => {
      for (const delta of pieces) beats.push({ ...base, type, role: 'assistant', message_id: id, delta, done: false } as unknown as Beat);
      finished({ type, role: 'assistant', message_id: id, content: pieces.join(''), done: true });
    };
    finished({ type: 'message', role: 'user', message_id: 'u', id: `c${index}`, content: 'hello', done: true });
    finished({ type: 'run', phase: 'started' });
    if (thoughts.length) say('thinking', 't', thoughts);
    say('message', 'm1', words);
    finished({ type: 'usage', model: 'x/y', tokens_in: 1, tokens_out: 1, cost_usd: '0.000001', duration_ms: 5 });
    finished({ type: 'run', phase: end });
  });
  return beats;
}

/** What the server replays to a client that has seen everything up to `after`, when it stands at `position`. */
function replay(beats: Beat[], position: number, after: number): Beat[] {
  const past = beats.slice(0, position);
  const missed = past.filter((beat) => beat.seq !== undefined && beat.seq > after);
  const open = new Map<string, Beat>();
  for (const beat of past) {
    if (beat.type !== 'message' && beat.type !== 'thinking') continue;
    const key = `${beat.run_id}/${beat.type}/${beat.message_id}`;
    const before = (open.get(key) as { content?: string } | undefined)?.content ?? '';
    if (beat.done) open.delete(key);
    else open.set(key, { ...beat, delta: undefined, content: before + beat.delta } as Beat);
  }
  return [...missed, ...open.values()];
}

const play = (state: ChatState, beats: Beat[]) => beats.reduce((sum, frame) => reduce(sum, { type: 'frame', frame }), state);

const aRun = fc.record({
  conversation: fc.constantFrom('main', 'other'),
  words: fc.array(fc.string({ minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 5 }),
  thoughts: fc.array(fc.string({ minLength: 1, maxLength: 4 }), { maxLength: 3 }),
  end: fc.constantFrom('finished' as const, 'aborted' as const),
});
const aCut = fc.record({ after: fc.nat(60), missed: fc.nat(12), repeat: fc.nat(6), strays: fc.boolean() });

test('however the connection was cut and the frames repeated, the end is the same', () => {
  fc.assert(
    fc.property(fc.array(aRun, { minLength: 1, maxLength: 4 }), fc.array(aCut, { maxLength: 6 }), (runs, cuts) => {
      const beats = script(runs);
      const straight = play(emptyChat, beats);
      let state = emptyChat;
      let position = 0;
      for (const cut of cuts) {
        const end = Math.min(beats.length, position + cut.after);
        state = play(state, beats.slice(position, end));
        state = play(
          state,
          beats.slice(Math.max(0, end - cut.repeat), end).filter((beat) => beat.seq !== undefined),
        );
        state = reduce(state, { type: 'cut' });
        position = Math.min(beats.length, end + cut.missed);
        const again = replay(beats, position, state.lastSeq);
        if (cut.strays)
          state = play(
            state,
            beats.slice(position - 1, position).filter((beat) => beat.seq === undefined),
          );
        state = play(state, again);
        for (const key of ['main', 'other']) expect(textOf(state, key)).toEqual(textOf(play(emptyChat, beats.slice(0, position)), key));
      }
      expect(play(state, beats.slice(position))).toEqual(straight);
    }),
    { numRuns: 500 },
  );
});

function textOf(state: ChatState, conversation: string) {
  const runs = Object.values(state.conversations[conversation]?.runs ?? {});
  runs.sort((a, b) => a.id.localeCompare(b.id));
  return runs.map((run) => [run.id, run.frames, run.open.map((open) => [open.message_id, open.text])]);
}

test('history pages and live frames meet without a gap or a repeat', () => {
  fc.assert(
    fc.property(fc.array(aRun, { minLength: 1, maxLength: 5 }), fc.nat(40), fc.integer({ min: 1, max: 7 }), (runs, at, limit) => {
      const beats = script(runs).filter((beat) => beat.seq !== undefined);
      const joined = Math.min(at, beats.length);
      const mine = (upTo: number) => beats.filter((beat) => beat.conversation === 'main' && beat.seq! < upTo);
      let state = emptyChat;
      let before = joined + 1;
      for (let first = true; ; first = false) {
        const items = mine(before).slice(-limit);
        state = reduce(state, { type: 'history', conversation: 'main', items, more: mine(before).length > limit, first });
        if (first) state = play(state, replay(beats, beats.length, state.lastSeq));
        if (!state.conversations.main?.more) break;
        before = state.conversations.main.from!;
      }
      expect(state.conversations.main?.runs ?? {}).toEqual(play(emptyChat, beats).conversations.main?.runs ?? {});
      expect(state.lastSeq).toBe(beats.length);
    }),
  );
});

test('a message waits in the outbox until the server shows it back, in either order', () => {
  const message = { id: 'c1', conversation: 'main', text: 'hi', at, run_id: null, refused: null };
  const shown = {
    type: 'message',
    role: 'user',
    run_id: 'r1',
    conversation: 'main',
    at,
    seq: 1,
    message_id: 'u',
    content: 'hi',
    done: true,
  } as Frame;
  const submitted = reduce(emptyChat, { type: 'submit', message });
  expect(unsent(reduce(submitted, { type: 'submit', message }))).toHaveLength(1);
  const acked = reduce(submitted, { type: 'ack', id: 'c1', run_id: 'r1' });
  expect([unsent(acked).length, acked.outbox.length]).toEqual([0, 1]);
  expect(reduce(acked, { type: 'frame', frame: shown }).outbox).toEqual([]);
  const early = reduce(submitted, { type: 'frame', frame: shown });
  expect(early.outbox).toHaveLength(1);
  expect(reduce(early, { type: 'ack', id: 'c1', run_id: 'r1' }).outbox).toEqual([]);
  expect(reduce(submitted, { type: 'frame', frame: { ...shown, id: 'c1' } as Frame }).outbox).toEqual([]);
});

test('a refused message is kept, said so, and can be sent again', () => {
  const message = { id: 'c1', conversation: 'main', text: 'hi', at, run_id: null, refused: null };
  const refused = reduce(reduce(emptyChat, { type: 'submit', message }), { type: 'refused', id: 'c1', message: 'Too long.' });
  expect([unsent(refused).length, refused.outbox[0]?.refused]).toEqual([0, 'Too long.']);
  expect(unsent(reduce(refused, { type: 'again', id: 'c1' }))).toHaveLength(1);
  expect(reduce(refused, { type: 'withdraw', id: 'c1' }).outbox).toEqual([]);
});

test('a run is over after its last frame, and nothing opens again', () => {
  const beats = script([{ conversation: 'main', words: ['a', 'b'], thoughts: [], end: 'aborted' }]);
  const ended = play(emptyChat, beats);
  expect(isOver(ended.conversations.main!.runs.r0!)).toBe(true);
  const late = {
    type: 'message',
    role: 'assistant',
    run_id: 'r0',
    conversation: 'main',
    at,
    message_id: 'm9',
    delta: 'x',
    done: false,
  } as Frame;
  expect(reduce(ended, { type: 'frame', frame: late })).toBe(ended);
});
