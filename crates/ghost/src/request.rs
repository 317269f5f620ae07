//! Reads of a request body only what the proxy needs, and changes only what must change; all other bytes stay as they are.
//! Never: a body parsed and written anew, which would reorder fields and respell numbers.

mod content;
mod fields;
mod price;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::answer::Refusal;
use crate::surface::Surface;
use content::Unfit;
use fields::{Fields, Name};

/// Longer names are no model's.
const MODEL_BYTES_MAX: usize = 200;
/// As OpenAI's own limit of answers to one request.
const CHOICES_MAX: i64 = 128;
/// Tokens that a provider adds to a request on its own: the frame of each message is smaller than its JSON, but tools
/// bring a hidden preamble (Anthropic names up to 346 tokens for it).
const HIDDEN_INPUT_TOKENS: i64 = 1_000;
/// Stream options that ask for the usage and for nothing else.
const USAGE_ASKED: &str = r#"{"include_usage":true}"#;

/// What was asked, and where in the body it stands.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// As the caller calls it: `provider/model`, or an alias.
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// The caller wants the usage in the stream, or it can't be taken out of it.
    pub(crate) usage_asked: bool,
    /// Tokens of one answer at most, by the caller's own wish.
    pub(crate) output_limit: Option<i64>,
    /// Answers to the one request.
    pub(crate) n: i64,
    /// There are pictures, sounds, files or what the provider remembers: the tokens aren't bounded by the bytes.
    pub(crate) remote_input: bool,
    model_at: Range<usize>,
    options: Edit,
    /// How an output limit gets in, where the caller set none.
    limit: Edit,
    limit_name: &'static str,
}

/// A change of the body that isn't made yet.
#[derive(Clone, Debug)]
enum Edit {
    None,
    /// Right after the opening brace.
    Insert(usize),
    Replace(Range<usize>, String),
}

impl Asked {
    /// The most input tokens that a provider can count: a token is at least a byte, unless there is more than text.
    pub(crate) fn input_tokens_max(&self, body_bytes: usize, context_window: u32) -> i64 {
        let window = i64::from(context_window);
        if self.remote_input {
            return window;
        }
        i64::try_from(body_bytes).unwrap_or(i64::MAX).saturating_add(HIDDEN_INPUT_TOKENS).min(window)
    }
}

/// Reads the envelope.
pub(crate) fn read(surface: Surface, body: &[u8]) -> Result<Asked, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Refusal::invalid("invalid_utf8", format!("The body isn't UTF-8: look at byte {}.", error.valid_up_to()))
    })?;
    let brace =
        opening_brace(body).ok_or_else(|| Refusal::invalid("invalid_json", "The body must be a JSON object."))?;
    let fields = Fields::read(text)?;
    let (model, model_at) = model(body, &fields)?;
    price::check(&fields, surface)?;
    let beyond_text = content::beyond_text(body).map_err(|unfit| match unfit {
        Unfit::TooDeep => Refusal::invalid("invalid_json", "The body is nested too deeply."),
        Unfit::Kept => Refusal::invalid(
            "kept_at_provider",
            "Files and items that are kept at the provider can't be used here; put what they hold into the request.",
        ),
    })?;
    let stream = surface.speaks() && fields.value(Name::Stream, "true or false")?.unwrap_or(false);
    let (usage_asked, options) = match surface {
        Surface::Chat if stream => with_usage(body, brace, fields.raw(Name::StreamOptions))?,
        _ => (true, Edit::None),
    };
    let (limit_name, output_limit, limit) = output_limit(surface, body, brace, &fields)?;
    Ok(Asked {
        model,
        stream,
        usage_asked,
        output_limit,
        n: if surface == Surface::Chat { choices(&fields)? } else { 1 },
        remote_input: beyond_text,
        model_at,
        options,
        limit,
        limit_name,
    })
}

/// The body as it goes out: the provider's own name for the model, the usage asked for, and, where the caller set no
/// limit, this one.
pub(crate) fn outgoing(body: &Bytes, asked: &Asked, model: &str, output_limit: i64) -> Bytes {
    let options = match &asked.options {
        Edit::None => None,
        Edit::Insert(at) => Some((*at..*at, Cow::Owned(format!("\"stream_options\":{USAGE_ASKED},")))),
        Edit::Replace(at, text) => Some((at.clone(), Cow::Borrowed(text.as_str()))),
    };
    let limit = match &asked.limit {
        Edit::None => None,
        Edit::Insert(at) => Some((*at..*at, Cow::Owned(format!("\"{}\":{output_limit},", asked.limit_name)))),
        Edit::Replace(at, _) => Some((at.clone(), Cow::Owned(output_limit.to_string()))),
    };
    let model = serde_json::to_string(model).expect("a text can be written");
    // Where two stand at one place, in this order.
    let mut edits = [Some((asked.model_at.clone(), Cow::Owned(model))), options, limit];
    edits.sort_by_key(|edit| edit.as_ref().map_or(usize::MAX, |(range, _)| range.start));
    let added: usize = edits.iter().flatten().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut from = 0;
    for (range, text) in edits.into_iter().flatten() {
        out.extend_from_slice(&body[from..range.start]);
        out.extend_from_slice(text.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(&body[from..]);
    out.into()
}

fn model(body: &[u8], fields: &Fields<'_>) -> Result<(String, Range<usize>), Refusal> {
    let raw = fields
        .raw(Name::Model)
        .ok_or_else(|| Refusal::invalid("model_missing", "Name a model: \"provider/model\"."))?;
    let model: String = serde_json::from_str(raw.get())
        .map_err(|_| Refusal::invalid("model_invalid", "The model must be a text, such as \"provider/model\"."))?;
    if model.len() > MODEL_BYTES_MAX {
        return Err(Refusal::invalid("model_invalid", "That is no model's name."));
    }
    Ok((model, place(body, raw)))
}

fn with_usage(body: &[u8], brace: usize, raw: Option<&RawValue>) -> Result<(bool, Edit), Refusal> {
    let Some(raw) = raw else { return Ok((false, Edit::Insert(brace))) };
    // As nearly everybody says it.
    if raw.get() == USAGE_ASKED {
        return Ok((true, Edit::None));
    }
    let wrong = || Refusal::invalid("stream_options_invalid", "stream_options must be an object.");
    let mut options = match serde_json::from_str(raw.get()).map_err(|_| wrong())? {
        Value::Object(map) => map,
        Value::Null => serde_json::Map::new(),
        _ => return Err(wrong()),
    };
    let asked = options.get("include_usage") == Some(&Value::Bool(true));
    // Written anew when another reader could find another answer in it.
    let plain = raw.get().matches("include_usage").count() == 1 && !raw.get().contains('\\');
    if asked && plain {
        return Ok((true, Edit::None));
    }
    options.insert("include_usage".to_owned(), Value::Bool(true));
    Ok((asked, Edit::Replace(place(body, raw), Value::Object(options).to_string())))
}

/// The field for it, the caller's own limit, and how one gets in if there is none.
fn output_limit(
    surface: Surface,
    body: &[u8],
    brace: usize,
    fields: &Fields<'_>,
) -> Result<(&'static str, Option<i64>, Edit), Refusal> {
    let names: &[Name] = match surface {
        Surface::Chat => &[Name::MaxCompletionTokens, Name::MaxTokens],
        Surface::Responses => &[Name::MaxOutputTokens],
        Surface::Messages => &[Name::MaxTokens],
        Surface::Embeddings | Surface::CountTokens => return Ok(("", None, Edit::None)),
    };
    let mut limit = None;
    for &name in names {
        let own: Option<i64> = fields.value(name, "a whole number")?;
        if own.is_some_and(|own| own < 0) {
            let message = format!("\"{}\" must not be negative.", name.text());
            return Err(Refusal::invalid("invalid_value", message));
        }
        // Of two, the provider may heed either.
        limit = limit.max(own);
    }
    let name = names[0];
    if limit.is_none() && surface == Surface::Messages {
        // As Anthropic says it; another provider might answer without an end.
        return Err(Refusal::invalid("max_tokens_missing", "max_tokens: Field required"));
    }
    let edit = match (limit, fields.raw(name)) {
        (Some(_), _) => Edit::None,
        (None, None) => Edit::Insert(brace),
        (None, Some(null)) => Edit::Replace(place(body, null), String::new()),
    };
    Ok((name.text(), limit, edit))
}

fn choices(fields: &Fields<'_>) -> Result<i64, Refusal> {
    let n = fields.value(Name::N, "a whole number")?.unwrap_or(1);
    if !(1..=CHOICES_MAX).contains(&n) {
        return Err(Refusal::invalid("invalid_value", format!("\"n\" must be from 1 to {CHOICES_MAX}.")));
    }
    Ok(n)
}

/// Where a borrowed value stands in the body that it was borrowed from.
fn place(body: &[u8], raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}

/// The place after the brace that opens the body; `None`: it isn't an object.
fn opening_brace(body: &[u8]) -> Option<usize> {
    let at = body.iter().position(|byte| !byte.is_ascii_whitespace())?;
    (body[at] == b'{').then_some(at + 1)
}

#[cfg(test)]
mod tests;
