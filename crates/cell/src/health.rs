//! What the cell says about itself, in every phase.
//! Never: a secret, a path, or the runtime's own words.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use molt_bot::{Applied, CellHealth, Fault, Phase};
use molt_model::id::BotId;
use uuid::Uuid;

/// The newest health; cheap to clone and to read.
#[derive(Clone, Debug)]
pub struct Board {
    health: Arc<Mutex<CellHealth>>,
}

impl Board {
    #[must_use]
    pub fn new(bot_id: BotId) -> Self {
        let health = CellHealth {
            bot_id,
            boot_id: Uuid::new_v4(),
            phase: Phase::Starting,
            since: Utc::now(),
            detail: sentence(Phase::Starting).to_owned(),
            error: None,
            runtime_pid: None,
            runtime_restarts: 0,
            runtime_boot_ms: None,
            applied: None,
            runtime_version: None,
            active_runs: 0,
        };
        Self { health: Arc::new(Mutex::new(health)) }
    }

    #[must_use]
    pub fn read(&self) -> CellHealth {
        self.lock().clone()
    }

    /// Enters a phase; an error is kept until the cell is ready.
    pub fn enter(&self, phase: Phase) {
        let mut health = self.lock();
        if health.phase != phase {
            tracing::info!(?phase, "phase");
            health.since = Utc::now();
        }
        health.phase = phase;
        sentence(phase).clone_into(&mut health.detail);
        if phase == Phase::Ready {
            health.error = None;
        }
    }

    pub fn fault(&self, code: &str, message: &str) {
        self.lock().error = Some(Fault { code: code.to_owned(), message: message.to_owned() });
    }

    pub fn spawned(&self, pid: u32) {
        self.lock().runtime_pid = Some(pid);
    }

    /// `counts`: it ended by itself, or was lost.
    pub fn exited(&self, counts: bool) {
        let mut health = self.lock();
        health.runtime_pid = None;
        health.runtime_restarts += u32::from(counts);
    }

    pub fn booted(&self, boot_ms: u64, version: Option<String>) {
        let mut health = self.lock();
        health.runtime_boot_ms = Some(boot_ms);
        health.runtime_version = version;
    }

    pub fn applied(&self, applied: Applied) {
        self.lock().applied = Some(applied);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CellHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn sentence(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "The assistant's home is being prepared.",
        Phase::Booting => "The assistant is waking up.",
        Phase::Connecting => "The assistant is awake and is being connected.",
        Phase::Ready => "The assistant is ready.",
        Phase::Restarting => "The assistant is restarting; it will be back in a moment.",
        Phase::Failed => "The assistant doesn't start. It will be tried again.",
    }
}
