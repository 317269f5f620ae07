-- Why: prices change while the program runs. The operator imports lists of them, which are kept for ever beside the books that
-- were charged at; and since only the proxies hold master keys, they say here which providers they have keys for, so that the
-- other roles know what can be offered.

-- What providers ask, as imported. The one with the highest number is in force; without any, the program's own is.
create table molt.price_lists (
  number bigint generated always as identity primary key,
  version text not null constraint price_lists_version_given check (version <> ''),
  dated date not null,
  source text not null,
  list jsonb not null,
  imported_at timestamptz not null
);

-- where a book's prices came from; null: a book from before there were lists
alter table molt.price_books add list_version text, add dated date, add source text;

-- A version says the same for ever: usage rows are explained by it.
create function molt.prices_never_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name;
end $$;
create trigger append_only before update or delete on molt.price_lists
  for each row execute function molt.prices_never_change();
create trigger append_only before update or delete on molt.price_books
  for each row execute function molt.prices_never_change();

create table molt.keyed_providers (
  name text primary key,
  said_at timestamptz not null
);

create function molt.prices_changed() returns trigger language plpgsql as $$
begin
  perform pg_notify('molt', 'prices');
  return null;
end $$;
create trigger prices after insert on molt.price_lists
  for each statement execute function molt.prices_changed();
create trigger prices after insert or delete on molt.keyed_providers
  for each statement execute function molt.prices_changed();

do $$ declare t text; begin
  foreach t in array array['price_lists', 'keyed_providers'] loop
    execute format('alter table molt.%I enable row level security', t);
    execute format('alter table molt.%I force row level security', t);
    execute format('create policy system on molt.%I to molt_system using (true) with check (true)', t);
  end loop;
end $$;
grant select, insert on molt.price_lists to molt_system;
grant select, insert, delete on molt.keyed_providers to molt_system;
revoke update, delete on molt.price_books from molt_system;
