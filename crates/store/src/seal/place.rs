//! Everything that is sealed, in one list: who seals has to name a place, and a place has to say how it is sealed anew.
//! Never: a sealed value that isn't reached from here; a rotation would lose it.

use molt_model::BotId;
use uuid::Uuid;

/// One sealed value: the place that it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `bots.gateway_token` of this bot.
    GatewayToken(BotId),
    /// `signing_keys.private_sealed` of the key of this name.
    SigningKey(String),
    /// `link_sealed` in `outbox.data` of this message, in hexadecimal digits.
    MailLink(Uuid),
    /// `mails.text_sealed` of the mail of this message.
    MailText(Uuid),
}

/// A column that holds sealed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    GatewayTokens,
    SigningKeys,
    MailLinks,
    MailTexts,
}

impl Place {
    /// What the value is bound to: table, column and row.
    pub(super) fn binding(&self) -> String {
        match self {
            Self::GatewayToken(bot) => format!("bots.gateway_token:{bot}"),
            Self::SigningKey(kid) => format!("signing_keys.private:{kid}"),
            Self::MailLink(id) => format!("outbox.data:{id}"),
            Self::MailText(id) => format!("mails.text_sealed:{id}"),
        }
    }

    /// Where it rests. No arm, no compile: this is what keeps the list below whole.
    #[cfg(test)]
    pub(super) const fn column(&self) -> Column {
        match self {
            Self::GatewayToken(_) => Column::GatewayTokens,
            Self::SigningKey(_) => Column::SigningKeys,
            Self::MailLink(_) => Column::MailLinks,
            Self::MailText(_) => Column::MailTexts,
        }
    }
}

impl Column {
    pub(super) const ALL: [Self; 4] = [Self::GatewayTokens, Self::SigningKeys, Self::MailLinks, Self::MailTexts];

    /// As people and the schema call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::GatewayTokens => "bots.gateway_token",
            Self::SigningKeys => "signing_keys.private_sealed",
            Self::MailLinks => "outbox.data",
            Self::MailTexts => "mails.text_sealed",
        }
    }

    /// The place of the row with this key; `None`: that is no key of this table.
    pub(super) fn place(self, row: &str) -> Option<Place> {
        Some(match self {
            Self::GatewayTokens => Place::GatewayToken(row.parse().ok()?),
            Self::SigningKeys => Place::SigningKey(row.to_owned()),
            Self::MailLinks => Place::MailLink(row.parse().ok()?),
            Self::MailTexts => Place::MailText(row.parse().ok()?),
        })
    }

    /// Below every key of the table.
    pub(super) const fn before_all(self) -> &'static str {
        match self {
            Self::GatewayTokens | Self::SigningKeys => "",
            Self::MailLinks | Self::MailTexts => "00000000-0000-0000-0000-000000000000",
        }
    }

    /// Keys and sealed values after the key $1 that don't begin with $2, at most $3, in the order of their keys.
    pub(super) const fn select(self) -> &'static str {
        match self {
            Self::GatewayTokens => {
                "select id, gateway_token from molt.bots
                 where id > $1 and gateway_token is not null and substring(gateway_token for 9) <> $2
                 order by id limit $3"
            }
            Self::SigningKeys => {
                "select kid, private_sealed from molt.signing_keys
                 where kid > $1 and substring(private_sealed for 9) <> $2 order by kid limit $3"
            }
            Self::MailLinks => {
                "select id::text, decode(data ->> 'link_sealed', 'hex') from molt.outbox
                 where id > $1::text::uuid and data ? 'link_sealed'
                   and substring(decode(data ->> 'link_sealed', 'hex') for 9) <> $2
                 order by id limit $3"
            }
            Self::MailTexts => {
                "select outbox_id::text, text_sealed from molt.mails
                 where outbox_id > $1::text::uuid and text_sealed is not null and substring(text_sealed for 9) <> $2
                 order by outbox_id limit $3"
            }
        }
    }

    /// Puts the values $3 into the rows $1 that still hold the values $2.
    pub(super) const fn update(self) -> &'static str {
        match self {
            Self::GatewayTokens => {
                "update molt.bots t set gateway_token = n.sealed
                 from unnest($1::text[], $2::bytea[], $3::bytea[]) n (key, before, sealed)
                 where t.id = n.key and t.gateway_token = n.before"
            }
            Self::SigningKeys => {
                "update molt.signing_keys t set private_sealed = n.sealed
                 from unnest($1::text[], $2::bytea[], $3::bytea[]) n (key, before, sealed)
                 where t.kid = n.key and t.private_sealed = n.before"
            }
            Self::MailLinks => {
                "update molt.outbox t set data = jsonb_set(data, '{link_sealed}', to_jsonb(encode(n.sealed, 'hex')))
                 from unnest($1::text[], $2::bytea[], $3::bytea[]) n (key, before, sealed)
                 where t.id = n.key::uuid and t.data ->> 'link_sealed' = encode(n.before, 'hex')"
            }
            Self::MailTexts => {
                "update molt.mails t set text_sealed = n.sealed
                 from unnest($1::text[], $2::bytea[], $3::bytea[]) n (key, before, sealed)
                 where t.outbox_id = n.key::uuid and t.text_sealed = n.before"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_in_a_column_that_is_sealed_anew() {
        for place in [
            Place::GatewayToken(BotId::random()),
            Place::SigningKey("kid".to_owned()),
            Place::MailLink(Uuid::new_v4()),
            Place::MailText(Uuid::new_v4()),
        ] {
            let binding = place.binding();
            let (_, key) = binding.split_once(':').unwrap();
            assert!(Column::ALL.contains(&place.column()), "{binding} is forgotten by a rotation");
            assert_eq!(place.column().place(key), Some(place));
        }
    }
}
