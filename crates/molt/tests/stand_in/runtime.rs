//! A stand-in for the bots' runtime: it speaks the recorded protocol and starts in milliseconds, so that fast tests
//! don't pay for the real one. It really asks the model and really runs tools, and it behaves over a kill as the real
//! one was measured to (docs/decisions/0003).
//! Never: in a product build, or more forgiving than the real one.

mod gateway;
mod model;
mod session;
mod tools;
mod turn;

use std::path::PathBuf;

/// What the runtime is told by its environment.
#[derive(Clone, Debug)]
struct Surroundings {
    port: u16,
    token: String,
    state: PathBuf,
    config: PathBuf,
    workspace: PathBuf,
    model_url: String,
    model_key: String,
}

impl Surroundings {
    fn read() -> Option<Self> {
        let arguments: Vec<String> = std::env::args().collect();
        let port = arguments.iter().position(|argument| argument == "--port")?;
        let variable = |name: &str| std::env::var(name).ok();
        Some(Self {
            port: arguments.get(port + 1)?.parse().ok()?,
            token: variable("OPENCLAW_GATEWAY_TOKEN")?,
            state: variable("OPENCLAW_STATE_DIR")?.into(),
            config: variable("OPENCLAW_CONFIG_PATH")?.into(),
            workspace: variable("MOLT_WORKSPACE")?.into(),
            model_url: variable("MOLT_MODEL_URL")?,
            model_key: variable("MOLT_MODEL_KEY")?,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let Some(surroundings) = Surroundings::read() else {
        eprintln!("stand-in runtime: a variable or --port is missing");
        return std::process::ExitCode::FAILURE;
    };
    match gateway::serve(surroundings).await {
        // The real one leaves with this code when its configuration doesn't validate.
        Err(gateway::StartError::Config(why)) => {
            eprintln!("stand-in runtime: {why}");
            std::process::ExitCode::from(78)
        }
        Err(gateway::StartError::Listen(error)) => {
            eprintln!("stand-in runtime: {error}");
            std::process::ExitCode::FAILURE
        }
        Ok(()) => std::process::ExitCode::SUCCESS,
    }
}
