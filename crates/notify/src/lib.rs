//! Words out: what people are told by mail.
//! Never: twice, a text of the platform's inside, or an address in a log.

pub mod deliver;
mod local;
mod template;

use std::future::Future;
use std::pin::Pin;

use uuid::Uuid;

pub use deliver::{Counts, Deliver};
pub use local::LocalMailer;
pub use template::Faulty;

/// The future that a trait object's method gives.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A message, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The outbox row's id: the mail server (or the reader) knows a second copy by it.
    pub id: Uuid,
    pub to_address: String,
    pub subject: String,
    pub text: String,
}

/// Whoever carries mail.
pub trait Mailer: Send + Sync + 'static {
    /// Sends a mail. The same id twice is one mail, as far as the carrier can tell.
    fn send(&self, mail: Mail) -> Answer<'_, anyhow::Result<()>>;
}
