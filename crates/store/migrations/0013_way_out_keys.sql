-- Why: a cell that is no socket away from its proxy (a machine at Fly) shows two credentials for a way out: its Ghost Key, by
-- which it is known, and this second one, which opens nothing but ways out. So a stolen Ghost Key still opens nothing but model
-- calls. It is made and revoked with its Ghost Key, and like that one rests as a hash. Keys of programs have none.
alter table molt.ghost_keys add egress_hash bytea;

-- The proxies keep the one in force with the list of its bot, and ways that are open end with it.
create trigger egress_made after insert on molt.ghost_keys
  for each row when (new.egress_hash is not null and new.bot_id is not null) execute function molt.egress_changed();
create trigger egress_changed after update of revoked_at, egress_hash on molt.ghost_keys
  for each row when (new.bot_id is not null and (old.revoked_at is distinct from new.revoked_at
                                                 or old.egress_hash is distinct from new.egress_hash))
  execute function molt.egress_changed();
create trigger egress_gone after delete on molt.ghost_keys
  for each row when (old.egress_hash is not null and old.bot_id is not null) execute function molt.egress_changed();
