-- Why: a bot's states are one machine now (molt_model::bot::Observed), each with its time and its deadline, so that what is
-- stuck can be named; the settings that worked last are kept, so that a change that keeps a bot from coming up is undone; and
-- a bot that is gone leaves a tombstone, so that nothing that comes late can bring it back.

-- The owner of the tables is held to their policies, too; for the change of what stands in them it must see all rows.
alter table molt.bots no force row level security;

alter table molt.bots drop constraint bots_observed;
alter table molt.bots
  -- of the state that `observed` and `phase` name: since when, and until when it should have ended
  add column phase_since timestamptz not null default now(),
  add column phase_deadline_at timestamptz,
  -- changes of state since the bot last rested: many of them are a loop
  add column moves int not null default 0,
  -- the settings of applied_revision
  add column applied_settings jsonb,
  -- the newest settings that a runtime is known to have come up with
  add column good_revision bigint not null default 0,
  add column good_settings jsonb;

update molt.bots set
  phase_since = updated_at,
  applied_settings = case when applied_revision = revision then settings end,
  good_settings = case when applied_revision = revision then settings end,
  good_revision = case when applied_revision = revision then revision else 0 end,
  phase = case
    when intent = 'deleted' and observed = 'stopping' then 'removing_cell'
    when observed = 'absent' and intent = 'running' then 'queued'
    when observed = 'absent' then 'awaiting_plan'
    when observed = 'failed' and phase = 'runtime' then 'no_runtime'
    when observed = 'failed' then 'failed'
    when phase in ('waiting', 'recovering') then 'restarting_cell'
    when observed = 'stopping' then 'stopping'
    when observed = 'stopped' and intent = 'stopped' and intent_reason is not null then 'suspended'
    when observed = 'stopped' then 'stopped'
    else phase end,
  observed = case
    when intent = 'deleted' and observed = 'stopping' then 'deleting'
    when observed = 'absent' then 'reserved'
    when observed = 'failed' then 'degraded'
    when phase in ('waiting', 'recovering') then 'degraded'
    when observed = 'starting' and phase in ('booting', 'settings') then 'booting'
    when observed = 'starting' then 'infrastructure'
    when observed = 'stopped' and intent = 'stopped' and intent_reason is not null then 'suspended'
    else observed end,
  reason = case when observed = 'stopped' and intent = 'stopped' then coalesce(reason, intent_reason) else reason end,
  -- whatever is under way gets its time from now on
  phase_deadline_at = case when observed in ('starting', 'stopping') then now() + interval '3 minutes' end;

alter table molt.bots
  alter column observed set default 'reserved',
  add constraint bots_observed check (observed in ('reserved', 'infrastructure', 'booting', 'running', 'degraded', 'stopping',
    'stopped', 'suspended', 'deleting')),
  add constraint bots_suspended check (observed <> 'suspended' or reason is not null);

alter table molt.bots force row level security;

grant select (phase_since) on molt.bots to molt_tenant;

-- what the stuck detector and the net under lost wake-ups read; in a healthy fleet all three are empty
create index bots_overdue on molt.bots (phase_deadline_at) where phase_deadline_at is not null;
create index bots_loops on molt.bots (moves) where moves > 40;
create index bots_forgotten on molt.bots (id) where due_at is null and leased_until is null
  and (intent = 'deleted' or observed in ('infrastructure', 'booting', 'stopping', 'deleting'));

-- What is left of a bot: no person, no name. No reference to anything, because everything else is gone.
create table molt.tombstones (
  bot_id text primary key,
  host text,
  gone_at timestamptz not null default now()
);
create index tombstones_gone on molt.tombstones (gone_at);
alter table molt.tombstones enable row level security;
alter table molt.tombstones force row level security;
create policy all_rows on molt.tombstones using (true) with check (true);
grant select, insert, delete on molt.tombstones to molt_system;

-- However a bot's row goes, its tombstone is there in the same transaction.
create function molt.bury_bot() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into molt.tombstones (bot_id, host) values (old.id, old.host) on conflict (bot_id) do nothing;
  return old;
end $$;
create trigger bury after delete on molt.bots for each row execute function molt.bury_bot();

-- An id is given once. Definer, because tenants see no tombstones.
create function molt.refuse_buried_bot() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if exists (select from molt.tombstones where bot_id = new.id) then
    raise exception 'this bot is gone' using errcode = 'unique_violation', constraint = 'bots_buried';
  end if;
  return new;
end $$;
create trigger refuse_buried before insert on molt.bots for each row execute function molt.refuse_buried_bot();
