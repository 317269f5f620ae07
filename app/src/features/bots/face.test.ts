import { awayWord, checkoutAddress, closedWord, faceOf, overallMs, timeline, unusualWord } from './face';

const bot = (status: 'provisioning' | 'running' | 'stopped' | 'error', phase: string = status) => ({ status, phase, applied_revision: 0 });

test('each state has its page', () => {
  const table = [
    [bot('provisioning', 'awaiting_plan'), false, 'plan'],
    [bot('provisioning'), false, 'starting'],
    [bot('provisioning'), true, 'chat'],
    [bot('error'), false, 'failed'],
    [bot('error'), true, 'chat'],
    [bot('running'), false, 'chat'],
    [{ ...bot('provisioning'), applied_revision: 1 }, false, 'chat'],
    [bot('stopped'), false, 'chat'],
  ] as const;
  for (const [state, was, face] of table) expect(faceOf(state, was)).toBe(face);
  const pip = { bot_name: 'Pip', suspended: null };
  expect(awayWord({ ...pip, status: 'running', reason: null })).toBeNull();
  expect(awayWord({ ...pip, status: 'running', reason: 'A change was undone.' })).toBe('A change was undone.');
  expect(awayWord({ ...pip, status: 'error', reason: 'No room left.' })).toBe('No room left.');
  expect(awayWord({ ...pip, status: 'stopped', reason: null })).toBe('Pip is stopped.');
});

test('a suspended bot says why, since when and what mends it, above the chat and where one writes', () => {
  const suspended = {
    cause: 'plan_ended' as const,
    reason: 'The plan has ended.',
    since: '2026-11-28T12:00:00Z',
    mend: 'Renew the plan, and it goes on by itself.',
  };
  const pip = { bot_name: 'Pip', status: 'stopped' as const, reason: 'The plan has ended.', suspended };
  const whole = 'Pip is suspended since 28 November 2026. The plan has ended. Renew the plan, and it goes on by itself.';
  expect(awayWord(pip, 'en-GB')).toBe(whole);
  // Seen last as it failed: what was decided since counts.
  expect(awayWord({ ...pip, status: 'error', reason: 'No room left.' }, 'en-GB')).toBe(whole);
  expect(faceOf({ ...bot('stopped', 'suspended'), applied_revision: 0 }, false)).toBe('chat');
  expect(closedWord(pip)).toMatch(/^Pip is suspended and takes no messages/);
  expect(closedWord({ bot_name: 'Pip', suspended: null })).toBeNull();
});

test('what was noticed is said with what was done about it', () => {
  const since = '2026-11-22T09:00:00Z';
  const word = (caution: 'calm' | 'warned' | 'slowed' | 'paused', reason = 'It asked the same 12 times.') =>
    unusualWord({ bot_name: 'Pip', unusual: { caution, reason, since } });
  expect(unusualWord({ bot_name: 'Pip', unusual: null })).toBeNull();
  expect(word('warned')).toEqual({ kind: 'warn', text: 'It asked the same 12 times.', action: 'All is well' });
  expect(word('slowed')?.text).toBe('Pip thinks only a few times a minute for now. It asked the same 12 times.');
  expect(word('paused')).toEqual({ kind: 'bad', text: 'Pip is paused. It asked the same 12 times.', action: 'Resume' });
  expect(word('paused', '')?.text).toBe('Pip is paused. Something about its use looked unusual.');
});

test('the timeline counts what ended, what runs and what is late', () => {
  const at = (second: number) => new Date(second * 1000).toISOString();
  const step = (name: string, start: number, end: number | null) => ({
    name,
    sentence: name,
    started_at: at(start),
    deadline_at: at(start + 10),
    ended_at: end === null ? null : at(end),
    outcome: end === null ? null : ('done' as const),
  });
  const steps = [step('a', 0, 2), step('b', 2, null)];
  expect(timeline(steps, 7_000).map((row) => [row.state, row.elapsedMs])).toEqual([
    ['done', 2000],
    ['now', 5000],
  ]);
  expect(timeline(steps, 13_000)[1]!.state).toBe('late');
  expect([overallMs(steps, 7_000), overallMs([], 7_000)]).toEqual([7000, 0]);
});

test('our own payments page keeps the address, a stranger’s does not change', () => {
  expect(checkoutAddress('http://127.0.0.1:8787/checkout/co_1')).toBe('/checkout/co_1');
  expect(checkoutAddress('https://checkout.stripe.com/c/pay/cs_1')).toBe('https://checkout.stripe.com/c/pay/cs_1');
});
