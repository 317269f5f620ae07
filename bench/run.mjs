// How fast and how small the product is on this machine: start, memory, and model calls through Ghost Key. Works in a
// folder of its own with the practice model, and never touches an installation.
import { spawn, execFile } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const MOLT = join(dirname(fileURLToPath(import.meta.url)), '..', 'target', 'debug', 'molt');
const CALLS = Number(process.env.CALLS ?? 600);
const AT_ONCE = [1, 8, 32];
const READY_WITHIN_MS = 60_000;

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const folder = await mkdtemp(join(tmpdir(), 'molt-bench-'));
// Postgres runs as an account of its own when this is root, and must get there.
await chmod(folder, 0o711);
const port = await freePort();
const base = `http://127.0.0.1:${port}`;
const options = ['--data-dir', folder, '--listen', `127.0.0.1:${port}`];
const env = {
  ...process.env,
  DATABASE_URL: '',
  MOLT_PRACTICE_PACE_MS: '0',
  MOLT_OPERATOR_LISTEN: '127.0.0.1:0',
  // No bot is started here, so none needs a runtime.
  MOLT_RUNTIME__COMMAND: '["true"]',
};

async function start() {
  const begun = performance.now();
  const child = spawn(MOLT, ['dev', ...options], { env, stdio: ['ignore', 'ignore', 'inherit'] });
  while (performance.now() - begun < READY_WITHIN_MS) {
    const answer = await fetch(`${base}/readyz`).catch(() => null);
    if (answer?.ok) return { child, ms: performance.now() - begun };
    if (child.exitCode !== null) throw new Error('molt dev ended');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error('molt dev did not get ready');
}

const stop = (child) =>
  new Promise((resolve) => {
    child.once('exit', resolve);
    child.kill('SIGINT');
  });

async function residentMib(pid) {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? NaN) / 1024;
}

async function json(path, body, token) {
  const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(path.startsWith('http') ? path : base + path, {
    method: 'POST',
    headers,
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}

async function ghostKey() {
  const person = { email: 'bench@example.com', password: 'a long enough one', name: 'Bench' };
  const { token } = await json('/api/auth/signup', person);
  const { url } = await json('/api/billing/checkout', {}, token);
  await json(url, {}, token);
  const { stdout } = await promisify(execFile)(MOLT, ['keys', 'create', '--user', person.email, ...options], { env });
  return stdout.trim();
}

async function call(key) {
  const begun = performance.now();
  const answer = await fetch(`${base}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: 'practice/practice-1', messages: [{ role: 'user', content: 'Hello there' }], stream: true }),
  });
  const text = await answer.text();
  if (!answer.ok || !text.includes('[DONE]')) throw new Error(`a call failed: ${answer.status} ${text.slice(0, 200)}`);
  return performance.now() - begun;
}

async function calls(key, atOnce) {
  const times = [];
  const begun = performance.now();
  let left = CALLS;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (left-- > 0) times.push(await call(key));
    }),
  );
  const seconds = (performance.now() - begun) / 1000;
  times.sort((a, b) => a - b);
  const at = (share) => times[Math.min(times.length - 1, Math.floor(times.length * share))].toFixed(1);
  return `${(CALLS / seconds).toFixed(0)} calls/s, half within ${at(0.5)} ms, 99 % within ${at(0.99)} ms`;
}

let running;
try {
  running = await start();
  console.log(`first start, database made      ${(running.ms / 1000).toFixed(2)} s`);
  await stop(running.child);
  running = await start();
  console.log(`second start                    ${(running.ms / 1000).toFixed(2)} s`);
  console.log(`memory after the start          ${(await residentMib(running.child.pid)).toFixed(1)} MiB`);
  const key = await ghostKey();
  for (const atOnce of AT_ONCE) {
    console.log(`streamed calls, ${String(atOnce).padStart(2)} at once       ${await calls(key, atOnce)}`);
  }
  console.log(`memory after ${String(CALLS * AT_ONCE.length).padEnd(5)} calls        ${(await residentMib(running.child.pid)).toFixed(1)} MiB`);
} finally {
  if (running?.child.exitCode === null) await stop(running.child);
  await rm(folder, { recursive: true, force: true });
}
