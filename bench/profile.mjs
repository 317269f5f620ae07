// Writes crates/molt/calls.profdata: how often each branch of a model call's code is taken. With it `make release` builds a
// call's usual path straight and close together, and moves the rest out of the way (docs/decisions/0015).
// Needs a proxy that counts (`make profile` builds it) and llvm-profdata of the compiler's LLVM; on Debian: llvm-22.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GW_CORE, LOAD_CORE, UP_PORT, prepare, ready, rigPrograms } from './proxy.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const PROFILE = join(HERE, '..', 'crates', 'molt', 'calls.profdata');
/** Answers in one piece, many short streams (their beginnings and ends count as much as their words), and long ones. */
const LOADS = [
  { upstream: 'chunks=64&delay_us=0&ttfb_us=0', mode: 'nonstream', conns: 1, secs: 5 },
  { upstream: 'chunks=64&delay_us=0&ttfb_us=0', mode: 'nonstream', conns: 64, secs: 3 },
  { upstream: 'chunks=3&delay_us=500&ttfb_us=500', mode: 'stream', conns: 64, secs: 16 },
  { upstream: 'chunks=50&delay_us=10000&ttfb_us=10000', mode: 'stream', conns: 64, secs: 3 },
];
const BIG = { encoding: 'utf8', maxBuffer: 2 ** 30 };

function profdata() {
  const version = /LLVM version: (\d+)/.exec(execFileSync('rustc', ['-vV'], BIG))[1];
  for (const tool of [process.env.LLVM_PROFDATA, `llvm-profdata-${version}`, `/usr/lib/llvm-${version}/bin/llvm-profdata`]) {
    try {
      if (tool && execFileSync(tool, ['--version'], BIG)) return (...args) => execFileSync(tool, args, BIG);
    } catch {
      // Not that one.
    }
  }
  console.error(`make profile needs llvm-profdata ${version}; on Debian: apt-get install llvm-${version}, or name it in LLVM_PROFDATA`);
  return process.exit(1);
}

async function load(bench, upstream, { upstream: settings, mode, conns, secs }) {
  await ready(`http://127.0.0.1:${UP_PORT}/__ctl?${settings}&abort_after=0&status=200`, upstream, 'the upstream');
  const call = ['--url', bench.url, '--model', bench.model, '--header', `Authorization: Bearer ${bench.key}`];
  const args = [join(programs, 'gwload'), ...call, '--mode', mode, '--conns', String(conns), '--secs', String(secs)];
  const { ok, err } = JSON.parse(execFileSync('taskset', ['-c', LOAD_CORE, ...args], BIG));
  console.log(`${mode}, ${conns} at once: ${ok} calls, ${err} failed`);
}

const merge = profdata();
const programs = rigPrograms();
const folder = mkdtempSync(join(tmpdir(), 'molt-profile-'));
// Every program that counts writes when it ends; what the others count is of no use here.
process.env.LLVM_PROFILE_FILE = join(folder, 'other-%p.raw');
const bench = await prepare();
const upstream = spawn('taskset', ['-c', LOAD_CORE, join(programs, 'upstream'), String(UP_PORT)], { stdio: 'ignore' });
const env = { ...bench.env, LLVM_PROFILE_FILE: join(folder, 'proxy-%p.raw') };
const proxy = spawn('taskset', ['-c', GW_CORE, ...bench.command], { env, stdio: ['ignore', 'ignore', 'inherit'] });
const ended = once(proxy, 'exit');
try {
  await ready(new URL('/healthz', bench.url).href, proxy, 'molt proxy');
  for (const each of LOADS) await load(bench, upstream, each);
} finally {
  proxy.kill('SIGTERM');
  await ended;
  upstream.kill();
  await bench.stop();
}
const raw = readdirSync(folder).filter((name) => name.startsWith('proxy-')).map((name) => join(folder, name));
merge('merge', '--sparse', '-o', PROFILE, ...raw);
rmSync(folder, { recursive: true });
console.log(merge('show', PROFILE).split('\n').find((line) => line.startsWith('Total functions')));
