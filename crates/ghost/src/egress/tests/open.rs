//! Bounds: how much may be open, how much is written down, and how it ends.

use super::*;

#[tokio::test]
async fn one_bot_holds_so_many_ways_and_gets_its_places_back() {
    let web = world::web().await;
    let rig = Rig::start(&["site.example"], &[("site.example:80", web)]).await;
    let mut open = Vec::new();
    let full = loop {
        match rig.tunnel("site.example:80").await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((open.len(), full, rig.egress.0.counts.now().open), (64, 503, 64));
    drop(open);
    rig.all_closed().await;
    assert!(rig.tunnel("site.example:80").await.is_ok());
    let counted = rig.egress.0.counts.now();
    assert!(counted.ends.iter().any(|(labels, count)| labels[1].1 == "busy" && *count == 1));
}

#[tokio::test]
async fn a_flood_of_names_leaves_a_bounded_list_and_a_bounded_number_of_words() {
    let rig = Rig::start(&[], &[]).await;
    let mut stream = rig.connect().await;
    for round in 0..6 {
        for n in 0..60 {
            let get = format!("GET http://n{n}.r{round}.example/ HTTP/1.1\r\nhost: x\r\n\r\n");
            let head = world::ask(&mut stream, &get).await;
            assert_eq!(world::status(&head), 403);
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap();
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut vec![0; length]).await.unwrap();
        }
        // Written by the next round at the latest, or at the end.
        let last = format!("select count(*) from molt.egress_refusals where domain like '%.r{round}.example'");
        let until = Instant::now() + PATIENCE;
        while rig.database.count(&last).await == 0 {
            assert!(Instant::now() < until, "round {round}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    rig.egress.close().await;
    assert_eq!(rig.database.count("select count(*) from molt.egress_refusals").await, 200);
    assert_eq!(rig.database.count("select count(*) from molt.events where kind = 'bot.egress_refused'").await, 20);
    assert_eq!(rig.counted("refused", "not_listed"), 360);
}

#[tokio::test]
async fn a_stop_ends_what_is_open_and_writes_down_what_was_refused() {
    let web = world::web().await;
    let rig = Rig::start(&["site.example"], &[("site.example:80", web)]).await;
    let mut open = rig.tunnel("site.example:80").await.unwrap();
    assert_eq!(rig.tunnel("other.example:443").await.err(), Some(403));
    rig.egress.close().await;
    assert_eq!(world::head(&mut open).await, "");
    rig.refused("other.example", 443, 1).await;
    assert_eq!(rig.tunnel("site.example:80").await.err(), Some(503), "nothing new");
    assert_eq!(rig.egress.0.counts.now().open, 0);
}
