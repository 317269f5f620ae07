-- Why: the first slice of the house. All tables of the technical spec, amended where the world differs from it, plus the
-- queues (outbox, inbox) and the one table of events. They live in a schema of their own that no public REST API exposes.
-- Tenants act as role molt_tenant under row-level security, loops as molt_system; owners are held to the policies too.

do $$ begin
  if not exists (select from pg_roles where rolname = 'molt_tenant') then create role molt_tenant nologin noinherit; end if;
  if not exists (select from pg_roles where rolname = 'molt_system') then create role molt_system nologin noinherit; end if;
exception when duplicate_object or unique_violation then null; -- another database of the same cluster was faster
end $$;

create schema if not exists molt;
grant usage on schema molt to molt_tenant, molt_system;

-- The person this transaction acts for: `sub` of the claims that store.tenant() sets, which is users.id.
create function molt.caller() returns uuid language sql stable parallel safe
  as $$ select nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '')::uuid $$;

-- One row that tells this database from every other: what lies on a disk belongs to the database that wrote it down.
create table molt.installation (
  id uuid primary key default gen_random_uuid(),
  only_one boolean not null default true constraint installation_only_one unique check (only_one)
);
insert into molt.installation default values;

create table molt.users (
  id uuid primary key,
  issuer text not null,
  subject text not null,
  email text not null,
  name text,
  timezone text not null default 'UTC',
  role text not null default 'user' constraint users_role check (role in ('user', 'operator')),
  -- the monthly cap in nano-dollars that the person set, below the installation's own
  cap_nanos bigint constraint users_cap_not_negative check (cap_nanos >= 0),
  -- id of the person's newest event: taking the next one locks this row, so a person's events commit in order
  event_id bigint not null default 0,
  -- what the books call this person after they are erased
  book_key uuid not null default gen_random_uuid(),
  -- set: the person is being erased; the row goes once the last of their bots is gone
  erase_requested_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint users_identity unique (issuer, subject)
);
create unique index users_email on molt.users (lower(email));

create table molt.credentials (
  user_id uuid primary key references molt.users on delete cascade,
  password_hash text not null,
  updated_at timestamptz not null default now()
);

-- Refresh tokens rotate; a family is one log-in. A token used twice ends its family.
create table molt.sessions (
  id uuid primary key,
  family uuid not null,
  user_id uuid not null references molt.users on delete cascade,
  refresh_hash bytea not null constraint sessions_refresh unique,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  rotated_at timestamptz,
  revoked_at timestamptz
);
create index sessions_family on molt.sessions (family);
create index sessions_user on molt.sessions (user_id);

create table molt.magic_links (
  token_hash bytea primary key,
  user_id uuid not null references molt.users on delete cascade,
  expires_at timestamptz not null,
  used_at timestamptz
);

create table molt.invites (
  code_hash bytea primary key,
  email text,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at timestamptz
);

create table molt.signing_keys (
  kid text primary key,
  private_sealed bytea not null,
  public_jwk jsonb not null,
  created_at timestamptz not null default now(),
  retired_at timestamptz
);

create table molt.billing (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null constraint billing_user unique references molt.users on delete cascade,
  provider text not null constraint billing_provider check (provider in ('stripe', 'local')),
  stripe_customer_id text constraint billing_customer unique,
  stripe_subscription_id text,
  subscription_status text constraint billing_status
    check (subscription_status in ('incomplete', 'trialing', 'active', 'past_due', 'paused', 'unpaid', 'canceled')),
  current_period_start timestamptz,
  current_period_end timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table molt.bots (
  id text primary key,
  user_id uuid not null references molt.users on delete cascade,
  bot_name text not null,
  vertical text not null constraint bots_vertical check (vertical in ('executive', 'developer', 'researcher', 'creator')),
  settings jsonb not null,
  -- settings wanted and settings that the runtime confirmed
  revision bigint not null default 1,
  applied_revision bigint not null default 0,
  applied_hash text,
  -- what should be true; `generation` grows when a person asks for a restart
  intent text not null constraint bots_intent check (intent in ('awaiting_plan', 'running', 'stopped', 'deleted')),
  intent_reason text,
  generation bigint not null default 1,
  -- what was seen; written by fleet::reconcile only
  observed text not null default 'absent'
    constraint bots_observed check (observed in ('absent', 'starting', 'running', 'stopping', 'stopped', 'failed')),
  observed_generation bigint not null default 0,
  phase text not null default 'awaiting_plan',
  reason text,
  host text,
  cell jsonb,
  gateway_url text,
  gateway_token bytea,
  running_since timestamptz,
  -- the queue of fleet::reconcile; due_at null: nothing to do
  due_at timestamptz,
  attempts int not null default 0,
  last_error text,
  leased_until timestamptz,
  -- chat: newest seq given to a finished frame; newest frame of the cell's journal that is stored
  chat_seq bigint not null default 0,
  cell_seq bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index bots_user on molt.bots (user_id);
-- a claim empties due_at and sets leased_until, so that a wake-up in the middle of the work is seen at its end
create index bots_due on molt.bots (coalesce(leased_until, due_at)) where coalesce(leased_until, due_at) is not null;
-- where each cell has a system user of its own, no two bots ever share one
create unique index bots_cell_uid on molt.bots ((cell ->> 'uid')) where cell ? 'uid';

-- The timeline of a bot's life that its owner sees.
create table molt.bot_steps (
  bot_id text not null references molt.bots on delete cascade,
  user_id uuid not null references molt.users on delete cascade,
  position bigint not null,
  name text not null,
  sentence text not null,
  started_at timestamptz not null,
  deadline_at timestamptz not null,
  ended_at timestamptz,
  outcome text constraint bot_steps_outcome check (outcome in ('done', 'failed')),
  primary key (bot_id, position)
);

create table molt.bot_skills (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references molt.users on delete cascade,
  bot_id text not null references molt.bots on delete cascade,
  skill_id text not null,
  skill_name text not null,
  enabled boolean not null default true,
  config jsonb,
  installed_at timestamptz not null default now(),
  constraint bot_skills_once unique (bot_id, skill_id)
);

-- Ghost Keys, hashed. bot_id null: a key for a program.
create table molt.ghost_keys (
  id uuid primary key,
  user_id uuid not null references molt.users on delete cascade,
  bot_id text references molt.bots on delete cascade,
  key_hash bytea not null constraint ghost_keys_hash unique,
  label text not null,
  cap_nanos bigint constraint ghost_keys_cap_not_negative check (cap_nanos >= 0),
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);
create index ghost_keys_bot on molt.ghost_keys (bot_id) where revoked_at is null;

create table molt.price_books (
  version text primary key,
  prices jsonb not null,
  created_at timestamptz not null default now()
);

-- The books. People are erased, rows stay under book_key; so no foreign key to bots, and user_id is set null.
create table molt.usage_logs (
  id uuid primary key,
  user_id uuid references molt.users on delete set null,
  book_key uuid not null,
  bot_id text,
  key_id uuid,
  run_id uuid,
  provider text not null,
  model text not null,
  surface text not null,
  tokens_in bigint not null,
  tokens_out bigint not null,
  tokens_cache_read bigint not null default 0,
  tokens_cache_write bigint not null default 0,
  tokens_reasoning bigint not null default 0,
  -- what the user is charged, markup included
  cost_nanos bigint not null,
  price_version text not null references molt.price_books,
  -- why this isn't the provider's own figure; null: it is
  estimate text constraint usage_logs_estimate check (estimate in ('hung_up', 'provider_cut', 'proxy_restarted', 'not_reported')),
  first_byte_ms bigint,
  duration_ms bigint not null,
  at timestamptz not null
);
create index usage_logs_user_at on molt.usage_logs (user_id, at);
create index usage_logs_run on molt.usage_logs (run_id) where run_id is not null;

create table molt.usage_aggregates (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references molt.users on delete set null,
  book_key uuid not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  total_tokens bigint not null,
  total_cost_nanos bigint not null,
  reported_cents bigint not null default 0,
  reported_to_stripe boolean not null default false,
  stripe_report_id text,
  created_at timestamptz not null default now(),
  constraint usage_aggregates_period unique (book_key, period_start)
);

create table molt.checkouts (
  id uuid primary key,
  user_id uuid not null references molt.users on delete cascade,
  bot_id text references molt.bots on delete set null,
  provider text not null,
  provider_session text,
  state text not null default 'open' constraint checkouts_state check (state in ('open', 'completed', 'expired')),
  created_at timestamptz not null default now(),
  expires_at timestamptz not null
);

create table molt.conversations (
  bot_id text not null references molt.bots on delete cascade,
  id text not null,
  user_id uuid not null references molt.users on delete cascade,
  -- empty until a first message or a person gives it one
  title text not null,
  archived_at timestamptz,
  -- its messages are gone; the row stays until the cell has forgotten it too
  deleted_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (bot_id, id)
);
create index conversations_deleted on molt.conversations (bot_id) where deleted_at is not null;

-- One chat turn. (bot_id, client_id) makes a message that is sent twice one message; run_id is known before the first try.
create table molt.runs (
  id uuid primary key,
  bot_id text not null references molt.bots on delete cascade,
  user_id uuid not null references molt.users on delete cascade,
  conversation text not null,
  client_id text not null,
  text text not null,
  state text not null default 'pending'
    constraint runs_state check (state in ('pending', 'accepted', 'finished', 'failed', 'aborted')),
  abort_requested_at timestamptz,
  created_at timestamptz not null default now(),
  ended_at timestamptz,
  constraint runs_client_id unique (bot_id, client_id)
);
create index runs_open on molt.runs (bot_id, created_at) where state in ('pending', 'accepted');

create table molt.chat_tickets (
  ticket_hash bytea primary key,
  user_id uuid not null references molt.users on delete cascade,
  bot_id text not null references molt.bots on delete cascade,
  expires_at timestamptz not null,
  used_at timestamptz
);

-- Whatever a person can notice. id counts per person, seq per bot (finished chat frames only).
create table molt.events (
  user_id uuid not null references molt.users on delete cascade,
  id bigint not null,
  kind text not null,
  bot_id text,
  seq bigint,
  cell_seq bigint,
  conversation text,
  run_id uuid,
  body jsonb not null,
  at timestamptz not null,
  primary key (user_id, id),
  constraint events_seq unique (bot_id, seq),
  constraint events_cell_seq unique (bot_id, cell_seq)
);
create index events_conversation on molt.events (bot_id, conversation, seq) where seq is not null;

create table molt.outbox (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references molt.users on delete cascade,
  template text not null,
  to_address text not null,
  data jsonb not null,
  due_at timestamptz default now(),
  attempts int not null default 0,
  last_error text,
  leased_until timestamptz,
  sent_at timestamptz,
  created_at timestamptz not null default now()
);
create index outbox_due on molt.outbox (due_at) where sent_at is null;

-- Built-in mail: what notify::deliver "sent" on an installation without a mail server. One row per outbox row.
create table molt.mails (
  outbox_id uuid primary key,
  to_address text not null,
  subject text not null,
  text text not null,
  created_at timestamptz not null default now()
);

create table molt.inbox (
  provider text not null,
  event_id text not null,
  kind text not null,
  body jsonb not null,
  received_at timestamptz not null default now(),
  processed_at timestamptz,
  due_at timestamptz default now(),
  attempts int not null default 0,
  last_error text,
  leased_until timestamptz,
  primary key (provider, event_id)
);

create table molt.audit_log (
  id uuid primary key default gen_random_uuid(),
  actor text not null,
  action text not null,
  target text not null,
  detail jsonb not null default '{}',
  at timestamptz not null default now()
);

-- Row-level security on every table; molt_system sees all rows, molt_tenant its own of the tables granted below.
do $$ declare t text; begin
  for t in select tablename from pg_tables where schemaname = 'molt' and tablename <> '_sqlx_migrations' loop
    execute format('alter table molt.%I enable row level security', t);
    execute format('alter table molt.%I force row level security', t);
    execute format('create policy system on molt.%I to molt_system using (true) with check (true)', t);
    execute format('grant select, insert, update, delete on molt.%I to molt_system', t);
  end loop;
end $$;

create policy own on molt.users to molt_tenant using (id = molt.caller()) with check (id = molt.caller());
do $$ declare t text; begin
  foreach t in array array['sessions', 'billing', 'bots', 'bot_steps', 'bot_skills', 'ghost_keys', 'usage_logs', 'usage_aggregates',
                           'checkouts', 'conversations', 'runs', 'chat_tickets', 'events', 'outbox'] loop
    execute format('create policy own on molt.%I to molt_tenant using (user_id = molt.caller()) with check (user_id = molt.caller())', t);
  end loop;
end $$;

-- What a request may read and write, column by column where it matters: tenants state intent, loops state facts.
grant select (id, issuer, subject, email, name, timezone, role, cap_nanos, event_id, erase_requested_at, created_at,
              updated_at) on molt.users to molt_tenant;
grant update (name, timezone, cap_nanos, event_id, erase_requested_at, updated_at) on molt.users to molt_tenant;
grant select (user_id, revoked_at), update (revoked_at) on molt.sessions to molt_tenant;
grant select on molt.billing, molt.usage_logs, molt.usage_aggregates, molt.events, molt.bot_steps to molt_tenant;
grant select (id, user_id, bot_id, label, cap_nanos, created_at, revoked_at), update (revoked_at)
  on molt.ghost_keys to molt_tenant;
grant select (id, user_id, bot_name, vertical, settings, revision, applied_revision, intent, intent_reason, generation, observed,
              observed_generation, phase, reason, host, gateway_url, running_since, due_at, chat_seq, created_at, updated_at)
  on molt.bots to molt_tenant;
grant insert (id, user_id, bot_name, vertical, settings, intent, phase, due_at, created_at, updated_at) on molt.bots to molt_tenant;
grant update (bot_name, settings, revision, intent, intent_reason, generation, due_at, attempts, chat_seq, updated_at) on molt.bots to molt_tenant;
grant select, insert, update, delete on molt.bot_skills, molt.conversations to molt_tenant;
grant select, insert on molt.checkouts to molt_tenant;
grant select, insert on molt.runs to molt_tenant;
grant update (abort_requested_at) on molt.runs to molt_tenant;
grant insert on molt.events to molt_tenant;
-- a person may delete a conversation, which takes its messages and runs with it
grant delete on molt.events, molt.runs to molt_tenant;
grant insert on molt.chat_tickets to molt_tenant;
grant insert on molt.outbox to molt_tenant;
