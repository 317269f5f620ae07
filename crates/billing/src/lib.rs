//! Money in: where a person accepts a plan, and what a payment sets in motion.
//! Never: a bot started by a request; the inbox does it, once per payment event, whoever sent it.

mod config;
pub mod inbox;
mod local;
pub mod renew;

use std::future::Future;
use std::pin::Pin;

use molt_model::{CheckoutId, UserId};

pub use config::Config;
pub use inbox::Inbox;
pub use local::{CHECKOUT_ACCEPTED, LocalPayments, PLAN_CANCELLED};
pub use renew::Renew;

/// The future that a trait object's method gives.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever takes the payments. Calls go out while somebody waits, so they answer fast or not at all.
pub trait Payments: Send + Sync + 'static {
    /// The word in `billing.provider` and `inbox.provider`.
    fn name(&self) -> &'static str;
    /// The address where the person accepts the plan. The same checkout asked for twice is one checkout.
    fn checkout(&self, user: UserId, checkout: CheckoutId) -> Answer<'_, anyhow::Result<String>>;
    /// The address where the person sees and ends their plan.
    fn portal(&self, user: UserId) -> Answer<'_, anyhow::Result<String>>;
}
