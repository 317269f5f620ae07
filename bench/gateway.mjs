// Ghost Key against nginx, on this machine: everything on, one core for the gateway, ratios within one run. Prints the
// rig's tables and writes docs/benchmarks.md. Needs nginx, python3 and taskset. ROUNDS (9) and SECS (3) set the length, a
// quarter of an hour: on a shared machine nginx's own CPU per chunk differs by half between two rounds.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RIG, prepare, rigPrograms } from './proxy.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = join(HERE, '..', 'docs', 'benchmarks.md');
const NAME = 'molt';
const GROUPS = '/proc/sys/kernel/sched_autogroup_enabled';
const HELD = `It takes what the load leaves
(the kernel's grouping by sessions, under which nice counts within one session only, is off for the run).`;
const NOT_HELD = `That is so in name only here:
each of Postgres's processes begins a session, and the kernel shares a core out by sessions first (\`sched_autogroup\`), which
only root may switch off.`;

/** Our goals, and the best of the other gateways that were measured with the same rig, bare (see the page's end). */
const ROWS = [
  { what: 'CPU per request, 1 KB, 64 connections', peer: '4.4', goal: 1.6, most: true, of: ratio('c64', 'cpu_us_req') },
  { what: 'requests per second, 64 connections', peer: '0.22', goal: 0.65, of: ratio('c64', 'rps') },
  { what: 'CPU per chunk, 64 paced streams', peer: '1.7', goal: 1.2, most: true, of: ratio('sse_paced_c64', 'cpu_us_chunk') },
  { what: 'SSE flood, chunks per second', peer: '0.13', goal: 0.15, of: ratio('sse_flood_c8', 'chunks_per_s') },
  { what: 'added time to first token, one stream', peer: '1.5', goal: 1.2, most: true, of: addedTtft },
];

function median(values) {
  const sorted = values.filter((value) => value != null).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const figure = (result, target, test, key) => median((result.res[target][test] ?? []).map((round) => round[key]));

function ratio(test, key) {
  return (result) => figure(result, NAME, test, key) / figure(result, 'nginx', test, key);
}

function addedTtft(result) {
  const added = (target) => figure(result, target, 'sse_paced_c1', 'ttft_p50_us') - figure(result, 'direct', 'sse_paced_c1', 'ttft_p50_us');
  return added(NAME) / added('nginx');
}

const says = (command, ...args) => {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  return `${stdout ?? ''}${stderr ?? ''}`.trim().split('\n')[0];
};

function errors(result) {
  let count = 0;
  for (const rounds of Object.values(result.res[NAME])) for (const round of rounds) count += (round.err ?? 0) + (round.incomplete ?? 0) + (round.fail ? 1 : 0);
  return count;
}

/** The longest that the books were behind after a run, in seconds. */
function behind(result) {
  const all = Object.values(result.res[NAME]).flat();
  return Math.max(...all.map((round) => round.behind_s ?? 0));
}

/**
 * A kernel that shares a core out by sessions first (sched_autogroup) makes each of Postgres's processes as weighty as all of
 * the load, whatever its nice says. That is switched off until the end, where it may be. Whether nice counts now.
 */
function byPriority() {
  const grouped = () => existsSync(GROUPS) && readFileSync(GROUPS, 'utf8').trim() === '1';
  if (!grouped()) return true;
  try {
    writeFileSync(GROUPS, '0');
  } catch {
    return false;
  }
  process.once('exit', () => writeFileSync(GROUPS, '1'));
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
  return true;
}

function page(result, tables, cold, held) {
  const { idle_rss: idle, after_rss: after, peak_rss: peak } = result.meta[NAME];
  const met = (ok) => (ok ? 'yes' : '**no**');
  const lines = ROWS.map(({ what, peer, goal, most, of }) => {
    const value = of(result);
    return `| ${what} | ${peer} | ${most ? '≤' : '≥'} ${goal} | ${value.toFixed(2)} | ${met(most ? value <= goal : value >= goal)} |`;
  });
  lines.push(`| resident memory, idle / after load, MiB | 12.5 / 22 | ≤ 15 / ≤ 30 | ${idle.toFixed(1)} / ${after.toFixed(1)} (peak ${peak.toFixed(1)}) | ${met(idle <= 15 && after <= 30)} |`);
  lines.push(`| cold start to the first 200, ms | 17–85 | ≤ 100 | ${cold} | ${met(cold <= 100)} |`);
  return `# Benchmarks

Written by \`make bench\` on ${new Date(result.when * 1000).toISOString().slice(0, 10)}. Another run overwrites it.

## Ghost Key as a gateway

One gateway core, release build, everything on: key check, limits, reservation, journal, usage forced and stripped, books
written to Postgres. Ratios to nginx in the same run, medians of the rounds; the machine is shared, so ratios hold and
absolute figures don't.

The gateway's CPU is all of its process, from before the first call of a run until the last one of it is in the books. The
database isn't the gateway, but it shares the load's core, at nice 19. ${held ? HELD : NOT_HELD} No
run begins, ours or nginx's, before the books are equal. The books were at most ${behind(result).toFixed(1)} s behind after a run.

| | best peer, bare | goal | here | met |
|---|---|---|---|---|
${lines.join('\n')}

Failed, short or wrong answers in all rounds: ${errors(result)}.

The peers' figures are Busbar's, the fastest of eight gateways that were measured with this rig in November 2026 without
budgets, journal or key check; cold starts are of several.

## What it ran on

${cpus().length} cores of ${cpus()[0].model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}; ${says('nginx', '-v')}; ${says('rustc', '--version')}.
The gateway has core 0; the rig's upstream, its load, and Postgres (nice 19) have core 1.

## The rig's tables

${tables.trim()}
`;
}

for (const tool of ['nginx', 'python3', 'taskset']) {
  if (!says('sh', '-c', `command -v ${tool}`)) {
    console.error(`make bench needs ${tool}; on Debian: apt-get install nginx-light python3 util-linux`);
    process.exit(1);
  }
}
rigPrograms();
const held = byPriority();
const bench = await prepare();
const out = join(mkdtempSync(join(tmpdir(), 'molt-gateway-')), 'result.json');
try {
  const env = { ROUNDS: '9', ...bench.env, OUT: out, MODEL: bench.model, GW_CMD: bench.command.join(' ') };
  Object.assign(env, { SETTLE_URL: bench.metrics, SETTLE_METRIC: 'molt_ghost_journal_unbooked' });
  const rig = spawnSync('bash', [join(RIG, 'run.sh'), NAME, bench.url, `Authorization: Bearer ${bench.key}`], {
    env: { ...env, LOG: join(dirname(out), 'log') },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 24,
  });
  if (rig.status !== 0) throw new Error(`the rig failed: ${rig.stdout}`);
  console.log(rig.stdout);
  const cold = Number(/cold start to first 200: (\d+) ms/.exec(rig.stdout)?.[1]);
  const tables = rig.stdout.replace(/^cold start.*\n?/m, '');
  const result = JSON.parse(readFileSync(out, 'utf8'));
  if (!(result.meta[NAME].idle_rss > 0) || !(cold > 0)) throw new Error('the proxy did not run; see the rig\'s log');
  const text = page(result, tables, cold, held);
  // What stands from the fleet's figures on is other programs'.
  const others = /\n## The fleet [^]*$/.exec(readFileSync(PAGE, 'utf8'))?.[0] ?? '';
  writeFileSync(PAGE, text.trimEnd() + '\n' + others);
  console.log(text.slice(text.indexOf('| |'), text.indexOf('## What it ran on')));
} finally {
  await bench.stop();
}
