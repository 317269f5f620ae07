// A development aid for working on the looks: serves app/dist at /app and site/ at /, and pretends to be the API.
// Never: the truth about the API (front-door.md and openapi.json are), nor part of what is shipped.
//   npm run build && npm run mock [port] [folder of the build]; POST /mock/<knob> turns what the pages show (see `knobs`).

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { WebSocketServer } from 'ws';
import { playAnswer } from './answers.mjs';

const here = import.meta.dirname;
const port = Number(process.argv[2] ?? 8912);
const built = process.argv[3] ?? join(here, '../dist');
// The hash is that of the empty text: react-native-web makes an empty style element and fills it by script.
const CSP =
  process.env.CSP ??
  "default-src 'self'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'";
const types = {
  '.html': 'text/html',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.svg': 'image/svg+xml',
  '.json': 'application/json',
  '.png': 'image/png',
};

const world = {
  user: null,
  signedIn: false,
  signup: 'open',
  bots: [],
  seq: 0,
  log: [],
  messages: new Map(),
  runs: new Map(),
  slow: 0,
  refuse: null,
  conversations: [{ id: 'main', title: '', archived: false, updated_at: new Date().toISOString() }],
  egress: { allowed: [{ domain: '*.example.net', source: 'operator', since: null }], refused: [] },
  plan: null,
  spent: 1_234_567n,
  cap: '20',
  streams: new Set(),
  sockets: new Set(),
  boot: true,
};
const now = () => new Date().toISOString();
const later = (ms) => new Date(Date.now() + ms).toISOString();
const json = (res, status, body) =>
  res.writeHead(status, { 'content-type': status >= 400 ? 'application/problem+json' : 'application/json' }).end(JSON.stringify(body));
const problem = (res, status, code, detail, field) => json(res, status, { code, title: code, status, detail, field });

function event(kind, bot) {
  for (const res of world.streams) res.write(`id: ${Date.now()}\ndata: ${JSON.stringify({ kind, bot_id: bot?.id, body: {} })}\n\n`);
}

const planOf = (in_force) => ({
  in_force,
  status: in_force ? 'active' : 'ended',
  period_start: later(-20 * 86_400_000),
  period_end: later((in_force ? 11 : -2) * 86_400_000),
  ends_at: in_force ? null : later(-2 * 86_400_000),
});

function newBot({ bot_name, vertical, timezone }) {
  const settings = {
    bot_name,
    personality: 'friendly',
    timezone,
    default_model: 'practice/practice-1',
    fallback_model: null,
    notifications: { email: true, push: false, daily_summary_at: null },
  };
  const bot = {
    id: `bot${world.bots.length + 1}`,
    bot_name,
    vertical,
    status: 'provisioning',
    phase: 'awaiting_plan',
    reason: null,
    suspended: null,
    steps: [],
    settings,
    revision: 1,
    applied_revision: 0,
    unusual: null,
    cap_usd: null,
  };
  world.bots.push(bot);
  return bot;
}

const STEPS = [
  ['host', 'Making a place of its own'],
  ['runtime', 'Starting the assistant’s runtime'],
  ['join', 'Getting to know each other'],
  ['ready', 'Ready to talk'],
];

async function start(bot, failAt = -1) {
  Object.assign(bot, { status: 'provisioning', phase: 'starting', reason: null, steps: [] });
  for (const [index, [name, sentence]] of STEPS.entries()) {
    const step = { name, sentence, started_at: now(), deadline_at: later(20_000), ended_at: null, outcome: null };
    bot.steps.push(step);
    event('bot.changed', bot);
    await new Promise((done) => setTimeout(done, world.boot ? 900 : 50));
    if (world.hold) return;
    Object.assign(step, { ended_at: now(), outcome: index === failAt ? 'failed' : 'done' });
    if (index === failAt) {
      Object.assign(bot, {
        status: 'error',
        phase: 'failed',
        reason: 'The assistant’s runtime did not answer within 60 seconds. The disk may be full.',
      });
      return event('bot.changed', bot);
    }
  }
  Object.assign(bot, { status: 'running', phase: 'running', applied_revision: bot.revision });
  event('bot.running', bot);
}

const finished = (frame) => {
  const full = { ...frame, seq: (world.seq += 1) };
  world.log.push(full);
  return full;
};
const broadcast = (frame) => {
  for (const socket of world.sockets) socket.send(JSON.stringify(frame));
};

const knobs = {
  cut: () => world.sockets.forEach((socket) => socket.terminate()),
  refuse: (value) => (world.refuse = value || null),
  signup: (value) => (world.signup = value),
  hold: (value) => (world.hold = value === 'on'),
  fail: () => ((world.bots[0].applied_revision = 0), start(world.bots[0], 1)),
  start: () => start(world.bots[0]),
  slow: (ms) => (world.slow = Number(ms)),
  spend: (nanos) => (world.spent = BigInt(nanos)),
  plan: (value) => (world.plan = value === 'none' ? null : planOf(value === 'on')),
  fill: (turns) => {
    for (let turn = 1; turn <= Number(turns); turn += 1) {
      const base = {
        run_id: `old${turn}`,
        conversation: 'main',
        at: new Date(Date.now() - (Number(turns) - turn) * 3_600_000).toISOString(),
      };
      finished({ ...base, type: 'message', role: 'user', message_id: 'u', content: `Question ${turn}`, done: true });
      finished({
        ...base,
        type: 'message',
        role: 'assistant',
        message_id: 'm',
        content: `Answer ${turn}. ${'Some more words. '.repeat(turn % 17)}`,
        done: true,
      });
      finished({ ...base, type: 'run', phase: 'finished' });
    }
  },
  status: (value) => (
    Object.assign(world.bots[0], {
      status: value,
      phase: value,
      reason: null,
      suspended: null,
    }),
    event('bot.changed', world.bots[0])
  ),
  suspended: (cause) => (
    Object.assign(world.bots[0], {
      status: 'stopped',
      phase: 'suspended',
      reason: cause === 'operator' ? 'Somebody complained.' : 'The plan has ended.',
      suspended: {
        cause,
        reason: cause === 'operator' ? 'Somebody complained.' : 'The plan has ended.',
        since: later(-2 * 86_400_000),
        mend:
          cause === 'operator'
            ? 'Whoever runs this installation can lift this; ask them.'
            : 'Renew the plan, and it goes on by itself.',
      },
    }),
    event('bot.changed', world.bots[0])
  ),
  unusual: (value) => (
    Object.assign(world.bots[0], {
      unusual:
        value === 'none' ? null : { caution: value, reason: 'It sent the same request 24 times within ten minutes.', since: now() },
    }),
    event('bot.usage_unusual', world.bots[0])
  ),
  wanted: (list) => (
    (world.egress.refused = (list || '').split(',').filter(Boolean).map((domain, index) => ({
      domain,
      port: 443,
      count: 3 * index + 1,
      last_at: new Date(Date.now() - index * 3_600_000).toISOString(),
      reason: /^[\d.]+$/.test(domain) ? 'address' : 'not_listed',
      can_allow: !/^[\d.]+$/.test(domain),
      dismissed: false,
    }))),
    event('bot.egress_refused', world.bots[0])
  ),
  revise: () => ((world.bots[0].revision += 1), (world.bots[0].settings = { ...world.bots[0].settings, bot_name: 'Max' })),
};

function reply(run) {
  const base = { run_id: run.id, conversation: run.conversation };
  const emit = (frame) => broadcast(frame.done === false ? { ...base, at: now(), ...frame } : finished({ ...base, at: now(), ...frame }));
  return playAnswer(run, emit);
}

function onFrame(socket, frame) {
  const tell = (body) => socket.send(JSON.stringify(body));
  if (frame.type === 'send') {
    const known = world.messages.get(frame.id);
    if (known) return tell({ type: 'ack', id: frame.id, run_id: known.id });
    if (frame.text.length > 2000)
      return tell({
        type: 'error',
        id: frame.id,
        code: 'message_too_long',
        message: 'A message has at most 2,000 characters here. Send it in parts.',
      });
    const run = {
      id: `run${world.messages.size + 1}`,
      conversation: frame.conversation ?? 'main',
      text: frame.text,
      stopped: false,
      approvals: {},
    };
    world.messages.set(frame.id, run);
    world.runs.set(run.id, run);
    tell({ type: 'ack', id: frame.id, run_id: run.id });
    broadcast(
      finished({
        type: 'message',
        role: 'user',
        run_id: run.id,
        conversation: run.conversation,
        message_id: 'user',
        at: now(),
        content: frame.text,
        done: true,
        id: frame.id,
      }),
    );
    return void reply(run);
  }
  if (frame.type === 'abort' && world.runs.has(frame.run_id)) world.runs.get(frame.run_id).stopped = true;
  if (frame.type === 'approve') for (const run of world.runs.values()) run.approvals[frame.approval_id]?.(frame.decision);
  if (frame.type === 'resume') for (const old of world.log) if (old.seq > frame.after) tell(old);
  if (frame.type === 'history') {
    const mine = world.log.filter(
      (old) => old.conversation === (frame.conversation ?? 'main') && (!frame.before || old.seq < frame.before),
    );
    tell({ type: 'history', conversation: frame.conversation ?? 'main', items: mine.slice(-frame.limit), more: mine.length > frame.limit });
  }
}

const usage = () => {
  const calls = world.log.filter((frame) => frame.type === 'usage');
  const nanos = calls.reduce((sum, call) => sum + Math.round(Number(call.cost_usd) * 1e9), 0) + Number(world.spent);
  const usd = (n) => (n / 1e9).toFixed(9);
  const sum = (key) => calls.reduce((total, call) => total + call[key], 0);
  const month = now().slice(0, 8);
  const by_day = [3, 5, 6, 9, 12, 13, 17, 20].map((day, index) => ({
    day: `${month}${String(day).padStart(2, '0')}`,
    tokens_in: 100,
    tokens_out: 20,
    cost_usd: usd(150_000 * ((index % 4) + 1)),
  }));
  const start = `${month}01T00:00:00Z`;
  const end = new Date(Date.UTC(new Date().getUTCFullYear(), new Date().getUTCMonth() + 1, 1)).toISOString();
  return {
    period_start: start,
    period_end: end,
    base_usd: '50',
    usage_usd: usd(nanos),
    total_usd: usd(50e9 + nanos),
    cap_usd: world.cap,
    cap_max_usd: '100',
    tokens_in: sum('tokens_in') + 12_345,
    tokens_out: sum('tokens_out') + 2_345,
    by_model: [{ model: 'practice/practice-1', tokens_in: 12_345, tokens_out: 2_345, cost_usd: usd(nanos), calls: 17 }],
    by_day,
  };
};

function auth(req, res, path, body) {
  const signedIn = () => json(res, 200, { token: 'mock-token', expires_at: later(300_000), user: world.user });
  if (path === '/api/auth/signup' || path === '/api/auth/login') {
    if (body.email === 'taken@example.org')
      return problem(res, 409, 'email_taken', 'This e-mail address already has an account. Log in instead.');
    if (body.password === 'wrong') return problem(res, 401, 'wrong_credentials', 'E-mail address or password is wrong.');
    world.user = { id: 'u1', email: body.email, name: body.name ?? world.user?.name ?? 'Ada' };
    world.signedIn = true;
    return signedIn();
  }
  if (path === '/api/auth/logout') return ((world.signedIn = false), res.writeHead(204).end());
  return world.signedIn ? signedIn() : problem(res, 401, 'session_ended', 'Please log in.');
}

function api(req, res, path, body) {
  if (path.startsWith('/api/auth/')) return auth(req, res, path, body);
  if (path === '/api/client-config')
    return json(res, 200, {
      identity: 'local',
      payments: 'local',
      signup: world.signup,
      plan_usd: '50.00',
      markup_percent: 20,
      bots_per_user: 3,
    });
  if (world.refuse && path.includes(world.refuse))
    return problem(res, 503, 'unavailable', 'The database is away for the moment. Please try again shortly.');
  if (req.headers.authorization !== 'Bearer mock-token') return problem(res, 401, 'unauthenticated', 'Please log in.');
  const route = `${req.method} ${path}`;
  if (path === '/api/events') {
    res.writeHead(200, { 'content-type': 'text/event-stream' }).write(': hello\n\n');
    world.streams.add(res);
    return req.on('close', () => world.streams.delete(res));
  }
  if (route === 'GET /api/bots') return json(res, 200, { items: world.bots, next: null });
  if (route === 'POST /api/bots') return json(res, 201, newBot(body));
  if (route === 'DELETE /api/me') return ((world.signedIn = false), json(res, 202, {}));
  if (route === 'GET /api/billing/portal') return json(res, 200, { url: `http://127.0.0.1:${port}/app/plan` });
  if (route === 'GET /api/me') return json(res, 200, { ...world.user, plan: world.plan });
  if (route === 'PATCH /api/me') return json(res, 200, Object.assign(world.user, body));
  if (path.startsWith('/api/me')) return json(res, 200, world.user);
  if (route === 'POST /api/billing/cancel') {
    world.plan.ends_at = world.plan.period_end;
    event('plan.changed');
    return json(res, 202, { ends_at: world.plan.ends_at });
  }
  if (route === 'POST /api/billing/checkout') return json(res, 200, { url: '/checkout/abc123' });
  if (route === 'GET /api/billing/usage') return json(res, 200, usage());
  if (route === 'PUT /api/billing/cap') return ((world.cap = body.cap_usd), json(res, 200, {}));
  if (route === 'GET /api/models')
    return json(res, 200, {
      items: [
        {
          id: 'practice/practice-1',
          name: 'Practice model',
          strengths: 'Tries everything out, without a key.',
          price: { input_usd: '0.15', output_usd: '0.6' },
        },
        {
          id: 'venice/llama-3.3-70b',
          name: 'Llama 3.3 70B',
          strengths: 'A good all-rounder.',
          price: { input_usd: '0.7', output_usd: '2.8' },
        },
      ],
      next: null,
    });
  return botApi(req, res, path, body);
}

function botApi(req, res, path, body) {
  const [, , , id, noun, part] = path.split('/');
  const bot = world.bots.find((one) => one.id === id);
  if (!bot) return problem(res, 404, 'bot_not_found', 'None of your assistants has this id.');
  if (!noun && req.method === 'DELETE')
    return (world.bots.splice(world.bots.indexOf(bot), 1), event('bot.deleted', bot), res.writeHead(204).end());
  if (!noun) return json(res, 200, bot);
  if (noun === 'resume') return (Object.assign(bot, { unusual: null }), event('bot.usage_unusual', bot), json(res, 200, bot));
  if (noun === 'restart') return (void start(bot), json(res, 202, {}));
  if (noun === 'chat-ticket') return json(res, 200, { ticket: 't', expires_at: later(30_000) });
  if (noun === 'egress') return egressApi(req, res, path, bot, body);
  if (noun === 'conversations') {
    if (req.method === 'POST')
      world.conversations.unshift({ id: `c${Date.now()}`, title: body.title ?? '', archived: false, updated_at: now() });
    if (req.method === 'PATCH')
      Object.assign(
        world.conversations.find((one) => one.id === part),
        body,
      );
    if (req.method === 'DELETE') world.conversations = world.conversations.filter((one) => one.id !== part);
    return json(res, 200, req.method === 'GET' ? { items: world.conversations, next: null } : (world.conversations[0] ?? {}));
  }
  if (Number(req.headers['if-match']) !== bot.revision) return problem(res, 412, 'revision_stale', 'Somebody changed this meanwhile.');
  if (!body.bot_name.trim()) return problem(res, 422, 'invalid_body', 'Give the assistant a name of 1 to 40 characters.', 'bot_name');
  Object.assign(bot, { settings: body, bot_name: body.bot_name, revision: bot.revision + 1 });
  setTimeout(() => ((bot.applied_revision = bot.revision), event('bot.applied', bot)), 1500);
  return json(res, 202, { revision: bot.revision });
}

function egressApi(req, res, path, bot, body) {
  const { allowed, refused } = world.egress;
  const domain = body.domain ?? decodeURIComponent(path.split('/').at(-1));
  if (req.method === 'GET') return json(res, 200, world.egress);
  if (req.method === 'DELETE') world.egress.allowed = allowed.filter((one) => one.domain !== domain);
  else if (path.endsWith('/dismiss')) refused.filter((one) => one.domain === domain).forEach((one) => (one.dismissed = true));
  else {
    if (!domain.includes('.')) return problem(res, 422, 'invalid_body', 'What you sent isn’t a domain name such as example.org.', 'domain');
    const made = { domain, source: 'you', since: now() };
    world.egress = { allowed: [made, ...allowed], refused: refused.filter((one) => one.domain !== domain) };
    event('bot.egress_changed', bot);
    return json(res, 200, made);
  }
  event('bot.egress_changed', bot);
  return res.writeHead(204).end();
}

async function file(res, root, path, fallback) {
  const wanted = join(root, normalize(path));
  const body = await readFile(wanted)
    .catch(() => (fallback ? readFile(join(root, fallback)) : null))
    .catch(() => null);
  if (!body) return res.writeHead(404).end('not found');
  const type = types[extname(wanted)] ?? 'text/html';
  res.writeHead(200, { 'content-type': `${type}; charset=utf-8`, 'content-security-policy': CSP }).end(body);
}

const server = createServer(async (req, res) => {
  const { pathname } = new URL(req.url, 'http://mock');
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  const body = chunks.length ? JSON.parse(Buffer.concat(chunks).toString() || '{}') : {};
  if (world.slow) await new Promise((done) => setTimeout(done, world.slow));
  if (pathname.startsWith('/mock/')) return (knobs[pathname.split('/')[2]]?.(pathname.split('/')[3]), res.end('ok'));
  if (pathname.startsWith('/api/')) return api(req, res, pathname, body);
  // The payments page is the binary's own; here the plan is accepted by going there.
  if (pathname.startsWith('/checkout/'))
    return (void start(world.bots[0]), res.writeHead(302, { location: `/app/bots/${world.bots[0].id}` }).end());
  if (pathname.startsWith('/app')) return file(res, built, pathname.slice(4) || 'index.html', 'index.html');
  return file(res, join(here, '../../site'), pathname === '/' ? 'index.html' : pathname);
});

const sockets = new WebSocketServer({ noServer: true });
server.on('upgrade', (req, socket, head) =>
  sockets.handleUpgrade(req, socket, head, (ws) => {
    world.sockets.add(ws);
    ws.on('message', (data) => onFrame(ws, JSON.parse(data)));
    ws.on('close', () => world.sockets.delete(ws));
  }),
);
server.listen(port, '127.0.0.1', () => console.log(`mock on http://127.0.0.1:${port}`));
