-- Why: whatever is open for a person ends with the log-in that opened it, so a chat ticket names its log-in; and a request
-- to make an assistant may come twice (a double tap, a lost answer), so a bot keeps the key of the request that made it.

alter table molt.chat_tickets add column family uuid;

alter table molt.bots
  add column request_key text constraint bots_request_key check (char_length(request_key) between 1 and 200),
  -- what was asked for, hashed: the same key with another request is a mistake of the caller's
  add column request_hash bytea,
  add constraint bots_request check ((request_key is null) = (request_hash is null));
create unique index bots_request_once on molt.bots (user_id, request_key);
grant select (request_key, request_hash), insert (request_key, request_hash) on molt.bots to molt_tenant;
