import { Session } from './session';

const user = { id: 'u1', email: 'a@b.c', name: 'A', role: 'user', timezone: 'UTC', created_at: '2026-11-22T11:00:00Z' };
const json = (status: number, body: unknown) => new Response(JSON.stringify(body), { status });

function stage(answers: (() => Response | Promise<Response>)[]) {
  let now = 1_000_000;
  const calls: string[] = [];
  const fetch = (async (path: string) => {
    calls.push(path);
    const next = answers.shift();
    if (!next) throw new TypeError('network');
    return next();
  }) as unknown as typeof globalThis.fetch;
  const session = new Session({ fetch, now: () => now });
  const signedIn = (token: string) => json(200, { token, expires_at: new Date(now + 300_000).toISOString(), user });
  return { session, calls, signedIn, later: (ms: number) => (now += ms) };
}

test('many callers share one refresh, and the token is renewed before it ends', async () => {
  const answers: (() => Response)[] = [];
  const { session, calls, signedIn, later } = stage(answers);
  answers.push(
    () => signedIn('one'),
    () => signedIn('two'),
  );
  expect(await Promise.all([session.token(), session.token(), session.token()])).toEqual(['one', 'one', 'one']);
  expect(calls).toHaveLength(1);
  later(280_000);
  expect(await session.token()).toBe('two');
  expect(calls).toHaveLength(2);
});

test('two requests refused with the same token renew it once', async () => {
  const answers: (() => Response)[] = [];
  const { session, calls, signedIn } = stage(answers);
  answers.push(
    () => signedIn('one'),
    () => signedIn('two'),
  );
  await session.token();
  expect(await Promise.all([session.renew('one'), session.renew('one')])).toEqual(['two', 'two']);
  expect(await session.renew('one')).toBe('two');
  expect(calls).toHaveLength(2);
});

test('a refused cookie signs out; a server that is away does not', async () => {
  const answers: (() => Response)[] = [];
  const { session, signedIn } = stage(answers);
  await session.restore();
  expect(session.get().status).toBe('offline');
  answers.push(() => signedIn('one'));
  await session.restore();
  expect(session.get()).toEqual({ status: 'signed-in', user });
  answers.push(() => json(503, {}));
  await expect(session.renew('one')).rejects.toThrow('The server has a problem');
  expect(session.get().status).toBe('signed-in');
  answers.push(() => json(401, { code: 'session_ended', title: 'Please log in.', status: 401 }));
  expect(await session.token()).toBeNull();
  expect(session.get().status).toBe('signed-out');
});

test('an erased account is signed out, says so, and asks the server nothing more', async () => {
  const answers: (() => Response)[] = [];
  const { session, calls, signedIn } = stage(answers);
  answers.push(() => signedIn('one'));
  await session.restore();
  session.erased();
  expect(session.get()).toEqual({ status: 'signed-out', erased: true });
  expect(await session.token()).toBeNull();
  expect(calls).toHaveLength(1);
});

test('a wrong password is the server’s sentence, and nobody is signed in', async () => {
  const { session } = stage([() => json(401, { code: 'bad_credentials', title: 'No', detail: 'That password is wrong.', status: 401 })]);
  await expect(session.logIn({ email: 'a@b.c', password: 'x' })).rejects.toMatchObject({
    code: 'bad_credentials',
    message: 'No. That password is wrong.',
  });
  expect(session.get().status).toBe('unknown');
});
