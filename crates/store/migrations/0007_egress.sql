-- Why: a cell's only way out is the proxy, which lets a bot reach the domains that somebody allowed and no others. What its
-- owner allowed stands here, and so does what was refused, so that they can see it and allow it with one tap. The proxies
-- keep the list of a bot in memory; triggers announce each change, so that no writer can forget it: the payload is
-- `egress <bot id>` and carries nothing else.

-- Domains that a bot's owner allowed, in their canonical form, one by one.
create table molt.egress_allowed (
  bot_id text not null references molt.bots on delete cascade,
  user_id uuid not null references molt.users on delete cascade,
  domain text not null constraint egress_allowed_domain check (char_length(domain) between 1 and 253),
  since timestamptz not null,
  primary key (bot_id, domain)
);
create index egress_allowed_user on molt.egress_allowed (user_id);

-- Where a bot wanted to go and wasn't let, in sums; written in batches by the proxies, some hundred rows a bot at most.
create table molt.egress_refusals (
  bot_id text not null references molt.bots on delete cascade,
  user_id uuid not null references molt.users on delete cascade,
  -- or the address that was asked for in its place
  domain text not null constraint egress_refusals_domain check (char_length(domain) between 1 and 253),
  port int not null constraint egress_refusals_port check (port between 0 and 65535),
  -- why, the newest time
  reason text not null constraint egress_refusals_reason
    check (reason in ('not_listed', 'port', 'address', 'private_address', 'other_name', 'no_name')),
  count bigint not null constraint egress_refusals_count check (count > 0),
  first_at timestamptz not null,
  last_at timestamptz not null,
  -- its owner has seen it and doesn't want to be asked
  dismissed_at timestamptz,
  primary key (bot_id, domain, port)
);
create index egress_refusals_user on molt.egress_refusals (user_id);
create index egress_refusals_last on molt.egress_refusals (last_at);

-- how many a bot's owner was told of lately
create index events_egress on molt.events (bot_id, at) where kind = 'bot.egress_refused';

do $$ declare t text; begin
  foreach t in array array['egress_allowed', 'egress_refusals'] loop
    execute format('alter table molt.%I enable row level security', t);
    execute format('alter table molt.%I force row level security', t);
    execute format('create policy system on molt.%I to molt_system using (true) with check (true)', t);
    execute format('grant select, insert, update, delete on molt.%I to molt_system', t);
  end loop;
end $$;

-- a row is about a bot of the caller's own, whatever user it names
create policy own on molt.egress_allowed to molt_tenant using (user_id = molt.caller())
  with check (user_id = molt.caller() and exists (select from molt.bots b where b.id = bot_id and b.user_id = molt.caller()));
create policy own on molt.egress_refusals to molt_tenant using (user_id = molt.caller()) with check (user_id = molt.caller());
grant select, insert, delete on molt.egress_allowed to molt_tenant;
-- a refusal is forgotten when its domain is allowed
grant select, delete, update (dismissed_at) on molt.egress_refusals to molt_tenant;

create function molt.egress_changed() returns trigger language plpgsql as $$
begin
  if tg_table_name = 'bots' then perform pg_notify('molt', 'egress ' || new.id);
  elsif tg_op = 'DELETE' then perform pg_notify('molt', 'egress ' || old.bot_id);
  else perform pg_notify('molt', 'egress ' || new.bot_id);
  end if;
  return null;
end $$;

create trigger egress after insert or update or delete on molt.egress_allowed
  for each row execute function molt.egress_changed();
create trigger egress after insert or update or delete on molt.bot_skills
  for each row execute function molt.egress_changed();
create trigger egress after update of intent on molt.bots
  for each row when (old.intent is distinct from new.intent and new.intent = 'deleted')
  execute function molt.egress_changed();
