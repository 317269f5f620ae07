//! Where there is no Linux there is no seal: cells of a developer's Mac are ordinary processes.
//! Never: the pretence of one.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use molt_model::BotId;
use tokio::sync::Notify;

use super::folder::Folder;
use crate::host::{CellSpec, HostError};

pub(super) const KEEPER: &str = "";
pub(super) const STATE: &str = "";
pub(super) const WAY_IN: &str = "";
const WHY: &str = "cells are sealed off on Linux only";

/// How much sealing the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SealMode {
    Off,
    #[default]
    Auto,
    Require,
}

/// What the operator says about sealing.
#[derive(Clone, Debug)]
pub struct Sealing {
    pub mode: SealMode,
    pub memory_bytes: u64,
    pub processes: u32,
    pub gates: Option<Arc<Notify>>,
}

impl Sealing {
    /// For whoever only looks at cells or ends them.
    #[must_use]
    pub const fn off() -> Self {
        Self { mode: SealMode::Off, memory_bytes: 0, processes: 0, gates: None }
    }
}

/// How far cells are sealed off on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealFound {
    pub sealed: bool,
    pub missing: Vec<String>,
}

#[must_use]
pub fn look_at_seal(_: &Sealing, _: Option<&RangeInclusive<u32>>) -> SealFound {
    SealFound { sealed: false, missing: vec![WHY.to_owned()] }
}

/// Nothing can make one.
pub(super) enum Seal {}

impl Seal {
    pub(super) fn new(sealing: &Sealing, _: Option<&RangeInclusive<u32>>) -> Result<Option<Self>, HostError> {
        match sealing.mode {
            SealMode::Require => Err(HostError::Unusable(format!("{WHY}; set fleet.seal to \"auto\" or \"off\""))),
            SealMode::Off | SealMode::Auto => Ok(None),
        }
    }

    pub(super) fn cell(
        &self,
        _: &Folder,
        _: &Path,
        _: &CellSpec,
        _: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Command> {
        match *self {}
    }
}

pub(super) fn way_out() -> String {
    String::new()
}

pub(super) fn members(_: &BotId) -> Vec<u32> {
    Vec::new()
}

pub(super) fn remove(_: &BotId) {}
