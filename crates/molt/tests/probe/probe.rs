//! A runtime that tries to get out: it starts the program that it is given in its own place, and beside it a process that
//! does whatever stands in its workspace's `orders.json`, attempt by attempt, and writes what came of it.
//! Never: in a product build, or an attempt that counts as failed because it was made badly: each gets through where nothing
//! stands in its way, which a test shows.

mod attempts;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::{Value, json};

const WATCH: &str = "watch";
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(workspace) = std::env::var_os("MOLT_WORKSPACE").map(PathBuf::from) else {
        eprintln!("the probe isn't in a cell");
        return ExitCode::FAILURE;
    };
    let Some((first, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    match first.as_str() {
        WATCH => watch(&workspace),
        attempts::TAKE_MEMORY => attempts::take_memory(rest),
        program => {
            let own = std::env::current_exe().expect("a program knows itself");
            if let Err(error) = Command::new(own).arg(WATCH).spawn() {
                eprintln!("the probe can't begin: {error}");
            }
            eprintln!("the probe can't start {program}: {}", Command::new(program).args(rest).exec());
            ExitCode::FAILURE
        }
    }
}

fn watch(workspace: &Path) -> ! {
    let (orders, taken) = (workspace.join("orders.json"), workspace.join("orders.taken"));
    loop {
        // Taken before they are carried out: what ends the runtime in the middle isn't tried again by the next one.
        if std::fs::rename(&orders, &taken).is_ok() {
            let text = std::fs::read_to_string(&taken).unwrap_or_default();
            let asked: Value = serde_json::from_str(&text).unwrap_or_default();
            let answers: Vec<Value> = asked["attempts"].as_array().into_iter().flatten().map(answer).collect();
            let draft = workspace.join(".results.draft");
            std::fs::write(&draft, json!({ "number": asked["number"], "answers": answers }).to_string()).ok();
            std::fs::rename(&draft, workspace.join("results.json")).ok();
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn answer(attempt: &Value) -> Value {
    let (through, said) = match attempts::make(attempt) {
        Ok(said) => (true, said),
        Err(said) => (false, said),
    };
    json!({ "name": attempt["name"], "through": through, "said": said })
}
