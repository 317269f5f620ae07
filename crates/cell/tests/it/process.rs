//! The cell as a process: one at a time, closed to strangers, clean when it ends.

use std::process::Stdio;
use std::time::{Duration, Instant};

use molt_bot::{CellAddress, Client, ClientError, Phase};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;

use crate::rig::{GHOST_KEY, Rig, TOKEN};

#[tokio::test]
async fn one_cell_per_state_folder_and_nothing_left_behind() {
    let mut rig = Rig::ready().await;
    let health = rig.client.health().await.unwrap();
    println!("runtime boot {} ms", health.runtime_boot_ms.unwrap());
    let second = rig.command().stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(75));
    assert_eq!(String::from_utf8_lossy(&second.stderr).lines().count(), 1);
    assert_eq!(rig.client.health().await.unwrap().boot_id, health.boot_id, "the first one is untouched");

    let begun = Instant::now();
    let pid = Pid::from_raw(i32::try_from(rig.cell_pid()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(rig.wait_for_exit().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert_eq!(rig.runtimes(), Vec::<u32>::new());
}

#[tokio::test]
async fn strangers_learn_nothing_and_tools_find_no_secret() {
    let mut rig = Rig::ready().await;
    let stranger = Client::new(CellAddress::Unix(rig.folder.join("in/cell.sock")), SecretString::from("wrong"));
    assert!(matches!(stranger.health().await, Err(ClientError::Unauthorized)));
    assert!(matches!(stranger.stream(0).await, Err(ClientError::Unauthorized)));

    let mut line = rig.open().await;
    let look = "CALL exec {\"command\":\"env; cat /proc/$PPID/environ | tr '\\\\0' '\\\\n'; grep -rs gateway-token $MOLT_WORKSPACE/.. || true\"}";
    let run = rig.send(&mut line, "main", look).await;
    rig.hear_end(&mut line, run).await;
    let shown = format!("{:?}", rig.finished(run));
    assert!(shown.contains("MOLT_MODEL_URL"), "{shown}");
    let result = shown.split("ToolResult").nth(1).unwrap();
    assert!(!result.contains(GHOST_KEY) && !result.contains(&format!("{TOKEN}\\n")), "{shown}");
    // Undumpable: its folder in /proc belongs to root whoever runs it, and core dumps are off.
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.cell_pid())).unwrap();
    assert!(status.contains("Name:"), "{status}");
    assert_eq!(rig.wait_for(Phase::Ready).await.active_runs, 0);
}
