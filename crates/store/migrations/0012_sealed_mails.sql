-- The texts of built-in mail hold log-in links, which open an account for fifteen minutes: whoever has a copy of the
-- database must not be able to read them. What was kept in clear before stays readable until it is swept.
alter table molt.mails add column text_sealed bytea;
alter table molt.mails alter column text drop not null;

-- The same watch over retired keys as over the other sealed columns.
create or replace function molt.refuse_retired_seal() returns trigger language plpgsql as $$
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
create trigger seal before insert or update of text_sealed on molt.mails
  for each row when (new.text_sealed is not null) execute function molt.refuse_retired_seal();
