-- Why: a bot can be suspended, by an operator or because its person's plan has ended, and for both reasons at once: each is a
-- row, so that lifting one leaves the other in force. `bots.intent` stays what is wanted of the fleet; what was wanted before
-- stands beside it, for the day on which the last reason goes. A plan may be cancelled and stays in force until its date.

create table molt.suspensions (
  bot_id text not null references molt.bots on delete cascade,
  user_id uuid not null references molt.users on delete cascade,
  -- of several, the one that comes first in the alphabet is told
  cause text not null constraint suspensions_cause check (cause in ('operator', 'plan_ended')),
  -- a sentence for the bot's owner
  reason text not null constraint suspensions_reason check (char_length(reason) between 1 and 500),
  since timestamptz not null,
  primary key (bot_id, cause)
);
create index suspensions_user on molt.suspensions (user_id);
-- what an operator is shown: their own, newest first
create index suspensions_newest on molt.suspensions (since desc) where cause = 'operator';

alter table molt.suspensions enable row level security;
alter table molt.suspensions force row level security;
create policy system on molt.suspensions to molt_system using (true) with check (true);
create policy own on molt.suspensions to molt_tenant using (user_id = molt.caller());
grant select, insert, update, delete on molt.suspensions to molt_system;
grant select on molt.suspensions to molt_tenant;

-- what the proxy lets through depends on it
create trigger admission after insert or update or delete on molt.suspensions
  for each row execute function molt.admission_changed();

alter table molt.bots
  -- while it is suspended: what was wanted before, which its owner's verbs don't touch
  add column intent_before text constraint bots_intent_before check (intent_before in ('awaiting_plan', 'running', 'stopped'));
-- a deleted bot may have been suspended
alter table molt.bots
  add constraint bots_suspended_wants check (intent_before is null or intent in ('stopped', 'deleted'));

-- Nothing wrote such rows so far but by hand.
alter table molt.bots no force row level security;
insert into molt.suspensions (bot_id, user_id, cause, reason, since)
  select id, user_id, 'operator', left(intent_reason, 500), phase_since from molt.bots
  where intent = 'stopped' and intent_reason <> '';
update molt.bots set intent_before = 'running' where intent = 'stopped' and intent_reason <> '';
alter table molt.bots force row level security;

alter table molt.billing
  -- cancelled: in force until the period's end, and not renewed then
  add column cancel_at_period_end boolean not null default false;
create index billing_ends on molt.billing (current_period_end) where cancel_at_period_end;
