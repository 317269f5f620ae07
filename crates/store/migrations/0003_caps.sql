-- Why: a person sets a cap per bot and per key as well, a key can be paused, and the proxy keeps what decides about a call in
-- memory. Whatever it keeps is announced from here, by triggers, so that no writer can forget it: the payload is
-- `admission <user id>` and carries nothing else; the proxy reads the rows again.

-- the monthly cap in nano-dollars that the person set for this bot; null: only the person's own holds
alter table molt.bots add cap_nanos bigint constraint bots_cap_not_negative check (cap_nanos >= 0);
-- set: the key opens nothing until its owner resumes it; the reason is a sentence for them
alter table molt.ghost_keys
  add paused_at timestamptz,
  add paused_reason text,
  add constraint ghost_keys_paused check (paused_at is not null or paused_reason is null);
create index ghost_keys_user on molt.ghost_keys (user_id, created_at);

grant select (cap_nanos), update (cap_nanos) on molt.bots to molt_tenant;
grant select (paused_at, paused_reason), update (cap_nanos) on molt.ghost_keys to molt_tenant;

create function molt.admission_changed() returns trigger language plpgsql as $$
declare person uuid;
begin
  if tg_table_name = 'users' then person := new.id;
  elsif tg_op = 'DELETE' then person := old.user_id;
  else person := new.user_id;
  end if;
  perform pg_notify('molt', 'admission ' || person);
  return null;
end $$;

create trigger admission after update or delete on molt.ghost_keys
  for each row execute function molt.admission_changed();
create trigger admission after insert or update or delete on molt.billing
  for each row execute function molt.admission_changed();
create trigger admission after update of cap_nanos, erase_requested_at on molt.users
  for each row when (old.cap_nanos is distinct from new.cap_nanos
                     or old.erase_requested_at is distinct from new.erase_requested_at)
  execute function molt.admission_changed();
create trigger admission after update of cap_nanos, intent on molt.bots
  for each row when (old.cap_nanos is distinct from new.cap_nanos or old.intent is distinct from new.intent)
  execute function molt.admission_changed();
