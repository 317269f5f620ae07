import { Connection, type Socket } from './connection';
import { emptyChat, reduce, type ChatState } from './reducer';

const at = '2026-11-22T11:00:00Z';
const tick = async () => {
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
};

function stage() {
  let state: ChatState = emptyChat;
  const sockets: (Socket & { sent: Record<string, unknown>[]; say: (frame: object) => void })[] = [];
  const links: string[] = [];
  const refusals: string[] = [];
  const open = () => {
    const sent: Record<string, unknown>[] = [];
    const socket = {
      sent,
      send: (data: string) => void sent.push(JSON.parse(data)),
      close: () => undefined,
      say: (frame: object) => socket.onmessage?.({ data: JSON.stringify(frame) }),
      onopen: null as (() => void) | null,
      onmessage: null as ((event: { data: unknown }) => void) | null,
      onclose: null as (() => void) | null,
    };
    sockets.push(socket);
    return socket;
  };
  const connection = new Connection(
    {
      ticket: async () => 't',
      open,
      state: () => state,
      dispatch: (actions) => (state = actions.reduce(reduce, state)),
      onLink: (link) => links.push(link),
      onRefused: (code) => refusals.push(code),
      gather: (work) => work(),
    },
    'main',
  );
  return { connection, sockets, links, refusals, state: () => state };
}

const message = { id: 'c1', conversation: 'main', text: 'hi', at, run_id: null, refused: null };

test('history, then resume, then what waited; after a cut, resume at once and send again under the same id', async () => {
  jest.useFakeTimers();
  const { connection, sockets, links, state } = stage();
  connection.submit(message);
  await tick();
  sockets[0]!.onopen!();
  expect(sockets[0]!.sent).toEqual([{ type: 'history', conversation: 'main', limit: 60 }]);
  const old = { type: 'run', phase: 'finished', run_id: 'r0', conversation: 'main', at, seq: 7 };
  sockets[0]!.say({ type: 'history', conversation: 'main', items: [old], more: false });
  const send = { type: 'send', id: 'c1', conversation: 'main', text: 'hi' };
  expect(sockets[0]!.sent.slice(1)).toEqual([{ type: 'resume', after: 7 }, send]);

  sockets[0]!.onclose!();
  expect(links.at(-1)).toBe('offline');
  jest.advanceTimersByTime(20_000);
  await tick();
  sockets[1]!.onopen!();
  expect(sockets[1]!.sent).toEqual([{ type: 'resume', after: 7 }, send]);
  sockets[1]!.say({ type: 'ack', id: 'c1', run_id: 'r1' });
  sockets[1]!.say({
    type: 'message',
    role: 'user',
    run_id: 'r1',
    conversation: 'main',
    at,
    seq: 8,
    message_id: 'u',
    content: 'hi',
    done: true,
  });
  expect([state().outbox, state().lastSeq]).toEqual([[], 8]);
  sockets[0]!.say({ ...old, seq: 99 });
  expect(state().lastSeq).toBe(8);
  connection.close();
  jest.useRealTimers();
});

test('no ack: the socket is taken for dead and replaced', async () => {
  jest.useFakeTimers();
  const { connection, sockets } = stage();
  await tick();
  sockets[0]!.onopen!();
  sockets[0]!.say({ type: 'history', conversation: 'main', items: [], more: false });
  connection.submit(message);
  jest.advanceTimersByTime(20_001);
  await tick();
  expect(sockets).toHaveLength(2);
  connection.close();
  jest.useRealTimers();
});

test('a conversation that is gone: said so, and the next one that is shown gets the connection going', async () => {
  const { connection, sockets, refusals } = stage();
  await tick();
  sockets[0]!.onopen!();
  sockets[0]!.say({ type: 'error', code: 'unknown_conversation', message: 'Gone.' });
  expect(refusals).toEqual(['unknown_conversation']);
  connection.show('other');
  sockets[0]!.say({ type: 'history', conversation: 'other', items: [], more: false });
  expect(sockets[0]!.sent.at(-1)).toEqual({ type: 'resume', after: 0 });
  connection.close();
});
