//! Names that lead where no bot may go, and lists that change.

use super::*;

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_and_never_looked_up_twice() {
    let web = world::web().await;
    let rig =
        Rig::start(&["rebind.example", "mixed.example", "meta.example", "own.example", "gone.example"], &[]).await;
    // First an address of the world, then one inside: a second look-up would be led there.
    rig.resolve("rebind.example", &[&["203.0.113.1"], &["127.0.0.1"]]);
    rig.resolve("mixed.example", &[&["9.9.9.9", "10.0.0.7"]]);
    rig.resolve("meta.example", &[&["169.254.169.254"]]);
    rig.resolve("own.example", &[&["127.0.0.1"]]);
    let names = ["own.example", "meta.example", "mixed.example", "rebind.example"];
    let every = || names.iter().flat_map(|name| [(*name, 80), (*name, 443)]);
    for (name, port) in every() {
        let before = rig.names.asked.load(Ordering::SeqCst);
        assert_eq!(rig.tunnel(&format!("{name}:{port}")).await.err(), Some(403), "{name}:{port}");
        assert_eq!(rig.names.asked.load(Ordering::SeqCst) - before, 1, "one look-up");
    }
    for (name, port) in every() {
        assert_eq!(rig.refused(name, port, 1).await["reason"], "private_address");
    }
    assert_eq!(rig.tunnel("gone.example:443").await.err(), Some(502), "nobody knows it");
    assert_eq!((rig.counted("refused", "private_address"), rig.counted("failed", "unreachable")), (8, 1));
    assert_eq!(rig.counted("allowed", "listed"), 0);
    // The same address, spelt as such, in any way.
    for host in ["127.0.0.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        assert_eq!(rig.tunnel(&format!("{host}:{}", web.port())).await.err(), Some(403), "{host}");
        let mut stream = rig.connect().await;
        let asked = format!("GET http://{host}:{}/ HTTP/1.1\r\nhost: x\r\n\r\n", web.port());
        assert_eq!(world::status(&world::ask(&mut stream, &asked).await), 403, "{host}");
    }
    assert_eq!(rig.counted("refused", "address"), 12);
}

#[tokio::test]
async fn what_an_owner_allows_works_within_a_second_and_ends_when_it_is_taken_back() {
    let web = world::web().await;
    let rig = Rig::start(&[], &[("site.example:80", web)]).await;
    let get = "GET http://site.example/a HTTP/1.1\r\nhost: site.example\r\n\r\n";
    for _ in 0..3 {
        assert_eq!(world::status(&world::ask(&mut rig.connect().await, get).await), 403);
    }
    let row = rig.refused("site.example", 80, 3).await;
    assert_eq!((&row["reason"], &row["port"]), (&"not_listed".into(), &80.into()));
    let told = "select count(*) from molt.events where kind = 'bot.egress_refused'";
    assert_eq!(rig.database.count(told).await, 1, "told once");

    assert_eq!(rig.tunnel("hub.example:443").await.err(), Some(403));
    let quiet = rig.refused("hub.example", 443, 1).await;
    assert!(quiet["dismissed_at"].is_string(), "{quiet}");
    assert_eq!(rig.database.count(told).await, 1, "nobody is asked about what the runtime tries by itself");

    rig.owner_allows("site.example").await;
    let until = Instant::now() + IN_FORCE_WITHIN;
    while world::status(&world::ask(&mut rig.connect().await, get).await) != 200 {
        assert!(Instant::now() < until, "not in force");
    }
    let mut open = rig.tunnel("site.example:80").await.unwrap();
    let inside = "GET /a HTTP/1.1\r\nhost: site.example\r\n\r\n";
    assert_eq!(world::status(&world::ask(&mut open, inside).await), 200);
    rig.owner_takes_back("site.example").await;
    let until = Instant::now() + IN_FORCE_WITHIN;
    while world::status(&world::ask(&mut rig.connect().await, get).await) != 403 {
        assert!(Instant::now() < until, "not in force");
    }
    assert_eq!(world::status(&world::head(&mut open).await.replace("reached", "")), 0, "an open way ends as well");
    rig.all_closed().await;
}

#[tokio::test]
async fn skills_open_ways_while_they_are_turned_on_and_an_unknown_bot_has_none() {
    let web = world::web().await;
    let skills = [("weather".to_owned(), vec!["sky.example".parse().unwrap()])].into();
    let rig = Rig::start_with(&[], &[("sky.example:80", web)], skills).await;
    let works = async || rig.tunnel("sky.example:80").await.map(drop);
    let soon = async |wanted| {
        let until = Instant::now() + IN_FORCE_WITHIN;
        while works().await != wanted {
            assert!(Instant::now() < until, "not {wanted:?}");
        }
    };
    assert_eq!(works().await, Err(403));
    let add = "insert into molt.bot_skills (user_id, bot_id, skill_id, skill_name)
               select user_id, id, 'weather', 'Weather' from molt.bots";
    rig.database.execute(add).await;
    soon(Ok(())).await;
    rig.database.execute("update molt.bot_skills set enabled = false").await;
    soon(Err(403)).await;
    rig.database.execute("update molt.bot_skills set enabled = true").await;
    soon(Ok(())).await;
    // A row about this bot that names another person is nobody's word.
    rig.database
        .execute(
            "insert into molt.users (id, issuer, subject, email) values (gen_random_uuid(), 'test', 'eve', 'eve@example.com');
             update molt.bot_skills set user_id = (select id from molt.users where subject = 'eve')",
        )
        .await;
    soon(Err(403)).await;
    rig.database.execute("update molt.bots set intent = 'deleted'").await;
    soon(Err(503)).await;
    assert!(rig.counted("failed", "no_list") > 0);
}

#[tokio::test]
async fn while_the_database_is_away_only_a_list_that_nobody_changed_serves() {
    let web = world::web().await;
    let rig = Rig::start(&["site.example"], &[("site.example:80", web)]).await;
    assert!(rig.tunnel("site.example:80").await.is_ok());
    rig.database.execute("alter table molt.egress_allowed rename to egress_away").await;
    assert!(rig.tunnel("site.example:80").await.is_ok(), "as it was read");
    rig.database.execute(&format!("select pg_notify('molt', 'egress {}')", rig.bot)).await;
    let until = Instant::now() + IN_FORCE_WITHIN;
    while rig.tunnel("site.example:80").await.err() != Some(503) {
        assert!(Instant::now() < until, "a change was announced, and what it is can't be read");
    }
    rig.database.execute("alter table molt.egress_away rename to egress_allowed").await;
    assert!(rig.tunnel("site.example:80").await.is_ok(), "and then it can");
}
