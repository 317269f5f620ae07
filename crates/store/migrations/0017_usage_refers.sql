-- Two foreign keys of usage_logs looked into their tables once for every row: two thirds of what a row cost the database.
-- The same is looked at once for a statement now.
alter table molt.usage_logs drop constraint usage_logs_user_id_fkey, drop constraint usage_logs_price_version_fkey;

create function molt.usage_refers() returns trigger language plpgsql as $$
begin
  -- locked, as a foreign key does it: nobody is erased between this look and the end of the transaction
  perform from molt.users where id in (select distinct user_id from written) order by id for key share;
  if exists (select from (select distinct user_id from written where user_id is not null) w
             where not exists (select from molt.users u where u.id = w.user_id)) then
    raise exception 'a row of usage names a person who is not there'
      using errcode = 'foreign_key_violation', constraint = 'usage_logs_user_id_fkey';
  end if;
  if exists (select from (select distinct price_version from written) w
             where not exists (select from molt.price_books b where b.version = w.price_version)) then
    raise exception 'a row of usage names a price book that is not there'
      using errcode = 'foreign_key_violation', constraint = 'usage_logs_price_version_fkey';
  end if;
  return null;
end $$;
create trigger refers_insert after insert on molt.usage_logs referencing new table as written
  for each statement execute function molt.usage_refers();
create trigger refers_update after update on molt.usage_logs referencing new table as written
  for each statement execute function molt.usage_refers();

-- Whoever books has locked the people before, so that an erasure waits and then finds the rows.
create function molt.forget_in_usage() returns trigger language plpgsql as $$
begin
  update molt.usage_logs set user_id = null where user_id in (select id from gone);
  return null;
end $$;
create trigger forget_in_usage after delete on molt.users referencing old table as gone
  for each statement execute function molt.forget_in_usage();

-- Their rows can't be changed or deleted already.
create trigger never_emptied before truncate on molt.price_books
  for each statement execute function molt.prices_never_change();
