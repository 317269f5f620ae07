//! What one call of the storm is to meet, and what its provider counts for it: told by the caller's own words, so that
//! both sides and the books can be compared.
//! Never: a figure from the program under test.

use serde_json::{Value, json};

/// Stands in every word of an answer and nowhere else, so that pieces can be counted in any stream.
pub(crate) const MARK: u8 = b'~';
/// More than any limit that a caller of the storm sets, less than what would empty a purse.
const EXCESS_TOKENS: i64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Chat,
    Responses,
    Messages,
    Embeddings,
}

impl Surface {
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    pub(crate) fn of(path: &str) -> Option<Self> {
        let all = [Self::Chat, Self::Responses, Self::Messages, Self::Embeddings];
        all.into_iter().find(|surface| path == surface.path())
    }

    /// What only a whole stream holds.
    pub(crate) const fn end_mark(self) -> &'static str {
        match self {
            Self::Chat | Self::Embeddings => "[DONE]",
            Self::Responses => "response.completed",
            Self::Messages => "message_stop",
        }
    }
}

/// How the provider behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Good,
    /// A pause after each few words.
    Slow,
    /// Nothing for a second, then on.
    Stall,
    /// Half the words, then nothing any more. The caller hangs up in the end.
    Silent,
    /// The connection ends in the middle of a chunk, or before the length that was promised.
    Cut,
    /// The usage was told; then the connection ends.
    CutAfterUsage,
    NoUsage,
    /// More than was set aside.
    Excess,
    /// An answer to a question that nobody asked, after the end.
    Garbage,
    /// The body is longer than its length says.
    LengthShort,
    /// 500, whatever is tried.
    Fails,
    /// 500, then well.
    FailsOnce,
    /// 429 with a time to come back.
    Busy,
    /// 400.
    Refuses,
    /// Reads the request and hangs up.
    Closes,
    /// As many megabytes as there should be words, and not one end of a line.
    Endless,
    /// The size of a chunk is no number.
    WrongChunk,
}

impl Plan {
    pub(crate) const ALL: [Self; 17] = [
        Self::Good,
        Self::Slow,
        Self::Stall,
        Self::Silent,
        Self::Cut,
        Self::CutAfterUsage,
        Self::NoUsage,
        Self::Excess,
        Self::Garbage,
        Self::LengthShort,
        Self::Fails,
        Self::FailsOnce,
        Self::Busy,
        Self::Refuses,
        Self::Closes,
        Self::Endless,
        Self::WrongChunk,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.name() == name)
    }

    /// No answer comes of it, so nothing may be charged.
    pub(crate) const fn is_refusal(self) -> bool {
        matches!(self, Self::Fails | Self::Busy | Self::Refuses | Self::Closes)
    }

    /// Why the row isn't the provider's own figure; `None`: it is.
    pub(crate) const fn estimate(self) -> Option<&'static str> {
        match self {
            Self::Silent => Some("hung_up"),
            Self::Cut => Some("provider_cut"),
            Self::NoUsage | Self::LengthShort => Some("not_reported"),
            _ => None,
        }
    }
}

/// What the caller's words say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// The call's own number.
    pub(crate) marker: u64,
    pub(crate) plan: Plan,
    /// Of the answer; each is a token and a piece.
    pub(crate) words: u64,
}

impl Wish {
    /// Long enough that no honest count of its tokens is above its bytes.
    pub(crate) fn text(self) -> String {
        format!("storm {} {} {} {}", self.marker, self.plan.name(), self.words, ".".repeat(120))
    }

    /// The wish in a request's body.
    pub(crate) fn read(body: &str) -> Option<Self> {
        let mut words = body[body.find("storm ")?..].split(' ').skip(1);
        let marker = words.next()?.parse().ok()?;
        Some(Self { marker, plan: Plan::named(words.next()?)?, words: words.next()?.parse().ok()? })
    }

    /// What the provider counts for it.
    pub(crate) fn count(self, surface: Surface) -> Count {
        let marker = i64::try_from(self.marker).expect("a number of a call");
        let words = i64::try_from(self.words).expect("a few words");
        let input = 20 + marker % 100;
        match surface {
            Surface::Embeddings => Count { input, ..Count::default() },
            _ if self.plan == Plan::Excess => Count { input, output: EXCESS_TOKENS, ..Count::default() },
            Surface::Messages => {
                Count { input, output: words, cache_read: marker % 7, cache_write: marker % 3, reasoning: 0 }
            }
            Surface::Chat | Surface::Responses => {
                let reasoning = marker % 5;
                Count { input, output: words + reasoning, cache_read: marker % 7, cache_write: 0, reasoning }
            }
        }
    }
}

/// Tokens as the books name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) input: i64,
    pub(crate) output: i64,
    pub(crate) cache_read: i64,
    pub(crate) cache_write: i64,
    pub(crate) reasoning: i64,
}

impl Count {
    /// As the provider of this surface words it.
    pub(crate) fn report(self, surface: Surface) -> Value {
        let Self { input, output, cache_read, cache_write, reasoning } = self;
        match surface {
            Surface::Chat => json!({ "prompt_tokens": input, "completion_tokens": output,
                "prompt_tokens_details": { "cached_tokens": cache_read },
                "completion_tokens_details": { "reasoning_tokens": reasoning } }),
            Surface::Responses => json!({ "input_tokens": input, "output_tokens": output,
                "input_tokens_details": { "cached_tokens": cache_read },
                "output_tokens_details": { "reasoning_tokens": reasoning } }),
            Surface::Messages => json!({ "input_tokens": input - cache_read - cache_write, "output_tokens": output,
                "cache_read_input_tokens": cache_read, "cache_creation_input_tokens": cache_write }),
            Surface::Embeddings => json!({ "prompt_tokens": input, "total_tokens": input }),
        }
    }

    /// Nano-dollars at these prices, 20 % on top, rounded down once.
    pub(crate) fn charge(self, model: &Model) -> i64 {
        let parts = [
            (self.input - self.cache_read - self.cache_write, model.input),
            (self.cache_read, model.cache_read),
            (self.cache_write, model.cache_write),
            (self.output - self.reasoning, model.output),
            (self.reasoning, model.reasoning),
        ];
        let sum: i128 = parts.into_iter().map(|(tokens, price)| i128::from(tokens) * i128::from(price)).sum();
        i64::try_from(sum * 12 / 10_000_000).expect("a small sum")
    }
}

/// A model of the storm: nano-dollars per million tokens.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) id: &'static str,
    input: i64,
    output: i64,
    cache_read: i64,
    cache_write: i64,
    reasoning: i64,
}

/// No round figures, so that every rounding shows.
const fn spoken(id: &'static str) -> Model {
    let (input, output, cache_read) = (2_000_000_001, 8_000_000_003, 500_000_007);
    Model { id, input, output, cache_read, cache_write: input, reasoning: 4_000_000_009 }
}

pub(crate) const HONEST: Model = spoken("up/words");
pub(crate) const FLAKY: Model = spoken("flaky/words");
pub(crate) const AWAY: Model = spoken("away/words");
pub(crate) const CLAUDE: Model = Model {
    id: "claude/words",
    input: 3_000_000_001,
    output: 15_000_000_001,
    cache_read: 300_000_001,
    cache_write: 3_750_000_001,
    reasoning: 15_000_000_001,
};
pub(crate) const EMBED: Model = Model {
    id: "up/embed",
    input: 130_000_001,
    output: 0,
    cache_read: 130_000_001,
    cache_write: 130_000_001,
    reasoning: 0,
};

impl Model {
    /// Its table in `molt.toml`, below its provider's.
    pub(crate) fn settings(&self) -> String {
        let (provider, name) = self.id.split_once('/').expect("provider/model");
        let usd = |nanos: i64| format!("\"{}.{:09}\"", nanos / 1_000_000_000, nanos % 1_000_000_000);
        format!(
            "[[providers.{provider}.models]]\nname = \"{name}\"\ninput_usd = {}\noutput_usd = {}\ncache_read_usd = {}\n\
             cache_write_usd = {}\nreasoning_usd = {}\ncontext_window = 128000\noutput_max = 8192\nembedding = {}\n",
            usd(self.input),
            usd(self.output),
            usd(self.cache_read),
            usd(self.cache_write),
            usd(self.reasoning),
            self.output == 0,
        )
    }
}
