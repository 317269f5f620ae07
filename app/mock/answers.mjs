// What the pretended assistant answers: one script for each thing that the chat can show.
// Never: clever. A word in the message picks the script.

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

const RICH = `## A plan for Saturday

Here is a **short plan**, with *options* and one \`command\`:

1. Take the 9:04 train, see [the timetable](https://example.org/trains)
2. Walk along the river
   - bring water
   - and a hat
3. Be back by six

> The best trips have one thing planned and two left open.

\`\`\`python
def cost(tokens_in, tokens_out):
    """Nano-dollars, never floating point."""
    return (tokens_in * 150 + tokens_out * 600) * 12 // 10
\`\`\`

| Train | Leaves | Price |
|---|---|--:|
| RE 7 | 9:04 | $12.40 |
| IC 2213 | 9:31 | $24.00 |

<b>Tags</b> stay text, and [this link](javascript:alert(1)) is none.`;

const CAP =
  "I stopped here because this month's spending limit of $20.00 is reached. You can raise the limit here, and I answer again at once: http://127.0.0.1:8912/app/usage Otherwise I'm back on 1 December.";

const RTL = `أهلاً وسهلاً. هذه خطة قصيرة ليوم السبت:

- خذ قطار الساعة 9:04
- امشِ على ضفة النهر

> רכבת יוצאת בתשע וארבע דקות.

And one line from left to right, with שלום in it.`;

const LONG = `A word: ${'Donaudampfschifffahrtsgesellschaftskapitän'.repeat(6)}

Inline \`${'a_very_long_identifier_that_never_ends_'.repeat(4)}\` and https://example.org/${'path-that-goes-on/'.repeat(12)}

\`\`\`
${'one line of code that is much wider than any phone; '.repeat(6)}
\`\`\`

| ${'header'.repeat(8)} | b | c | d |
|---|---|---|---|
| ${'cell'.repeat(30)} | ${'words and words '.repeat(8)} | 3 | 4 |

1. First
   1. Nested
      - Deeper ${'and deeper '.repeat(12)}
10. Tenth
- [x] Done
- [ ] Open`;

export async function playAnswer(run, emit) {
  const pace = /slow/.test(run.text) ? 140 : 25;
  emit({ type: 'run', phase: 'started' });
  await sleep(pace * 6);
  if (/think|plan|train/i.test(run.text))
    await stream(
      run,
      emit,
      'thinking',
      't1',
      'The person wants something for Saturday. Trains are preferred over planes; I wrote that down last week. I will offer one plan and leave room.',
      pace,
    );
  if (/remember|train/i.test(run.text)) await remember(emit, pace);
  if (/allow/.test(run.text) && !(await approve(run, emit))) return end(emit, 'finished');
  if (/fail/.test(run.text))
    return end(emit, 'failed', {
      code: 'provider_unavailable',
      message: 'The model did not answer in time. Your message is kept; trying again is safe.',
      retry: true,
    });
  const text = /spend/.test(run.text)
    ? CAP
    : /arabic/.test(run.text)
      ? RTL
      : /long/.test(run.text)
        ? LONG
        : /plan|train/i.test(run.text)
          ? RICH
          : /slow/.test(run.text)
            ? 'One word after the other, so that there is time to press stop. '.repeat(12)
            : `Here is a short answer to “${run.text.slice(0, 60)}”. I am a pretended assistant; the real one has more to say.`;
  await stream(run, emit, 'message', 'm1', text, pace);
  if (run.stopped) return end(emit, 'aborted');
  emit({ type: 'usage', model: 'practice/practice-1', tokens_in: 412, tokens_out: 96, cost_usd: '0.00014328', duration_ms: 1400 });
  return end(emit, 'finished');
}

const end = (emit, phase, error) => emit({ type: 'run', phase, error });

async function stream(run, emit, type, message_id, text, pace) {
  const role = 'assistant';
  let said = '';
  for (const delta of text.match(/\S+\s*/g) ?? []) {
    if (run.stopped) break;
    said += delta;
    emit({ type, role, message_id, delta, done: false });
    await sleep(pace);
  }
  emit({ type, role, message_id, content: said, done: true });
}

async function remember(emit, pace) {
  const file = 'memory/2026-11-22.md';
  emit({ type: 'tool_call', call_id: 'c1', tool: 'write', args: { path: file, content: '- likes trains more than planes\n' } });
  await sleep(pace * 20);
  emit({ type: 'tool_result', call_id: 'c1', tool: 'write', result: `Successfully wrote 32 bytes to ${file}`, success: true });
  emit({ type: 'memory_access', action: 'write', file });
  emit({ type: 'tool_call', call_id: 'c2', tool: 'exec', args: { command: 'cat /etc/secret' } });
  await sleep(pace * 4);
  emit({ type: 'tool_result', call_id: 'c2', tool: 'exec', result: 'cat: /etc/secret: No such file or directory', success: false });
}

async function approve(run, emit) {
  const decided = new Promise((done) => (run.approvals.a1 = done));
  emit({ type: 'approval', approval_id: 'a1', tool: 'exec', args: { command: 'rm -r build' } });
  return (await decided) !== 'no';
}
