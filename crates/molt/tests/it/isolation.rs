//! A second person can see or touch nothing of the first: at every route that the program describes, and below it in
//! Postgres as the role that requests have.
//! Never: a list of routes or tables written by hand.

use molt_model::UserId;
use serde_json::{Value, json};

use crate::stack::Stack;
use crate::stack::http::Ask;
use crate::stack::openapi::Route;
use crate::stack::people::Person;

/// Columns that loops move by themselves while nobody asks for anything.
const MOVING: &str = "'due_at', 'leased_until', 'attempts', 'event_id', 'updated_at', 'cell', 'last_error'";

/// What belongs to the first person and can stand in an address.
struct Owned {
    person: Person,
    bot: String,
    conversation: String,
    checkout: String,
}

impl Owned {
    async fn make(stack: &Stack) -> Self {
        let (person, bot) = stack.with_bot("Ada").await;
        let conversations = format!("/api/bots/{bot}/conversations");
        let made = stack.http.post(&conversations, &person, &json!({"title": "Mine"})).await.ok();
        let checkout = stack.http.post("/api/billing/checkout", &person, &json!({"bot_id": bot})).await.ok();
        let last = |value: &Value| value.as_str().and_then(|text| text.rsplit('/').next()).expect("a text").to_owned();
        let mut chat = stack.chat(&person, &bot).await;
        chat.turn("m-1", "main", "Please remember that I live in Lisbon.").await;
        Self { person, bot, conversation: last(&made["id"]), checkout: last(&checkout["url"]) }
    }

    /// The first person's own ids in the places of a route's parameters.
    fn fill(&self, route: &Route, parameter: &str) -> String {
        match parameter {
            "cid" | "conversation" | "conversation_id" => self.conversation.clone(),
            "sid" | "skill" | "skill_id" => "notes".to_owned(),
            _ if route.path.contains("checkout") => self.checkout.clone(),
            _ => self.bot.clone(),
        }
    }
}

#[tokio::test]
async fn a_second_person_can_not_touch_the_first_at_any_route() {
    let stack = Stack::start().await;
    let owned = Owned::make(&stack).await;
    let stranger = stack.signup("Eve").await;
    let before = rows_of(&stack, &owned.person).await;
    let mut with_ids = 0;
    for route in stack.routes().await {
        if ends_the_account(&route) {
            continue;
        }
        let answer = stack.http.send(route.ask(&|name| owned.fill(&route, name)).by(&stranger)).await;
        for secret in [&owned.bot, &owned.person.id, &owned.person.email, &owned.conversation] {
            let said = answer.text.replace(&route.path, "");
            assert!(!said.contains(secret.as_str()), "{} tells a stranger {secret}: {said}", route.name());
        }
        if route.path.contains('{') && route.needs_login {
            with_ids += 1;
            answer.is_problem();
            let refusal = if route.path.starts_with("/api/admin") { 403 } else { 404 };
            assert_eq!(answer.status, refusal, "{}: {}", route.name(), answer.text);
        }
        assert!(answer.status < 500, "{}: {} {}", route.name(), answer.status, answer.text);
    }
    assert!(with_ids >= 8, "only {with_ids} routes take somebody's id");
    let bearer = format!("Bearer {}", stranger.token);
    let refused = stack.try_chat(&format!("/api/chat/{}", owned.bot), &[("authorization", &bearer)]).await;
    assert_eq!(refused.err().map(|(status, _)| status.as_u16()), Some(404), "the chat of somebody else");
    assert_eq!(rows_of(&stack, &owned.person).await, before, "nothing of the first person's has changed");
    assert_eq!(stack.bot(&owned.person, &owned.bot).await["status"], "running");
    stack.finish().await;
}

#[tokio::test]
async fn without_a_login_every_other_route_is_closed() {
    let stack = Stack::start().await;
    let owned = Owned::make(&stack).await;
    let before = rows_of(&stack, &owned.person).await;
    let mut open = Vec::new();
    for route in stack.routes().await {
        let answer = stack.http.send(route.ask(&|name| owned.fill(&route, name))).await;
        if route.needs_login {
            answer.refused(401, "unauthenticated");
        } else {
            open.push(route.name());
        }
    }
    let may_be_open = |name: &String| {
        let path = name.split(' ').next_back().unwrap_or_default();
        let doors = [
            "/api/auth/",
            "/api/client-config",
            "/healthz",
            "/readyz",
            "/.well-known/",
            "/api/billing/webhook",
            "/api/chat/",
        ];
        doors.iter().any(|door| path.starts_with(door))
    };
    let surprising: Vec<&String> = open.iter().filter(|name| !may_be_open(name)).collect();
    assert!(surprising.is_empty(), "open to everybody: {surprising:?}");
    let refused = stack.try_chat(&format!("/api/chat/{}", owned.bot), &[]).await;
    assert_eq!(refused.err().map(|(status, _)| status.as_u16()), Some(401));
    assert_eq!(rows_of(&stack, &owned.person).await, before);
    stack.finish().await;
}

#[tokio::test]
async fn below_the_api_the_database_holds_the_line_as_well() {
    let stack = Stack::start().await;
    let owned = Owned::make(&stack).await;
    let stranger = stack.signup("Eve").await;
    let before = rows_of(&stack, &owned.person).await;
    let (first, second): (UserId, UserId) = (id(&owned.person), id(&stranger));
    let mut seen_by_owner = 0;
    for table in tables(&stack).await {
        let column = if table == "users" { "id" } else { "user_id" };
        let theirs = format!("molt.{table} where {column} = '{first}'");
        for who in [Some(second), None] {
            let acting = |sql: String| async { (stack.database.as_tenant(who, &sql).await, sql) };
            for sql in [format!("select {column} from {theirs}"), format!("delete from {theirs}")] {
                none(&acting(sql).await);
            }
            for field in fields(&stack, &table).await {
                none(&acting(format!("update molt.{table} set {field} = {field} where {column} = '{first}'")).await);
            }
            let (stolen, _) = acting(format!("insert into molt.{table} ({column}) values ('{first}')")).await;
            assert!(stolen.is_err(), "a stranger wrote a row of somebody else's into {table}");
        }
        let own = stack.database.as_tenant(Some(first), &format!("select {column} from {theirs}")).await;
        seen_by_owner += own.unwrap_or_default();
    }
    assert!(seen_by_owner > 5, "the owner sees their own rows by the same road");
    let facts = format!("update molt.bots set observed = 'running' where user_id = '{first}'");
    assert!(stack.database.as_tenant(Some(first), &facts).await.is_err(), "tenants state intent, never a fact");
    let role = format!("update molt.users set role = 'operator' where id = '{first}'");
    assert!(stack.database.as_tenant(Some(first), &role).await.is_err(), "nobody makes themselves an operator");
    assert_eq!(rows_of(&stack, &owned.person).await, before);
    stack.finish().await;
}

/// The statement was refused, or met no row.
#[track_caller]
fn none((done, sql): &(Result<u64, String>, String)) {
    if let Ok(rows) = done {
        assert_eq!(*rows, 0, "{sql} met {rows} rows of somebody else's");
    }
}

fn id(person: &Person) -> UserId {
    UserId(person.id.parse().expect("a user's id is a UUID"))
}

/// Erasing oneself is asked for in a test of its own; here it would end the stranger too early.
fn ends_the_account(route: &Route) -> bool {
    (route.method == "delete" && route.path == "/api/me") || route.path.ends_with("/logout")
}

/// Every table with rows of people.
async fn tables(stack: &Stack) -> Vec<String> {
    let sql = "select string_agg(distinct table_name, ' ') from information_schema.columns \
        where table_schema = 'molt' and (column_name = 'user_id' or table_name = 'users')";
    let names = stack.database.text(sql).await.expect("tables");
    let tables: Vec<String> = names.split(' ').map(str::to_owned).collect();
    assert!(tables.len() > 10);
    tables
}

async fn fields(stack: &Stack, table: &str) -> Vec<String> {
    let sql = format!(
        "select string_agg(column_name, ' ') from information_schema.columns \
         where table_schema = 'molt' and table_name = '{table}' and is_generated = 'NEVER'"
    );
    stack.database.text(&sql).await.expect("columns").split(' ').map(str::to_owned).collect()
}

/// One digest for each table of everything that is this person's.
async fn rows_of(stack: &Stack, person: &Person) -> Vec<(String, String)> {
    let mut digests = Vec::new();
    for table in tables(stack).await {
        let column = if table == "users" { "id" } else { "user_id" };
        let sql = format!(
            "select count(*) || ' ' || coalesce(md5(string_agg(row, '|' order by row)), '') from \
             (select (to_jsonb(t) - array[{MOVING}])::text as row from molt.{table} t where {column} = '{}') rows",
            person.id
        );
        digests.push((table, stack.database.text(&sql).await.unwrap_or_default()));
    }
    digests
}

#[tokio::test]
async fn an_operators_pages_are_for_operators() {
    let stack = Stack::start().await;
    let person = stack.signup("Ada").await;
    let mut asked = 0;
    for route in stack.routes().await.into_iter().filter(|route| route.path.starts_with("/api/admin")) {
        asked += 1;
        let answer = stack.http.send(route.ask(&|_| person.id.clone()).by(&person)).await;
        answer.refused(403, "not_an_operator");
    }
    assert!(asked > 0, "operators have routes");
    stack.grant_operator(&person.email).await;
    let mails = stack.http.send(Ask::new("get", "/api/admin/mails").by(&person)).await;
    assert_eq!(mails.status, 200, "{}", mails.text);
    stack.finish().await;
}
