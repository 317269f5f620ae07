-- Why: a cap that can't be passed, and calls that cost no query. A budget is what a scope (a person, a bot, a key) has
-- spent in a period and what of its cap is out on lease; a lease is money that one proxy process, the holder, may spend
-- without asking. At the moment of every grant: settled + leased <= cap.

-- One start of one proxy process. Its leases return when its journal is in the books, or when an operator declares it lost.
create table molt.holders (
  id uuid primary key,
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  released_at timestamptz
);

create table molt.budgets (
  scope text not null constraint budgets_scope check (scope in ('user', 'bot', 'key')),
  scope_id text not null,
  period_start timestamptz not null,
  user_id uuid not null references molt.users on delete cascade,
  -- the sum of this scope's and period's rows in usage_logs
  settled_nanos bigint not null constraint budgets_settled check (settled_nanos >= 0),
  -- the sum of what is outstanding in leases
  leased_nanos bigint not null default 0 constraint budgets_leased check (leased_nanos >= 0),
  primary key (scope, scope_id, period_start)
);
create index budgets_user on molt.budgets (user_id);

create table molt.leases (
  holder uuid not null references molt.holders,
  scope text not null,
  scope_id text not null,
  period_start timestamptz not null,
  outstanding_nanos bigint not null constraint leases_outstanding check (outstanding_nanos >= 0),
  -- the newest operation and its answer, so that one whose answer was lost is asked again and changes nothing
  op uuid not null,
  granted_nanos bigint not null,
  free_nanos bigint not null,
  others_nanos bigint not null,
  primary key (holder, scope, scope_id, period_start),
  constraint leases_budget foreign key (scope, scope_id, period_start) references molt.budgets on delete cascade
);
create index leases_budget on molt.leases (scope, scope_id, period_start);

alter table molt.usage_logs
  -- who held the money; null: a row from before there were holders
  add column holder uuid,
  -- the period whose budget it counts in; null: as above, the row's time says it
  add column period_start timestamptz,
  -- the worst case that was set aside before the call was sent
  add column reserved_nanos bigint not null default 0,
  -- what the provider reported above all that could be charged: paid by the operator, shown, never charged
  add column operator_nanos bigint not null default 0 constraint usage_logs_operator check (operator_nanos >= 0);

do $$ declare t text; begin
  foreach t in array array['holders', 'budgets', 'leases'] loop
    execute format('alter table molt.%I enable row level security', t);
    execute format('alter table molt.%I force row level security', t);
    execute format('create policy system on molt.%I to molt_system using (true) with check (true)', t);
    execute format('grant select, insert, update, delete on molt.%I to molt_system', t);
  end loop;
end $$;

create policy own on molt.budgets to molt_tenant using (user_id = molt.caller());
grant select on molt.budgets to molt_tenant;
