//! Starting and stopping: quickly the second time, without a trace at the end, and with a clear sentence where it can't.
//! Never: a stack trace shown to a person.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::stack::{Stack, fresh_folder, processes};

/// A person waits no longer for the second start (the issue's own figure).
const SECOND_START_MAX: Duration = Duration::from_secs(5);
/// Resident memory of `molt` with one bot, in MiB (the issue's own figure, for the optimised program).
const RESIDENT_MIB_MAX: u64 = 60;
/// Between an accepted plan and a running bot, over the runtime's own boot time (the issue's own figure).
const PROVISIONING_OVERHEAD_MAX: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_second_start_is_quick_and_the_bot_comes_back_by_itself() {
    let mut stack = Stack::start().await;
    let person = stack.signup("Ada").await;
    let bot = stack.wizard(&person, "Pip").await;
    stack.accept_plan(&person, &bot).await;
    let took = stack.wait_running(&person, &bot).await;
    assert!(took < PROVISIONING_OVERHEAD_MAX, "the stand-in boots in milliseconds, the rest took {took:?}");
    let mut chat = stack.chat(&person, &bot).await;
    chat.turn("m-1", "main", "Remember that the boat leaves at noon.").await;

    let status = stack.interrupt().await;
    assert!(status.success(), "{status}");
    assert_eq!(processes::below(&stack.data()), Vec::new(), "Ctrl-C leaves no process");
    let began = Instant::now();
    stack.launch().await;
    stack.wait_running(&person, &bot).await;
    assert!(began.elapsed() < SECOND_START_MAX, "the second start took {:?}", began.elapsed());
    let mut chat = stack.chat(&person, &bot).await;
    let turn = chat.turn("m-2", "main", "When does the boat leave?").await;
    assert!(turn.answer().contains("noon"), "{turn:#?}");
    let resident = stack.resident_mib();
    println!("second start {:?}, {resident} MiB resident", began.elapsed());
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB resident");
    stack.finish().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_with_a_way_out() {
    let stack = Stack::prepare("").await;
    let _taken = TcpListener::bind(("127.0.0.1", stack.port)).expect("a free port");
    let said = refused(stack.operator_command(&["dev", "--listen", &format!("127.0.0.1:{}", stack.port)]));
    assert!(said.contains(&stack.port.to_string()) && said.contains("--listen"), "{said}");
}

#[tokio::test]
async fn two_on_one_data_folder_is_said_with_a_way_out() {
    let mut stack = Stack::start().await;
    let said = refused(stack.operator_command(&["dev", "--listen", "127.0.0.1:0"]));
    assert!(said.contains("--data-dir") && said.contains(&stack.pid().to_string()), "{said}");
    assert!(stack.http.try_get("/healthz").await.is_some_and(|answer| answer.status == 200), "the first one goes on");
    stack.kill();
    stack.launch().await;
    stack.finish().await;
}

#[tokio::test]
async fn settings_that_can_not_be_are_all_named_at_once() {
    let stack = Stack::prepare("bots_per_user = \"many\"\nmonthly_cap_usd = \"a lot\"\ncolour = \"red\"").await;
    let said = refused(stack.operator_command(&["dev", "--listen", "0.0.0.0:0"]));
    for name in ["bots_per_user", "monthly_cap_usd", "colour"] {
        assert!(said.contains(name), "{name} is missing in {said}");
    }
    let stack = Stack::prepare("").await;
    let said = refused(stack.operator_command(&["dev", "--listen", "0.0.0.0:0"]));
    assert!(said.contains("signup"), "strangers could sign up: {said}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_said_without_its_password() {
    let stack = Stack::prepare("").await;
    let mut command = stack.operator_command(&["dev"]);
    command.env("DATABASE_URL", "postgres://ada:lobster-secret@127.0.0.1:1/molt");
    let said = refused(command);
    assert!(said.contains("DATABASE_URL"), "{said}");
    assert!(!said.contains("lobster-secret"), "{said}");
    let mut command = stack.operator_command(&["dev"]);
    command.env("DATABASE_URL", "not an address at all");
    refused(command);
}

#[tokio::test]
async fn a_data_folder_that_can_not_be_written_is_said_with_a_way_out() {
    let stack = Stack::prepare("").await;
    std::fs::write(stack.data(), "a file where the folder should be").expect("our own folder");
    let said = refused(stack.operator_command(&["dev", "--listen", "127.0.0.1:0"]));
    assert!(said.contains("--data-dir"), "{said}");
}

/// With a private Postgres: the whole of `molt dev` as a stranger starts it, but for the runtime.
#[tokio::test]
async fn a_private_database_starts_quickly_survives_its_molt_and_can_be_reset() {
    let mut stack = Stack::start_private().await;
    let person = stack.signup("Ada").await;
    stack.kill();
    let began = Instant::now();
    stack.launch().await;
    assert!(began.elapsed() < SECOND_START_MAX, "after kill -9 it took {:?}", began.elapsed());
    assert_eq!(stack.http.get("/api/me", &person).await.status, 200, "the account is still there");
    let status = stack.interrupt().await;
    assert!(status.success(), "{status}");
    assert_eq!(processes::below(&stack.data()), Vec::new(), "no Postgres is left");

    let said = refused(stack.operator_command(&["dev", "--reset"]));
    assert!(said.contains("--yes"), "nobody was there to say yes: {said}");
    stack.launch_with(&["--reset", "--yes"]).await;
    assert_eq!(stack.http.get("/api/me", &person).await.status, 401, "the account is forgotten");
    stack.signup("Ada").await;
    stack.finish().await;
}

#[tokio::test]
async fn a_cluster_of_another_postgres_is_not_touched() {
    let mut stack = Stack::start_private().await;
    stack.interrupt().await;
    let version = find(&stack.data().join("postgres"), "PG_VERSION").expect("a cluster");
    std::fs::write(&version, "9\n").expect("our own folder");
    let mut command = stack.operator_command(&["dev", "--listen", "127.0.0.1:0"]);
    command.env_remove("DATABASE_URL");
    let said = refused(command);
    assert!(said.contains('9') && said.to_lowercase().contains("postgres"), "{said}");
    assert_eq!(std::fs::read_to_string(&version).expect("a file"), "9\n");
}

#[tokio::test]
async fn without_npm_the_bot_says_why_and_what_to_do() {
    let stack = Stack::start_without_runtime().await;
    let person = stack.signup("Ada").await;
    let bot = stack.wizard(&person, "Pip").await;
    stack.accept_plan(&person, &bot).await;
    let told = stack
        .eventually("the timeline says what is missing", async || {
            let seen = stack.bot(&person, &bot).await;
            let told = format!("{} {}", seen["reason"], seen["steps"]);
            told.contains("npm").then_some(told)
        })
        .await;
    assert!(!told.contains("os error") && !told.contains("stack"), "a sentence for people: {told}");
    assert!(stack.http.try_get("/healthz").await.is_some(), "the API goes on meanwhile");
    stack.finish_quietly().await;
}

/// A command that must not start: what it said, which is short, and no trace.
#[track_caller]
fn refused(mut command: Command) -> String {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program was built");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("our own child");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!status.success(), "it started: {said}");
    for trace in ["panicked", "stack backtrace", "RUST_BACKTRACE", "Os {"] {
        assert!(!said.contains(trace), "{said}");
    }
    assert!(said.lines().count() < 25, "short enough to be read: {said}");
    said
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

#[test]
fn help_and_version_need_nothing() {
    let folder = fresh_folder();
    for argument in ["--help", "--version"] {
        let output = crate::stack::molt().arg(argument).current_dir(&folder).output().expect("the program was built");
        assert!(output.status.success() && !output.stdout.is_empty());
    }
    assert!(std::fs::remove_dir(&folder).is_ok(), "and leave nothing behind");
}
