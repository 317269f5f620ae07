//! The sentences that an owner reads on a bot's timeline, and how long each step may take.
//! Never: names of programs, paths, or inner error texts.

use chrono::TimeDelta;

use crate::plan::{Stage, Why};

/// Fetching the runtime is half a gigabyte on a slow line.
const RUNTIME_DEADLINE: TimeDelta = TimeDelta::minutes(20);
/// Starting a process takes milliseconds; a busy disk may add seconds.
const CELL_DEADLINE: TimeDelta = TimeDelta::seconds(30);
/// The runtime needs 12 to 25 s on two quiet cores and up to 50 s on busy ones.
const BOOT_DEADLINE: TimeDelta = TimeDelta::minutes(3);
/// A change may restart the runtime.
const SETTINGS_DEADLINE: TimeDelta = TimeDelta::seconds(150);
/// Eight seconds of grace, then force.
const STOP_DEADLINE: TimeDelta = TimeDelta::seconds(20);
const AT_ONCE: TimeDelta = TimeDelta::seconds(10);

/// How long a step may take before it counts as stuck.
pub(crate) const fn deadline(stage: Stage) -> TimeDelta {
    match stage {
        Stage::Runtime => RUNTIME_DEADLINE,
        Stage::Cell => CELL_DEADLINE,
        Stage::Booting => BOOT_DEADLINE,
        Stage::Settings => SETTINGS_DEADLINE,
        Stage::Stopping => STOP_DEADLINE,
        Stage::Reserved | Stage::Ready => AT_ONCE,
    }
}

/// The sentence that a step starts with.
pub(crate) fn sentence(stage: Stage, bot_name: &str) -> String {
    match stage {
        Stage::Reserved => format!("Reserving a place for {bot_name}"),
        Stage::Runtime => "Fetching OpenClaw, once for this machine".to_owned(),
        Stage::Cell => format!("Starting {bot_name}'s cell"),
        Stage::Booting => "Waking up the assistant's runtime".to_owned(),
        Stage::Settings => "Applying your settings".to_owned(),
        Stage::Ready => format!("{bot_name} is ready"),
        Stage::Stopping => format!("Stopping {bot_name}"),
    }
}

/// The runtime step while it goes on, in steps of a twentieth so that it doesn't make a row for every file.
pub(crate) fn installing(sentence: &str, percent: u8) -> String {
    match percent / 5 * 5 {
        0 => sentence.to_owned(),
        percent => format!("{sentence} ({percent} %)"),
    }
}

/// Why it is tried again.
pub(crate) fn trying_again(why: Why, bot_name: &str) -> String {
    format!("{} Trying again.", cause(why, bot_name))
}

/// Why a person is asked, and what they can do. `told` is a sentence of whoever failed, fit for a stranger's eyes.
pub(crate) fn given_up(why: Why, bot_name: &str, told: Option<&str>) -> String {
    match (why, told) {
        (Why::NoRuntime, Some(told)) => format!("{told}."),
        (Why::RuntimeFails, Some(told)) => format!("{told} Restart {bot_name} to try again."),
        _ => format!(
            "{} We tried several times. Restart {bot_name} to try again; \
             if that doesn't help, ask whoever runs this installation to look at `molt doctor`.",
            cause(why, bot_name)
        ),
    }
}

/// It ran, and does not answer.
pub(crate) fn recovering(bot_name: &str) -> String {
    format!("{bot_name} went away for a moment and is being brought back.")
}

/// New settings were refused; the old ones are in force.
pub(crate) fn settings_refused(bot_name: &str) -> String {
    format!(
        "{bot_name}'s runtime did not accept the last settings and goes on with the ones before. \
         Change them and save again."
    )
}

fn cause(why: Why, bot_name: &str) -> String {
    match why {
        Why::NoRuntime => "OpenClaw could not be fetched.".to_owned(),
        Why::TooSlow => format!("{bot_name} took too long to wake up."),
        Why::Died => format!("{bot_name}'s cell ended unexpectedly."),
        Why::RuntimeFails => format!("{bot_name}'s runtime does not come up."),
        Why::NotStarted => format!("{bot_name}'s cell could not be started."),
        Why::SettingsStuck => format!("{bot_name} did not confirm its settings."),
    }
}
