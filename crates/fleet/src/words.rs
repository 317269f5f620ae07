//! The sentences that an owner reads on a bot's timeline, and how long each step may take.
//! Never: names of programs, paths, or inner error texts.

use chrono::TimeDelta;
use molt_model::settings::Change;

use crate::plan::{ENDS_MAX, ENDS_WINDOW_MINUTES, Stage, Why};

/// A line that tells of a moment.
const AT_ONCE: TimeDelta = TimeDelta::seconds(10);

/// How long a step may take before it counts as stuck: as long as the state that it belongs to.
pub(crate) fn deadline(stage: Stage) -> TimeDelta {
    stage.state().and_then(molt_model::Observed::limit).unwrap_or(AT_ONCE)
}

/// The sentence that a step starts with.
pub(crate) fn sentence(stage: Stage, bot_name: &str) -> String {
    match (stage.state(), stage) {
        (Some(state), _) => state.sentence(bot_name),
        (None, Stage::Undone) => "Your last change of the settings was undone".to_owned(),
        (None, _) => format!("{bot_name} is ready"),
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
        (Why::CrashLoop, _) => format!(
            "{} It is left alone now. Restart {bot_name} to try again; \
             if that doesn't help, ask whoever runs this installation to look at `molt doctor`.",
            cause(why, bot_name)
        ),
        _ => format!(
            "{} We tried several times. Restart {bot_name} to try again; \
             if that doesn't help, ask whoever runs this installation to look at `molt doctor`.",
            cause(why, bot_name)
        ),
    }
}

/// The host's disk is full.
pub(crate) fn no_room(bot_name: &str) -> String {
    format!(
        "There is no room left on the disk for {bot_name}. \
         It starts by itself as soon as whoever runs this installation makes room."
    )
}

/// It ran, and does not answer.
pub(crate) fn recovering(bot_name: &str) -> String {
    format!("{bot_name} went away for a moment and is being brought back.")
}

/// A change of the settings that didn't work. `refused`: the runtime said no, and went on.
pub(crate) fn settings_undone(bot_name: &str, changes: &[Change], refused: bool) -> String {
    let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
    let what = if refused { "'s runtime did not accept" } else { " did not come up with" };
    format!(
        "{bot_name}{what} your last change ({}), so it was undone. Change the settings and save again.",
        changes.join(", ")
    )
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
        Why::Silent => format!("{bot_name} did not answer any more."),
        Why::Died => format!("{bot_name}'s cell ended unexpectedly."),
        Why::RuntimeFails => format!("{bot_name}'s runtime does not come up."),
        Why::NotStarted => format!("{bot_name}'s cell could not be started."),
        Why::SettingsStuck => format!("{bot_name} did not confirm its settings."),
        Why::CrashLoop => {
            format!("{bot_name} came up and ended again {ENDS_MAX} times within {ENDS_WINDOW_MINUTES} minutes.")
        }
    }
}
