//! Built-in payments: a page of ours that charges nobody.
//! Never: look like a page that takes money.

use molt_model::{CheckoutId, UserId};

use crate::{Answer, Payments};

/// The kind of inbox event that an accepted checkout of ours makes. Its id is the checkout's.
pub const CHECKOUT_ACCEPTED: &str = "checkout.accepted";
/// The kind of inbox event that a plan cancelled on our page makes. Its body names the person: `{"user_id": …}`.
pub const PLAN_CANCELLED: &str = "plan.cancelled";

/// The payments of an installation without a payment provider.
pub struct LocalPayments {
    public_url: String,
}

impl LocalPayments {
    /// `public_url` is where people reach this installation, without a trailing slash.
    #[must_use]
    pub fn new(public_url: String) -> Self {
        Self { public_url }
    }
}

impl Payments for LocalPayments {
    fn name(&self) -> &'static str {
        "local"
    }

    fn checkout(&self, _: UserId, checkout: CheckoutId) -> Answer<'_, anyhow::Result<String>> {
        let url = format!("{}/checkout/{checkout}", self.public_url);
        Box::pin(async move { Ok(url) })
    }

    fn portal(&self, _: UserId) -> Answer<'_, anyhow::Result<String>> {
        let url = format!("{}/app/plan", self.public_url);
        Box::pin(async move { Ok(url) })
    }
}
