// The fleet with 1,000 and with 10,000 bots on a simulated host: runs the benchmark of crates/fleet twice and writes its figures
// into docs/benchmarks.md, between the other figures. Needs Postgres's programs.
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = join(HERE, '..', 'docs', 'benchmarks.md');
const TITLE = '## The fleet with ten thousand bots';
const SIZES = (process.env.SIZES ?? '1000,10000').split(',').map(Number);

function run(bots) {
  const child = spawn('cargo', ['bench', '--quiet', '-p', 'molt-fleet', '--bench', 'fleet'], {
    cwd: join(HERE, '..'),
    env: { ...process.env, BOTS: String(bots) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (piece) => (text += piece));
    child.once('exit', (code) => (code === 0 ? resolve(text) : reject(new Error(`${bots} bots: the benchmark ended with ${code}`))));
  });
}

const figures = new Map();
for (const bots of SIZES) {
  console.log(`${bots} bots`);
  for (const [, what, figure] of (await run(bots)).matchAll(/^\| (.+) \| (.+) \|$/gm)) {
    console.log(`  ${what.padEnd(56)} ${figure}`);
    if (!figures.has(what)) figures.set(what, []);
    figures.get(what).push(figure);
  }
}

const lines = [...figures].map(([what, row]) => `| ${what} | ${row.join(' | ')} |`);
const section = `${TITLE}

Written by \`node bench/fleet.mjs\`. One process with two worker threads, one person a bot, no chat open; a private Postgres
that waits for its disk, on the same two cores; a simulated host whose calls take 20 ms, of which 0.5 % fail before they do
anything and 0.5 % lose their answer, and whose cells are ready 3 s after their start and answer over TCP; health asked every
60 s with 10,000 bots. The outage takes every machine away for ten seconds. The cells' own time isn't in the fleet's share.
Goals: all running, under 2 % of a core when steady, no query that grows with the healthy bots, no call beyond the limit.

| | ${SIZES.map((size) => size.toLocaleString('en')).join(' bots | ')} bots |
|---|${'---|'.repeat(SIZES.length)}
${lines.join('\n')}
`;
// In its place, where it has one: what stands before and after it is other programs'.
const page = readFileSync(PAGE, 'utf8');
const own = new RegExp(`\\n${TITLE}[^]*?(?=\\n## |$)`);
const whole = own.test(page) ? page.replace(own, () => `\n${section.trimEnd()}\n`) : `${page.trimEnd()}\n\n${section}`;
writeFileSync(PAGE, whole);
