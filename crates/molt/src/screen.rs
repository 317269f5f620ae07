//! What `molt dev` says to the person at the terminal: short lines, no noise, colour only where there is one to see it.
//! Never: a log line, a secret, or a sentence without a way out when something is wrong.

use std::io::{IsTerminal, Write, stdout};
use std::sync::Mutex;
use std::sync::PoisonError;

/// Lines for a person. Cheap to share by reference.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    colour: bool,
    /// Whether the cursor stands behind a line that is still changing.
    open_line: Mutex<bool>,
}

impl Screen {
    /// `no_colour`: the person asked for none (NO_COLOR).
    #[must_use]
    pub fn new(no_colour: bool) -> Self {
        let terminal = stdout().is_terminal();
        Self { terminal, colour: terminal && !no_colour, open_line: Mutex::new(false) }
    }

    pub fn title(&self, text: &str) {
        self.line(&format!("\n  {}\n", self.paint("1;35", text)));
    }

    /// Something is as it should be.
    pub fn good(&self, text: &str) {
        self.line(&format!("  {} {text}", self.paint("32", "✓")));
    }

    /// Something is missing, but life goes on.
    pub fn note(&self, text: &str) {
        self.line(&format!("  {} {text}", self.paint("33", "•")));
    }

    /// A word and what it means.
    pub fn fact(&self, word: &str, text: &str) {
        self.line(&format!("    {} {}", self.paint("2", &format!("{word:<6}")), self.paint("1", text)));
    }

    pub fn gap(&self) {
        self.line("");
    }

    /// A line that changes in place on a terminal; elsewhere it is left out, and `good` says the end.
    pub fn changing(&self, text: &str) {
        if !self.terminal {
            return;
        }
        let mut open = self.open_line.lock().unwrap_or_else(PoisonError::into_inner);
        *open = true;
        let mut out = stdout().lock();
        let _ = write!(out, "\r\x1b[2K  {} {text}", self.paint("36", "◌")).and_then(|()| out.flush());
    }

    fn line(&self, text: &str) {
        let mut open = self.open_line.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = if std::mem::take(&mut *open) { "\r\x1b[2K" } else { "" };
        // Nobody reads it any more: nothing to do about that.
        let _ = writeln!(stdout().lock(), "{clear}{text}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
