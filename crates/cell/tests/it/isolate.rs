//! A cell that leaves its machine's network, as at Fly: the runtime has loopback, no root and no way out, and its model calls
//! still arrive. Takes root.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use molt_bot::{CellAddress, Client, Phase, RunPhase};
use secrecy::SecretString;
use tokio::net::TcpListener;

use crate::rig::{GHOST_KEY, Rig, TOKEN, cell_program};

const EGRESS_KEY: &str = "egress-key";
/// The runtime's forward proxy; in a network of its own the port is free.
const WAY_OUT: &str = "127.0.0.1:3128";

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

fn network(pid: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

/// Whether something in the runtime's network gets through to an address.
fn reaches(pid: u32, address: std::net::SocketAddr) -> bool {
    let script = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let inside = ["-t", &pid.to_string(), "-n", "--", "/bin/bash", "-c", &script];
    Command::new("nsenter").args(inside).stderr(std::process::Stdio::null()).status().unwrap().success()
}

#[tokio::test]
async fn the_runtime_has_a_network_of_its_own_and_its_model_calls_arrive() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: leaving a network takes root");
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped here");
        return;
    }
    let mut rig = Rig::prepared().await;
    let runtime = rig.folder.join("runtime");
    std::fs::copy(cell_program().parent().unwrap().join("examples/molt-stand-in-runtime"), &runtime).unwrap();
    std::fs::set_permissions(&rig.folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    rig.client = Client::new(CellAddress::Tcp(door.to_string()), SecretString::from(TOKEN));
    let mut command = rig.command();
    command.env("MOLT_RUNTIME_COMMAND", serde_json::json!([runtime, "gateway"]).to_string());
    command.env("MOLT_ISOLATE", "netns");
    command.env("MOLT_EGRESS_KEY", EGRESS_KEY);
    rig.start_with(command);
    let health = rig.wait_for(Phase::Ready).await;
    let pid = health.runtime_pid.unwrap();

    // Its network is another one than ours, with nothing in it but loopback, and no route.
    assert_ne!(network(&pid.to_string()), network("self"));
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap();
    let devices: Vec<String> =
        read("dev").lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned()).collect();
    assert_eq!(devices, ["lo"]);
    assert_eq!(read("route").lines().count(), 1, "the header and no route");
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr();
    let proxy = std::net::SocketAddr::from(([127, 0, 0, 1], rig.proxy_port));
    assert!(!reaches(pid, proxy), "what listens outside can't be reached");
    assert!(outside.is_ok());
    let port = std::fs::read_to_string(rig.state().join("molt/forwarder.port")).unwrap();
    assert!(reaches(pid, format!("127.0.0.1:{}", port.trim()).parse().unwrap()), "the way to the models can");

    // Ways out begin at its own loopback, and the cell shows the proxy keys that the runtime has never seen.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("NODE_USE_ENV_PROXY=1"), "{environment}");
    assert!(!environment.contains(EGRESS_KEY) && !environment.contains(GHOST_KEY), "{environment}");
    assert!(rig.model.knocks().is_empty());
    assert!(reaches(pid, WAY_OUT.parse().unwrap()));
    rig.wait_until(|_| !rig.model.knocks().is_empty()).await;
    assert_eq!(rig.model.knocks()[0], [format!("Bearer {GHOST_KEY}"), EGRESS_KEY.to_owned()]);

    // Nobody in it is root, the cell neither, and no program can make it so.
    for pid in [pid, rig.cell_pid()] {
        assert_eq!(status(pid, "Uid"), "65532 65532 65532 65532");
        assert_eq!(status(pid, "Gid"), "65532 65532 65532 65532");
        assert_eq!(status(pid, "Groups"), "");
        assert_eq!(status(pid, "CapEff"), "0000000000000000");
        assert_eq!(status(pid, "CapPrm"), "0000000000000000");
        assert_eq!(status(pid, "NoNewPrivs"), "1");
    }
    // Threads that stayed outside are no way back: their folder is closed to the runtime's user.
    let peek = Command::new("setpriv")
        .args(["--reuid", "65532", "--regid", "65532", "--clear-groups", "ls"])
        .arg(Path::new("/proc").join(rig.cell_pid().to_string()).join("fd"))
        .output()
        .unwrap();
    assert!(!peek.status.success(), "the cell can be looked into");

    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 3").await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
    assert_eq!(rig.model.calls().iter().filter(|call| call.chat).count(), 1);
    rig.check_runs();
}
