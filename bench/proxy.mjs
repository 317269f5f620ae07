// One Ghost Key proxy, release build, in front of the gateway rig's upstream, with everything on: prints its address and
// a key, and runs until it is stopped. A second process beside it (`molt dev`) holds the database and the account.
// With --command it starts no proxy and prints how to start one, so that a rig can time the start.
//
// PORT (27900), OPERATOR_PORT (27902), UP_PORT (18080), GW_CORE (0), LOAD_CORE (1): where they listen and on which cores they
// run. The database shares the load's core: in an installation it has a machine of its own, and here it should not take the
// time of the load. It runs at nice 19, which holds within a session only where the kernel groups processes by sessions
// (sched_autogroup), and each of Postgres's processes has its own: gateway.mjs switches that off for its run, waits for what is
// left behind, and counts it.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
export const RIG = join(ROOT, 'bench', 'gateway-rig');
const PROGRAMS = join(RIG, 'gwrig', 'target', 'release');
const MOLT = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'release', 'molt');
const PORT = Number(process.env.PORT ?? 27900);
const OPERATOR_PORT = Number(process.env.OPERATOR_PORT ?? 27902);
export const UP_PORT = Number(process.env.UP_PORT ?? 18080);
export const GW_CORE = process.env.GW_CORE ?? '0';
export const LOAD_CORE = process.env.LOAD_CORE ?? '1';
const READY_WITHIN_MS = 60_000;
/** High enough to be in nobody's way; the checks are made all the same. */
const SETTINGS = `
monthly_cap_usd = "1000000"
[limits.bot]
requests_per_minute = 100000000
tokens_per_minute = 1000000000000
calls_at_once = 10000
[limits.user]
requests_per_minute = 100000000
tokens_per_minute = 1000000000000
calls_at_once = 10000
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:${UP_PORT}/v1"
api_key_env = "RIG_UPSTREAM_KEY"
[[providers.up.models]]
name = "gpt-4o-mini"
title = "The rig's model"
input_usd = "0.15"
output_usd = "0.6"
cache_read_usd = "0.075"
context_window = 128000
output_max = 16384
strengths = "Answers at once."
`;

export const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

/** Where the rig's own load and upstream are, built when they are missing. */
export function rigPrograms() {
  if (!existsSync(join(PROGRAMS, 'gwload'))) {
    const env = { ...process.env };
    delete env.CARGO_TARGET_DIR;
    execFileSync('cargo', ['build', '--release', '--quiet', '--locked'], { cwd: join(RIG, 'gwrig'), env, stdio: 'inherit' });
  }
  return PROGRAMS;
}

export async function ready(url, child, what) {
  const begun = performance.now();
  while (performance.now() - begun < READY_WITHIN_MS) {
    const answer = await fetch(url).catch(() => null);
    if (answer?.ok) return;
    if (child.exitCode !== null) throw new Error(`${what} ended`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`${what} did not get ready`);
}

async function post(base, path, body, token) {
  const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(path.startsWith('http') ? path : base + path, { method: 'POST', headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}

/** The platform beside the proxy: its database's address, and a key of a person with a plan. */
async function platform(folder, config, env) {
  const port = await freePort();
  const base = `http://127.0.0.1:${port}`;
  const options = ['--config', config, '--data-dir', join(folder, 'platform'), '--listen', `127.0.0.1:${port}`];
  const beside = { ...env, MOLT_OPERATOR_LISTEN: '127.0.0.1:0', MOLT_RUNTIME__COMMAND: '["true"]', MOLT_RUNTIME__CELL: '/bin/true' };
  const child = spawn('nice', ['-n', '19', 'taskset', '-c', LOAD_CORE, MOLT, 'dev', ...options], { env: beside, stdio: ['ignore', 'ignore', 'inherit'] });
  await ready(`${base}/readyz`, child, 'molt dev');
  const person = { email: 'bench@example.com', password: 'a long enough one', name: 'Bench' };
  const { token } = await post(base, '/api/auth/signup', person);
  const { url } = await post(base, '/api/billing/checkout', {}, token);
  await post(base, url, {}, token);
  const { stdout } = await run(MOLT, ['keys', 'create', '--user', person.email, ...options], { env: beside });
  const note = await readFile(join(folder, 'platform/postgres/cluster/postmaster.pid'), 'utf8');
  const [, , , socketPort, socketFolder] = note.split('\n');
  const database = `postgres://molt_app@localhost:${socketPort}/molt?host=${encodeURIComponent(socketFolder)}`;
  const seal = (await readFile(join(folder, 'platform/seal.key'), 'utf8')).trim();
  return { child, seal, key: stdout.trim().split('\n').at(-1).trim(), database };
}

/** Everything but the proxy itself: `command` and `env` start it, `stop` ends and removes what was begun here. */
export async function prepare() {
  const folder = await mkdtemp(join(tmpdir(), 'molt-bench-'));
  // Postgres runs as an account of its own when this is root, and must get there.
  await chmod(folder, 0o711);
  const config = join(folder, 'molt.toml');
  await writeFile(config, SETTINGS);
  await mkdir(join(folder, 'proxy'));
  const env = { ...process.env, DATABASE_URL: '', RIG_UPSTREAM_KEY: 'sk-master-of-the-rig' };
  const { child, seal, key, database } = await platform(folder, config, env);
  const command = [MOLT, 'proxy', '--config', config, '--data-dir', join(folder, 'proxy'), '--listen', `127.0.0.1:${PORT}`];
  const stop = async () => {
    if (child.exitCode === null) {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGINT');
      await ended;
    }
    await rm(folder, { recursive: true, force: true });
  };
  const proxyEnv = { ...env, DATABASE_URL: database, MOLT_SEAL_KEY: seal, MOLT_OPERATOR_LISTEN: `127.0.0.1:${OPERATOR_PORT}` };
  return { command, env: proxyEnv, key, url: `http://127.0.0.1:${PORT}/v1/chat/completions`, model: 'up/gpt-4o-mini', metrics: `http://127.0.0.1:${OPERATOR_PORT}/metrics`, stop };
}

async function main() {
  const bench = await prepare();
  const proxy = spawn('taskset', ['-c', GW_CORE, ...bench.command], { env: bench.env, stdio: ['ignore', 'ignore', 'inherit'] });
  const end = async () => {
    proxy.kill('SIGINT');
    await bench.stop();
    process.exit(0);
  };
  process.on('SIGINT', end);
  process.on('SIGTERM', end);
  await ready(`http://127.0.0.1:${PORT}/healthz`, proxy, 'molt proxy');
  console.log(`URL    ${bench.url}\nMODEL  ${bench.model}\nKEY    ${bench.key}\nPID    ${proxy.pid}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
