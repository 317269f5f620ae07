//! Money in: where a person accepts a plan, and what a payment sets in motion.
//! Never: a bot started by a request; the inbox does it, once per payment event, whoever sent it.

use std::future::Future;
use std::pin::Pin;

use molt_model::{CheckoutId, UserId};

/// The future that a trait object's method gives.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever takes the payments. Calls go out while somebody waits, so they answer fast or not at all.
pub trait Payments: Send + Sync + 'static {
    /// The word in `billing.provider` and `inbox.provider`.
    fn name(&self) -> &'static str;
    /// Where the person accepts the plan.
    fn checkout(&self, user: UserId, checkout: CheckoutId) -> Answer<'_, anyhow::Result<String>>;
    /// Where the person sees and ends their plan.
    fn portal(&self, user: UserId) -> Answer<'_, anyhow::Result<String>>;
}
