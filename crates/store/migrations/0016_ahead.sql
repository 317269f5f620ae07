-- Why: at some hosts making a bot's place takes longer than starting what is in it, so the place is made while the bot's person
-- looks at the plans, and taken away if none is accepted. What may be there has to be known before it is made and until it is
-- gone, however the fleet ends in between; and nobody may ever take the place of a bot that ran for one that nobody used.

alter table molt.bots
  -- how far the place stands that was made ahead of a plan; null: none was, or the bot took it
  add column ahead text constraint bots_ahead check (ahead in ('making', 'made', 'leaving', 'lapsed'));
-- a bot gets its gateway token before its first start: from then on the place is its own
alter table molt.bots
  add constraint bots_ahead_never_ran check (ahead is null or gateway_token is null);

-- bots that may be worth it, newest by newest, and those that are being worked on: both few, however many bots wait
create index bots_waiting on molt.bots (created_at)
  where intent = 'awaiting_plan' and observed = 'reserved' and ahead is null;
create index bots_being_made on molt.bots (id) where ahead = 'making';
