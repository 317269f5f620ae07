//! Tenancy, as a really migrated database has it: policies that hold owners too, and grants that need a `user_id`.
//! Never: a list of tables written by hand; a new table is under the rule when it is made.

use molt_store::testing::{TestDatabase, database};

/// `table: what is wrong` for every table of ours.
const FAULTS: &str = "select string_agg(fault, '; ' order by fault) from (
  select c.relname || ': row-level security is off' as fault from pg_class c
    where c.relnamespace = 'molt'::regnamespace and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations'
    and not (c.relrowsecurity and c.relforcerowsecurity)
  union all
  select c.relname || ': tenants are let in, and rows say no user_id' from pg_class c
    where c.relnamespace = 'molt'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'users'
    and has_any_column_privilege('molt_tenant', c.oid, 'select, insert, update')
    and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'user_id')
  union all
  select c.relname || ': has a user_id and no policy' from pg_class c
    where c.relnamespace = 'molt'::regnamespace and c.relkind in ('r', 'p')
    and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'user_id')
    and not exists (select from pg_policy p where p.polrelid = c.oid)
  union all
  select c.relname || ': a view runs with its owner''s rights' from pg_class c
    where c.relnamespace = 'molt'::regnamespace and c.relkind in ('v', 'm')
    and not coalesce('security_invoker=true' = any (c.reloptions), false)
  union all
  select r.rolname || ': skips row-level security' from pg_roles r
    where r.rolname in ('molt_tenant', 'molt_system', 'molt_app') and (r.rolsuper or r.rolbypassrls)
) faults";

async fn faults(database: &TestDatabase) -> Option<String> {
    database.text(FAULTS).await
}

#[tokio::test]
async fn every_table_is_under_row_level_security_and_each_rule_can_fail() {
    let database = database().await;
    let tables = "select count(*) from pg_tables where schemaname = 'molt'";
    assert!(database.count(tables).await >= 20, "the tables are there");
    assert_eq!(faults(&database).await, None);
    for (bad, mended, said) in [
        (
            "alter table molt.bots disable row level security",
            "alter table molt.bots enable row level security",
            "bots: row",
        ),
        (
            "alter table molt.bots no force row level security",
            "alter table molt.bots force row level security",
            "bots: row",
        ),
        ("grant select on molt.mails to molt_tenant", "revoke select on molt.mails from molt_tenant", "mails: tenants"),
        ("create view molt.all_bots as select * from molt.bots", "drop view molt.all_bots", "all_bots: a view"),
        (
            "create table molt.bare (user_id uuid)",
            "drop table molt.bare",
            "bare: has a user_id and no policy; bare: row-level security is off",
        ),
    ] {
        database.execute(bad).await;
        let fault = faults(&database).await.unwrap_or_default();
        assert!(fault.starts_with(said), "{bad}: {fault}");
        database.execute(mended).await;
    }
    assert_eq!(faults(&database).await, None);
}
