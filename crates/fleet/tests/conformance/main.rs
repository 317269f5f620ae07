//! What every host must do, played on each of them: one story a test, the same stories for all.
//! Never: a story that passes because a host can't play it; that is said by name, and stands in docs/hosts.md.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod docker;
mod docker_lacks;
mod engine;
mod fly;
mod fly_ahead;
mod fly_claims;
mod fly_contract;
mod fly_faults;
#[path = "../fly_simulator/mod.rs"]
mod fly_simulator;
mod process;
#[path = "../programs/mod.rs"]
mod programs;
mod small_engine;
mod stories;
mod suite;

/// All stories on one host, as tests of their own.
macro_rules! conformance {
    ($name:ident, $host:ty) => {
        mod $name {
            use crate::suite::{Story, play};

            conformance!(@stories $host: create Create, create_again CreateAgain, start Start, stop Stop, restart Restart,
                crash Crash, hang Hang, slow_boot SlowBoot, lost_answer LostAnswer, gone_machine GoneMachine,
                full_disk FullDisk, host_away HostAway, update Update, delete Delete, delete_again DeleteAgain, ahead Ahead);
        }
    };
    (@stories $host:ty: $($test:ident $story:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                play::<$host>(Story::$story).await;
            }
        )*
    };
}

conformance!(on_processes, crate::process::Processes);
conformance!(on_docker, crate::docker::Containers);
conformance!(on_fly, crate::fly::Fly);

/// What a host can't show is on the page that operators read, in the same words.
#[test]
fn the_page_says_what_can_not_be_shown() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hosts.md")).unwrap();
    let mut missing = suite::unsaid::<process::Processes>(&page);
    missing.extend(suite::unsaid::<docker::Containers>(&page));
    missing.extend(suite::unsaid::<fly::Fly>(&page));
    assert!(missing.is_empty(), "docs/hosts.md lacks: {missing:#?}");
    assert!(!suite::unsaid::<process::Processes>("an empty page").is_empty(), "the rule can fail");
}
