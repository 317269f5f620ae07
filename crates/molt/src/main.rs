//! The command line. Reads what is asked, calls the library, and says in one sentence what went wrong.
//! Never: anything else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use molt::config::{Config, Overrides};
use molt::hosts::HostKind;
use molt::screen::Screen;
use molt::wire::Roles;
use molt::{commands, dev, doctor, log, prices, rotate, serve};
use molt_model::{BotId, HolderId, KeyId, Nanos};

/// Gives memory back to the system: checking a password takes 7 MiB for a moment, which glibc would keep for good.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "molt", version, about = "A personal AI assistant of one's own, for everybody on your machine")]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Options {
    /// A file of settings, instead of ./molt.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the API and the app listen
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where everything is kept
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Where bots live
    #[arg(long, global = true, value_enum)]
    host: Option<HostKind>,
}

#[derive(Subcommand)]
enum Command {
    /// Everything on this machine, from nothing: Postgres, API, app, Ghost Key, cells
    Dev {
        /// Forget every account, assistant and memory first
        #[arg(long)]
        reset: bool,
        /// Don't ask whether --reset is meant
        #[arg(long)]
        yes: bool,
    },
    /// The API, the app and the loops that only need the database
    Serve {
        /// Also Ghost Key and the cells, in this one process
        #[arg(long)]
        all: bool,
    },
    /// Ghost Key: model calls under the installation's own keys
    Proxy,
    /// The cells: of this machine, or at Fly
    Fleet,
    /// Bring the database to the newest schema
    Migrate,
    /// Make the image of the bots' containers, unless the Docker engine has it
    Image,
    /// Look at everything an installation needs and say how it is
    Doctor,
    /// Ghost Keys for programs, and the key that seals secrets
    #[command(subcommand)]
    Keys(Keys),
    /// What model calls cost
    #[command(subcommand)]
    Prices(Prices),
    /// What operators do
    #[command(subcommand)]
    Admin(Admin),
    /// Make a code that lets one person sign up
    Invite {
        /// Only for this address
        #[arg(long)]
        email: Option<String>,
    },
    /// Print the description of the API
    Openapi,
}

#[derive(Subcommand)]
enum Keys {
    /// Make a key; it is printed once
    Create {
        /// Whose plan pays
        #[arg(long, value_name = "EMAIL")]
        user: String,
        /// The most that this key may spend in a month, in US dollars
        #[arg(long, value_name = "N")]
        cap_usd: Option<Nanos>,
        /// What the key is for
        #[arg(long, default_value = "program")]
        label: String,
    },
    /// List somebody's keys and what they spent in this period
    List {
        #[arg(long, value_name = "EMAIL")]
        user: String,
    },
    /// Set where a key stops in a month; without an amount, only its owner's cap holds
    Cap {
        id: KeyId,
        #[arg(long, value_name = "N")]
        cap_usd: Option<Nanos>,
    },
    /// Make a key useless, at once
    Revoke { id: KeyId },
    /// Seal all secrets in the database under a new key and retire the old one; run it again if it was cut
    Rotate,
}

#[derive(Subcommand)]
enum Prices {
    /// Put a newer list of what providers ask in force, everywhere and at once
    Import { file: PathBuf },
    /// Print what calls cost: all models of this installation, or one
    Show {
        /// `provider/model`, or an alias
        model: Option<String>,
        /// The price book of a usage row, or an imported list, instead of what is in force
        #[arg(long)]
        version: Option<String>,
    },
}

#[derive(Subcommand)]
enum Admin {
    /// Make somebody an operator
    GrantOperator { email: String },
    /// Make an operator an ordinary user
    RevokeOperator { email: String },
    /// Stop anybody's assistant until an operator resumes it; it keeps everything
    Suspend {
        bot: BotId,
        /// Why, in one line for the assistant's owner
        #[arg(long, value_name = "SENTENCE")]
        reason: String,
    },
    /// Let an assistant go on that was suspended, or paused or slowed because its use looked unusual
    Resume { bot: BotId },
    /// List the proxies that hold money of people's caps, and when each was last seen
    Proxies,
    /// Give back what a proxy holds whose machine or data folder is gone for good
    LoseProxy { proxy: HolderId },
}

impl Command {
    /// Only what runs the proxy reads the providers' keys, and `doctor`, which looks whether they are there.
    const fn holds_keys(&self) -> bool {
        matches!(self, Self::Dev { .. } | Self::Proxy | Self::Serve { all: true } | Self::Doctor)
    }

    /// What people's model calls go through.
    const fn calls_models(&self) -> bool {
        matches!(self, Self::Proxy | Self::Serve { all: true })
    }

    /// Only what runs the fleet reads a host's token, and `doctor`, which asks the host.
    const fn keeps_cells(&self) -> bool {
        matches!(self, Self::Dev { .. } | Self::Fleet | Self::Serve { all: true } | Self::Doctor)
    }
}

fn main() -> ExitCode {
    // Where the kernel gives pages of 2 MiB unasked, a heap would keep twelve megabytes where three are used. The allocator has
    // its first memory before this line, so it is built not to ask for them itself. Without this only memory is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let cli = Cli::parse();
    if cli.command.calls_models() {
        // Without it the first call after a pause takes a little longer.
        let _ = molt::code::gather();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nmolt: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if matches!(cli.command, Command::Openapi) {
        commands::openapi()?;
        return Ok(ExitCode::SUCCESS);
    }
    let environment = molt::config::environment;
    let Options { config, listen, data_dir, host } = cli.options;
    let (holds_keys, keeps_cells) = (cli.command.holds_keys(), cli.command.keeps_cells());
    let overrides = Overrides { file: config, listen, data_dir, host, holds_keys, keeps_cells };
    let config = Config::read(&overrides, &environment)?;
    match cli.command {
        Command::Dev { reset, yes } => {
            let screen = Screen::new(environment("NO_COLOR").is_some());
            dev::run(config, dev::Wishes { reset, yes }, screen).await?;
        }
        Command::Serve { all: true } => daemon(config, Roles::ALL).await?,
        Command::Serve { all: false } => daemon(config, Roles { serve: true, ..Roles::default() }).await?,
        Command::Proxy => daemon(config, Roles { proxy: true, ..Roles::default() }).await?,
        Command::Fleet => daemon(config, Roles { fleet: true, ..Roles::default() }).await?,
        Command::Migrate => commands::migrate(&config).await?,
        Command::Image => commands::image(&config).await?,
        Command::Doctor if doctor::run(&config).await => {}
        Command::Doctor => return Ok(ExitCode::FAILURE),
        Command::Keys(Keys::Create { user, cap_usd, label }) => {
            commands::create_key(&config, &user, &label, cap_usd).await?;
        }
        Command::Keys(Keys::List { user }) => commands::list_keys(&config, &user).await?,
        Command::Keys(Keys::Cap { id, cap_usd }) => commands::cap_key(&config, id, cap_usd).await?,
        Command::Keys(Keys::Revoke { id }) => commands::revoke_key(&config, id).await?,
        Command::Keys(Keys::Rotate) => rotate::rotate(&config).await?,
        Command::Prices(Prices::Import { file }) => prices::command::import(&config, &file).await?,
        Command::Prices(Prices::Show { model, version }) => {
            prices::command::show(&config, model.as_deref(), version.as_deref()).await?;
        }
        Command::Admin(Admin::GrantOperator { email }) => commands::set_operator(&config, &email, true).await?,
        Command::Admin(Admin::RevokeOperator { email }) => commands::set_operator(&config, &email, false).await?,
        Command::Admin(Admin::Suspend { bot, reason }) => commands::suspend_bot(&config, &bot, &reason).await?,
        Command::Admin(Admin::Resume { bot }) => commands::resume_bot(&config, &bot).await?,
        Command::Admin(Admin::Proxies) => commands::list_proxies(&config).await?,
        Command::Admin(Admin::LoseProxy { proxy }) => commands::lose_proxy(&config, proxy).await?,
        Command::Invite { email } => commands::invite(&config, email.as_deref()).await?,
        Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn daemon(config: Config, roles: Roles) -> anyhow::Result<()> {
    log::to_stderr(&config.log)?;
    config.offer.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    serve::run(config, roles).await
}

/// The error and what it came from, once each, on one line.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !parts.iter().any(|part| part.contains(&cause)) {
            parts.push(cause);
        }
    }
    parts.join(": ")
}
