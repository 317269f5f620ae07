//! Built-in mail: messages land in the database, where operators read them.
//! Never: pretend that anybody else got them.

use std::sync::Arc;

use molt_model::Clock;
use molt_store::Store;
use molt_store::mail::MailRow;

use crate::{Answer, Mail, Mailer};

/// The mailer of an installation without a mail server.
pub struct LocalMailer {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl LocalMailer {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }
}

impl Mailer for LocalMailer {
    fn send(&self, mail: Mail) -> Answer<'_, anyhow::Result<()>> {
        Box::pin(async move {
            let row = MailRow {
                id: mail.id,
                to_address: mail.to_address,
                subject: mail.subject,
                text: Some(mail.text.into()),
                created_at: self.clock.now(),
            };
            let mut tx = self.store.system().await?;
            tx.insert_mail(&row, self.store.seal()).await?;
            tx.commit().await?;
            Ok(())
        })
    }
}
