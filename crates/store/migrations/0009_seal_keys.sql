-- Why: keys that seal secrets can be replaced. A sealed value names its key; once a key is retired, the database refuses
-- whatever is still sealed under it, so that a process which hasn't heard of the newer key can't write what nobody will open.
-- And two questions that the fleet asks every few seconds get an index, so that they don't grow with the number of people.

create table molt.retired_seal_keys (
  -- the name that a sealed value carries, in hexadecimal digits; says nothing about the key
  id text primary key,
  retired_at timestamptz not null
);
alter table molt.retired_seal_keys enable row level security;
alter table molt.retired_seal_keys force row level security;
create policy system on molt.retired_seal_keys to molt_system using (true) with check (true);
grant select, insert on molt.retired_seal_keys to molt_system;

-- Whoever writes a sealed value shares a lock until it commits; whoever retires a key takes it alone. So a value under a
-- retired key is neither in an open transaction nor written later.
create function molt.refuse_retired_seal() returns trigger language plpgsql as $$
declare sealed bytea;
begin
  -- a bot that keeps its token while it is being sealed anew is nobody's fault
  if tg_table_name = 'bots' then
    if tg_op = 'UPDATE' and new.gateway_token is not distinct from old.gateway_token then return new; end if;
    sealed := new.gateway_token;
  elsif tg_table_name = 'signing_keys' then sealed := new.private_sealed;
  elsif tg_table_name = 'mails' then sealed := new.text_sealed;
  else sealed := decode(new.data ->> 'link_sealed', 'hex');
  end if;
  perform pg_advisory_xact_lock_shared(hashtext('molt.seal_keys'));
  -- a value of the first form has no name: it was sealed by a program from before keys could be replaced
  if exists (select from molt.retired_seal_keys
             where get_byte(sealed, 0) <> 2 or id = encode(substring(sealed from 2 for 8), 'hex')) then
    raise exception 'sealed under a retired key' using errcode = 'check_violation', constraint = 'seal_key_in_force';
  end if;
  return new;
end $$;

create trigger seal before insert or update of gateway_token on molt.bots
  for each row when (new.gateway_token is not null) execute function molt.refuse_retired_seal();
create trigger seal before insert or update of private_sealed on molt.signing_keys
  for each row execute function molt.refuse_retired_seal();
create trigger seal before insert or update of data on molt.outbox
  for each row when (new.data ? 'link_sealed') execute function molt.refuse_retired_seal();

create index users_erase on molt.users (id) where erase_requested_at is not null;
