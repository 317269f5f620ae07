-- The texts of built-in mail hold log-in links, which open an account for fifteen minutes: whoever has a copy of the
-- database must not be able to read them. What was kept in clear before stays readable until it is swept.
alter table molt.mails add column text_sealed bytea;
alter table molt.mails alter column text drop not null;
