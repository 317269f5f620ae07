-- The texts of built-in mail hold log-in links, which open an account for fifteen minutes: whoever has a copy of the
-- database must not be able to read them. What was kept in clear before stays readable until it is swept.
alter table molt.mails add column text_sealed bytea;
alter table molt.mails alter column text drop not null;

-- Watched over like the other sealed columns.
create trigger seal before insert or update of text_sealed on molt.mails
  for each row when (new.text_sealed is not null) execute function molt.refuse_retired_seal();
