-- Why: a place that is made ahead of a plan waits for so long from the last sign that somebody wants the plan, not from the
-- bot's creation: whoever comes back and opens the checkout finds it kept, or has it made anew. A request states that sign and
-- nothing else; what follows from it is the fleet's.

alter table molt.bots
  -- when somebody last showed that they want the plan that this bot waits for: its creation, or a checkout that was opened
  add column wanted_at timestamptz not null default now();

-- The owner of the tables is held to their policies, too; for the change of what stands in them it must see all rows.
alter table molt.bots no force row level security;
update molt.bots set wanted_at = created_at;
alter table molt.bots force row level security;

grant select (wanted_at), insert (wanted_at), update (wanted_at) on molt.bots to molt_tenant;

-- a place that went because nobody came is made again as one is that never was
drop index molt.bots_waiting;
create index bots_waiting on molt.bots (wanted_at)
  where intent = 'awaiting_plan' and observed = 'reserved' and (ahead is null or ahead = 'lapsed');
