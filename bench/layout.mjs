// Writes crates/molt/calls.ld: which functions a model call runs, most time first, for the linker to lay side by side. After
// a tenth of a second without a call most of a call's time is the wait for code that the processor has forgotten; on
// neighbouring pages it comes back sooner.
// Needs perf and nm, the release build, and root (or a perf_event_paranoid below 1). SECS (40): how long it watches.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GW_CORE, LOAD_CORE, UP_PORT, prepare, ready } from './proxy.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const SCRIPT = join(HERE, '..', 'crates', 'molt', 'calls.ld');
const RIG = join(HERE, 'gateway-rig', 'gwrig', 'target', 'release');
const SECS = Number(process.env.SECS ?? 40);
/** Nanoseconds of a call's thread between two looks. */
const PERIOD = 9000;
/** A name that more functions share than this is written with its hash: all of them would drag in what no call runs. */
const ALIKE_MAX = 4;
const BUFFER = { encoding: 'utf8', maxBuffer: 2 ** 30, stdio: ['ignore', 'pipe', 'ignore'] };

/** What the compiler puts behind a name changes with the code; the name stays. */
const withoutHash = (name) => name.replace(/17h[0-9a-f]{16}E$/, '17h*');

/** Functions of a program by address. */
function functions(program) {
  const lines = execFileSync('nm', ['-n', '-S', '--defined-only', program], BUFFER).split('\n');
  const found = lines.map((line) => /^([0-9a-f]+) ([0-9a-f]+) [tTwW] (\S+)$/.exec(line)).filter(Boolean);
  return found.map(([, at, size, name]) => ({ at: Number.parseInt(at, 16), size: Number.parseInt(size, 16), name }));
}

function functionAt(all, address) {
  let [low, high] = [0, all.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (all[middle].at <= address) low = middle + 1;
    else high = middle;
  }
  const before = all[low - 1];
  return before && address < before.at + before.size ? before : null;
}

/** Where the program's own code lies in the process. */
function base(pid, program) {
  const line = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n').find((each) => each.includes(program));
  return Number.parseInt(line.split('-')[0], 16);
}

function callThread(pid) {
  const folder = `/proc/${pid}/task`;
  return readdirSync(folder).find((thread) => readFileSync(`${folder}/${thread}/comm`, 'utf8').startsWith('ghost-'));
}

/** Addresses at which the thread was seen while one stream after the other went through it, word by word. */
function watch(thread, bench) {
  const data = join(mkdtempSync(join(tmpdir(), 'molt-layout-')), 'perf.data');
  const load = ['--url', bench.url, '--model', bench.model, '--header', `Authorization: Bearer ${bench.key}`, '--mode', 'stream', '--conns', '1', '--secs', String(SECS)];
  const event = ['-q', '-e', 'cpu-clock:u', '-c', String(PERIOD), '-t', thread, '-o', data];
  execFileSync('perf', ['record', ...event, '--', 'taskset', '-c', LOAD_CORE, join(RIG, 'gwload'), ...load], { stdio: 'ignore' });
  const seen = execFileSync('perf', ['script', '-i', data, '-F', 'ip'], BUFFER);
  return seen.split('\n').filter((line) => line.trim()).map((line) => Number.parseInt(line.trim(), 16));
}

function script(names) {
  return `/* The functions that a model call runs, most time first, by bench/layout.mjs. A name that is gone does no harm. */
SECTIONS {
  .text.calls : {
${names.map((name) => `    *(.text.${name})`).join('\n')}
  }
}
INSERT BEFORE .text;
`;
}

const bench = await prepare();
const upstream = spawn('taskset', ['-c', LOAD_CORE, join(RIG, 'upstream'), String(UP_PORT)], { stdio: 'ignore' });
const proxy = spawn('taskset', ['-c', GW_CORE, ...bench.command], { env: bench.env, stdio: ['ignore', 'ignore', 'inherit'] });
try {
  await ready(new URL('/healthz', bench.url).href, proxy, 'molt proxy');
  await ready(`http://127.0.0.1:${UP_PORT}/__ctl?chunks=20&delay_us=5000&ttfb_us=5000&abort_after=0&status=200`, upstream, 'the upstream');
  const all = functions(bench.command[0]);
  const alike = new Map();
  for (const { name } of all) alike.set(withoutHash(name), (alike.get(withoutHash(name)) ?? 0) + 1);
  const times = new Map();
  const from = base(proxy.pid, bench.command[0]);
  for (const address of watch(callThread(proxy.pid), bench)) {
    const name = functionAt(all, address - from)?.name;
    // Behind a dot stands a number that the linker gave.
    if (name && !/\.\d+$/.test(name)) times.set(name, (times.get(name) ?? 0) + 1);
  }
  const names = [...times].sort((a, b) => b[1] - a[1]).map(([name]) => (alike.get(withoutHash(name)) > ALIKE_MAX ? name : withoutHash(name)));
  const once = [...new Set(names)];
  writeFileSync(SCRIPT, script(once));
  console.log(`${once.length} functions in ${SCRIPT}`);
} finally {
  proxy.kill('SIGINT');
  upstream.kill();
  await bench.stop();
}
