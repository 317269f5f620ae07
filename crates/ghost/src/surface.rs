//! The parts of the providers' APIs that can be called here, and what tells them apart.
//! Never: a surface that is in one list and not in another; every rule about them is a `match` over this enum.

use molt_store::usage::{SURFACE_CHAT, SURFACE_EMBEDDINGS};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Surface {
    /// OpenAI's chat completions, which everybody speaks.
    Chat,
    /// OpenAI's responses.
    Responses,
    Embeddings,
    /// Anthropic's messages.
    Messages,
    /// Anthropic's count of what a request would take. It costs nothing and isn't in the books.
    CountTokens,
}

/// Whose manners a surface has: how errors look, which header carries the key, how usage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    OpenAi,
    Anthropic,
}

impl Surface {
    pub(crate) const ALL: [Self; 5] =
        [Self::Chat, Self::Responses, Self::Embeddings, Self::Messages, Self::CountTokens];

    /// Below a provider's address, which ends in `/v1` or the like; below `/v1` here.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Responses => "/responses",
            Self::Embeddings => "/embeddings",
            Self::Messages => "/messages",
            Self::CountTokens => "/messages/count_tokens",
        }
    }

    /// As the books call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Chat => SURFACE_CHAT,
            Self::Responses => "responses",
            Self::Embeddings => SURFACE_EMBEDDINGS,
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
        }
    }

    pub(crate) const fn style(self) -> Style {
        match self {
            Self::Chat | Self::Responses | Self::Embeddings => Style::OpenAi,
            Self::Messages | Self::CountTokens => Style::Anthropic,
        }
    }

    /// Providers charge nothing for it.
    pub(crate) const fn is_free(self) -> bool {
        matches!(self, Self::CountTokens)
    }

    /// A model answers in words, so that the proxy can say something in its place.
    pub(crate) const fn speaks(self) -> bool {
        matches!(self, Self::Chat | Self::Responses | Self::Messages)
    }
}
