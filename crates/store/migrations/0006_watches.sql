-- Why: a bot that runs in circles, or spends far more than it ever did, is noticed before its owner's money is gone. What was
-- noticed stands in one row a bot: the proxies keep it in memory like a key, so that a slower pace is in force within a second.

-- Sums of usage_logs by the hour, counted in the transaction that writes the rows, so that a look at one bot's fortnight
-- reads a few hundred rows. No reference to bots: like the books, they may outlive one.
create table molt.bot_hours (
  bot_id text not null,
  hour timestamptz not null,
  calls bigint not null,
  -- of these, the ones that no message of a person's led to
  unasked bigint not null,
  cost_nanos bigint not null,
  -- changed since the last look
  unseen boolean not null default true,
  primary key (bot_id, hour)
);
create index bot_hours_unseen on molt.bot_hours (bot_id, hour) where unseen;
create index bot_hours_hour on molt.bot_hours (hour);
insert into molt.bot_hours (bot_id, hour, calls, unasked, cost_nanos, unseen)
  select bot_id, date_trunc('hour', at, 'UTC'), count(*), count(*) filter (where run_id is null), sum(cost_nanos), false
  from molt.usage_logs where bot_id is not null and at > now() - interval '15 days' group by 1, 2;

-- when somebody last wrote to a bot
create index runs_bot on molt.runs (bot_id, created_at);

create table molt.watches (
  bot_id text primary key references molt.bots on delete cascade,
  user_id uuid not null references molt.users on delete cascade,
  caution text not null constraint watches_caution check (caution in ('calm', 'warned', 'slowed', 'paused')),
  -- what was noticed, in sentences for the bot's owner
  reason text,
  -- when the oldest of what was noticed happened
  since timestamptz,
  -- the newest sign; after a while without one the caution goes down by itself, except a pause
  seen_at timestamptz not null,
  -- the owner said that all is well: what happened before counts no more
  resumed_at timestamptz,
  constraint watches_reason check ((caution = 'calm') = (reason is null) and (caution = 'calm') = (since is null))
);
create index watches_seen on molt.watches (seen_at) where caution in ('warned', 'slowed');
create index watches_user on molt.watches (user_id);

do $$ declare t text; begin
  foreach t in array array['bot_hours', 'watches'] loop
    execute format('alter table molt.%I enable row level security', t);
    execute format('alter table molt.%I force row level security', t);
    execute format('create policy system on molt.%I to molt_system using (true) with check (true)', t);
    execute format('grant select, insert, update, delete on molt.%I to molt_system', t);
  end loop;
end $$;

create policy own on molt.watches to molt_tenant using (user_id = molt.caller()) with check (user_id = molt.caller());
grant select, update (caution, reason, since, resumed_at) on molt.watches to molt_tenant;
-- a person lifts a pause; that they can also set one does no harm
grant update (paused_at, paused_reason) on molt.ghost_keys to molt_tenant;

create trigger admission after insert or delete on molt.watches
  for each row execute function molt.admission_changed();
create trigger admission_update after update on molt.watches
  for each row when (old.caution is distinct from new.caution or old.resumed_at is distinct from new.resumed_at)
  execute function molt.admission_changed();
