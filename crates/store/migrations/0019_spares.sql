-- Why: where making a bot's place takes longer than anybody should wait, a few are kept made for nobody. The id that names
-- such a place was drawn before, and the next new bot gets it, so that its place is there from the first moment.

-- A row stands here before anything is made under its id, so what a host holds without a row here or among the bots is nobody's.
create table molt.spares (
  -- a bot's id, which no bot has yet
  id text primary key,
  -- since when the place is known to be there and unused; null: it is being made, or has to be looked at
  made_at timestamptz
);
alter table molt.spares enable row level security;
alter table molt.spares force row level security;
-- by grants alone: the function below works as the owner, who is held to policies, too
create policy all_rows on molt.spares using (true) with check (true);
grant select, insert, update, delete on molt.spares to molt_system;

-- A spare for a bot that is made in the same transaction; it is there again if that fails. Whoever comes at the same time
-- gets another one, or none, and doesn't wait. Definer, because a request may take one and neither see nor write them.
create function molt.take_spare() returns text language sql volatile security definer set search_path = '' as $$
  delete from molt.spares where id = (
    select id from molt.spares where made_at is not null order by made_at, id limit 1 for update skip locked)
  returning id
$$;
revoke execute on function molt.take_spare() from public;
grant execute on function molt.take_spare() to molt_tenant;

alter table molt.bots
  -- of a bot that came to a place that was there before it: what its host is told when it is first started there. In a
  -- database that was restored a spare may be a place that another bot has used since; no two bots have the same claim.
  add column claim uuid;
grant insert (claim) on molt.bots to molt_tenant;

-- Such a place is one that was made ahead, which is a fact and no request's to state.
create function molt.place_is_there() returns trigger language plpgsql as $$
begin
  new.ahead := 'made';
  return new;
end $$;
create trigger place_is_there before insert on molt.bots
  for each row when (new.claim is not null) execute function molt.place_is_there();
