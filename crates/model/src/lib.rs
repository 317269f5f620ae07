//! The nouns of Molt-OS and the pure rules between them.
//! Never: I/O, async, the system clock, or knowledge of any outside system.

pub mod bot;
pub mod catalog;
pub mod clock;
pub mod egress;
pub mod event;
pub mod id;
pub mod money;
pub mod price;
pub mod settings;
pub mod usage;
pub mod watch;

pub use bot::{Intent, Observed, Rung, Status, Vertical};
pub use catalog::{Catalog, CatalogInForce, ModelFacts, Target};
pub use clock::{Clock, SystemClock, Time};
pub use event::{Event, EventKind};
pub use id::{BotId, CheckoutId, ConversationId, HolderId, KeyId, RequestId, RunId, UserId};
pub use money::Nanos;
pub use price::{Price, PriceVersion, Tier};
pub use settings::{Notifications, Personality, Settings};
pub use usage::TokenUsage;
pub use watch::Caution;
