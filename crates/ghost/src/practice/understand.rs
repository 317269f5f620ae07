//! From a person's words to what they want done, by general rules of English.
//! Never: a list of known sentences, or a guess that would change something nobody asked to change.

use super::remember::{Memo, meant, memo, told};
use super::talk::{Talk, sum, talk};
use super::words::{Clause, Span, quotes};
use super::{files, machine};

/// One thing that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    Remember(String),
    /// A question whose answer may be in memory.
    Recall(String),
    Write {
        path: String,
        content: String,
    },
    Append {
        path: String,
        lines: String,
    },
    Read {
        path: String,
    },
    Edit {
        path: String,
        old: String,
        new: String,
    },
    List {
        path: Option<String>,
    },
    Count {
        path: Option<String>,
    },
    Run {
        command: String,
    },
    Fetch {
        url: String,
    },
    SearchWeb {
        query: String,
    },
    Say(String),
    Sum {
        sum: String,
        result: f64,
    },
    Story {
        topic: String,
        words: usize,
    },
    Talk(Talk),
    Unknown(String),
}

/// Everything that was asked for, in order, and whether the person wants to see the thinking.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Understood {
    pub(super) wishes: Vec<Wish>,
    pub(super) aloud: bool,
}

/// Wishes of one message. More would be a script.
const WISHES_MAX: usize = 6;
const STORY_WORDS: usize = 120;
const LONG_STORY_WORDS: usize = 400;
const STORY_WORDS_MAX: usize = 2_000;
const ALOUD: [&str; 6] = [
    "think|reason aloud|loud|out loud?",
    "thinking aloud|out loud?",
    "show|share|explain|tell me|us? your|the thinking|reasoning|thoughts",
    "think|reason? step by step",
    "with your? thinking|reasoning shown|visible|on",
    "walk me through your|the thinking|reasoning",
];

pub(super) fn understand(text: &str) -> Understood {
    let (text, aloud) = without_aloud(text);
    let mut wishes: Vec<Wish> = Vec::new();
    let mut before = String::new();
    let mut path = None;
    for part in parts(&text) {
        let clause = Clause::new(part);
        let mut wish = wish(&clause, path.as_deref());
        path = files::path_in(&clause).or(path);
        match (&mut wish, wishes.last_mut()) {
            (Wish::Remember(fact), last) if fact.is_empty() => {
                *fact = meant(&before);
                if matches!(last, Some(Wish::Unknown(_) | Wish::Remember(_) | Wish::Recall(_))) {
                    wishes.pop();
                }
            }
            // "Remember this. My locker is number 12.": what follows is meant.
            (Wish::Unknown(more) | Wish::Remember(more), Some(Wish::Remember(fact))) if !asks(&clause) => {
                let glue = if fact.is_empty() { "" } else { ". " };
                *fact = format!("{fact}{glue}{}", more.trim_end_matches('.'));
                continue;
            }
            (_, Some(Wish::Write { content, .. })) if content.is_empty() && files::continued(&clause).is_some() => {
                *content = files::continued(&clause).unwrap_or_default();
                continue;
            }
            (Wish::Unknown(more), Some(Wish::Write { content, .. } | Wish::Append { lines: content, .. }))
                if !content.is_empty() =>
            {
                *content = format!("{content}. {more}");
                continue;
            }
            _ => {}
        }
        part.trim().clone_into(&mut before);
        wishes.push(wish);
    }
    wishes.retain(|wish| *wish != Wish::Remember(String::new()));
    // Small talk around a wish needs no answer of its own.
    let works = wishes.iter().any(|wish| !matches!(wish, Wish::Talk(_) | Wish::Unknown(_)));
    if works {
        wishes.retain(|wish| !matches!(wish, Wish::Talk(_) | Wish::Unknown(_)));
    }
    // Whoever is not understood at all hears so once, not sentence by sentence.
    if wishes.iter().all(|wish| matches!(wish, Wish::Unknown(_))) {
        wishes = vec![Wish::Unknown(text.trim().to_owned())];
    }
    wishes.truncate(WISHES_MAX);
    Understood { wishes, aloud }
}

fn wish(clause: &Clause<'_>, last_path: Option<&str>) -> Wish {
    let strong_memo = memo(clause).filter(|_| !names_a_file_to_write(clause));
    if let Some(memo) = strong_memo {
        return match memo {
            Memo::Fact(fact) => Wish::Remember(fact),
            Memo::WhatWasSaid => Wish::Remember(String::new()),
        };
    }
    let found = machine::command(clause)
        .or_else(|| address(clause))
        .or_else(|| files::wish(clause))
        .or_else(|| again(clause, last_path))
        .or_else(|| sum(clause).map(|(sum, result)| Wish::Sum { sum, result }))
        .or_else(|| machine::folder(clause))
        .or_else(|| machine::question(clause))
        .or_else(|| web(clause))
        .or_else(|| repeat(clause))
        .or_else(|| story(clause))
        .or_else(|| talk(clause).map(Wish::Talk))
        .or_else(|| asks(clause).then(|| Wish::Recall(clause.text.trim().to_owned())))
        .or_else(|| told(clause).map(Wish::Remember));
    found.unwrap_or_else(|| Wish::Unknown(clause.text.trim().to_owned()))
}

/// "Jot down … in ideas.md" goes into that file, not into memory.
fn names_a_file_to_write(clause: &Clause<'_>) -> bool {
    let memory_file = |path: &str| path.to_lowercase().contains("memory");
    clause.fits_at(lead(clause), "write|jot|note|save|store|add|put|log|record|make|create|append|keep|take").is_some()
        && files::path_in(clause).is_some_and(|path| !memory_file(&path))
}

/// Whether something is asked, with or without a question mark.
pub(super) fn asks(clause: &Clause<'_>) -> bool {
    let start = lead(clause);
    let opens = [
        "what|who|whom|whose|where|when|which|why|how",
        "do|does|did|is|are|was|were|have|has|had|am|will|should i|we|you|my|our|the|there|it|he|she|they|a|an|any|this|that",
        "tell|remind me|us again? what|who|where|when|which|how|about|my|our|of|if|whether|the|everything|anything|something|why",
        "recall what|who|where|when|which|how|my|our|the|if|everything",
        "list|show|give|name me? all|everything|what|my|the? *? *? i|you|we|my",
        "i would like to know",
        "i want|need to know",
        "any idea|clue",
        "look up|for? my|the|what",
        "find out what|who|where|when|my|the",
    ];
    clause.is_question() || opens.iter().any(|pattern| clause.fits_at(start, pattern).is_some())
}

/// The first word that isn't politeness: "Hi Pip, could you please …".
pub(super) fn lead(clause: &Clause<'_>) -> usize {
    const POLITE: [&str; 20] = [
        "please|kindly|now|so|ok|okay|hey|hi|hello|well|also|then|and|just|maybe|perhaps|quickly|alright|great|oh|yes|sure|first|next|finally|actually|btw|but|thanks|great|dear|good|fine|right|always|again",
        "can|could|would|will|might you please|kindly|just|maybe|also|quickly?",
        "would|do you mind",
        "i would really|also? like|love|appreciate you to?",
        "i would really|also? like|love|appreciate it|if? if? you would|could?",
        "i want|need|wish|ask you to",
        "i want|need|wish to",
        "you should|must|could|can|may",
        "help me to?",
        "go ahead and",
        "let us",
        "do me a favor|favour and|:?",
        "be so kind|good and|as|to? to?",
        "try to?",
        "is it possible to",
        "are you able to",
        "any chance you|of could?",
        "feel free to",
        "it would be great|nice|good if you could|would?",
        "your task is to",
    ];
    let mut at = 0;
    while let Some(span) =
        POLITE.iter().find_map(|pattern| clause.fits_at(at, pattern)).filter(|span| span.to < clause.words.len())
    {
        at = span.to;
    }
    // "Pip, …"
    let named = clause.words.get(at).is_some_and(|word| {
        clause.text[word.end..].starts_with(',') && clause.text[word.start..].starts_with(char::is_uppercase)
    });
    let question = matches!(clause.word(at), "what" | "who" | "where" | "when" | "which" | "how");
    if named && !question && at + 1 < clause.words.len() && at < 3 { lead_after(clause, at + 1) } else { at }
}

fn lead_after(clause: &Clause<'_>, at: usize) -> usize {
    let rest = Clause { text: clause.text, words: clause.words[at..].to_vec() };
    at + lead(&rest)
}

/// A web address in the text.
fn address(clause: &Clause<'_>) -> Option<Wish> {
    let text = clause.text;
    let at = text.find("https://").or_else(|| text.find("http://")).or_else(|| text.find("www."))?;
    let url: String = text[at..].chars().take_while(|c| !c.is_whitespace() && !"\"'`<>“”)]".contains(*c)).collect();
    let url = url.trim_end_matches(['.', ',', '!', '?', ';', ':']);
    let url = if url.starts_with("www.") { format!("https://{url}") } else { url.to_owned() };
    Some(Wish::Fetch { url })
}

/// "and read it back": the file that was just named.
fn again(clause: &Clause<'_>, path: Option<&str>) -> Option<Wish> {
    let path = path?.to_owned();
    if let Some(wish) = files::into_it(clause, &path) {
        return Some(wish);
    }
    let points = clause.has("it|its|file|them|that|back|again|contents|content");
    let reads = clause
        .fits_at(lead(clause), "read|show|print|display|open|cat|check|verify|view|tell|what|give|look|confirm")
        .is_some();
    (points && reads).then_some(Wish::Read { path })
}

fn web(clause: &Clause<'_>) -> Option<Wish> {
    let patterns = [
        "google|duckduckgo|bing for?",
        "search|look|browse|check|find the|on|in? web|internet|online|net for|about?",
        "search|look for|up",
        "look up",
    ];
    let start = lead(clause);
    let online = clause.has("web|internet|online|google|net");
    let news =
        clause.has("weather|forecast|news|headlines|stock|exchange") && asks(clause) && !clause.is_first_person();
    let verb = patterns.iter().find_map(|pattern| clause.fits_at(start, pattern)).filter(|_| online);
    let text = match verb {
        Some(span) => clause.after(span),
        None if news => clause.text,
        None => return None,
    };
    let plain = Clause::new(text);
    let tail =
        plain.find("on|in|from|using the|my? web|internet|online|google").map_or(text, |span| plain.before(span));
    let query = tail.trim_matches(|c: char| c.is_whitespace() || "?.!,:\"".contains(c));
    (!query.is_empty()).then(|| Wish::SearchWeb { query: query.to_owned() })
}

fn repeat(clause: &Clause<'_>) -> Option<Wish> {
    let start = lead(clause);
    let verb = clause.fits_at(start, "repeat|echo after|back? me|this|exactly|to? :?").or_else(|| {
        clause.fits_at(start, "say|answer|reply|respond only|just|exactly|with|the? with|word|words|only|exactly?")
    })?;
    let text = clause.after(verb).trim().trim_start_matches([':', ',', ' ']);
    let text = quotes(text).first().copied().unwrap_or(text).trim();
    (!text.is_empty() && text.len() <= 2_000).then(|| Wish::Say(text.to_owned()))
}

fn story(clause: &Clause<'_>) -> Option<Wish> {
    let start = lead(clause);
    let verb = clause.fits_at(start, "tell|write|compose|give|make|create|generate|draft|invent me|us?")?;
    let kind = clause.find("story|tale|poem|essay|text|article|paragraph|paragraphs|haiku|words|letter|song|report")?;
    if kind.from < verb.to {
        return None;
    }
    let about = clause.find("about|on|of|regarding|concerning");
    let topic = about.filter(|span| span.from > kind.from).map_or("this day", |span| clause.after(span));
    let topic = topic.trim().trim_end_matches(['.', '!', '?']).to_owned();
    let number =
        clause.words.iter().filter(|_| clause.has("words|word")).find_map(|word| word.lower.parse::<usize>().ok());
    let usual = if clause.has("long|longer|detailed|lengthy") { LONG_STORY_WORDS } else { STORY_WORDS };
    let topic = if topic.is_empty() { "this day".to_owned() } else { topic };
    Some(Wish::Story { topic, words: number.unwrap_or(usual).min(STORY_WORDS_MAX) })
}

/// Takes "think aloud and" out, as it is about the manner and not the matter.
fn without_aloud(text: &str) -> (String, bool) {
    let clause = Clause::new(text);
    let Some(span) = ALOUD.iter().find_map(|pattern| clause.find(pattern)) else { return (text.to_owned(), false) };
    let mut to = span;
    if let Some(glue) = clause.fits_at(span.to, "and|then|while|as|,?") {
        to = Span { from: span.from, to: glue.to };
    }
    let before = clause.before(span).trim_end_matches([' ', ',', ':']);
    let after = clause.after(to).trim_start_matches([' ', ',', ':', '.', '!']);
    (format!("{before} {after}").trim().to_owned(), true)
}

/// Sentences, and parts of sentences that say what comes next. What stands in quotes or fences stays whole.
fn parts(text: &str) -> Vec<&str> {
    if text.contains("```") || text.trim_start().starts_with("$ ") {
        return vec![text];
    }
    let mut cuts = Vec::new();
    let held = held(text);
    let free = |at: usize| !held.iter().any(|(from, to)| (*from..*to).contains(&at));
    let bytes = text.as_bytes();
    for (at, byte) in text.bytes().enumerate() {
        let ends = matches!(byte, b'.' | b'!' | b'?') && bytes.get(at + 1).is_some_and(u8::is_ascii_whitespace)
            || byte == b'\n' && text[..at].trim_end().ends_with(['.', '!', '?'])
            || byte == b';' && bytes.get(at + 1) == Some(&b' ') && !text.contains('`');
        if ends && free(at) && !abbreviation(&text[..at]) {
            cuts.push(at + 1);
        }
    }
    let clause = Clause::new(text);
    for at in 1..clause.words.len() {
        let next = "read|show|print|display|list|run|execute|tell|open|cat|check|remember|create|write|append|add|count|delete|verify|give|confirm|fetch|replace|change";
        let joint = clause
            .fits_at(at, "and? then afterwards?")
            .or_else(|| clause.fits_at(at, "and|after|afterwards that|this|afterwards?"));
        let Some(joint) = joint else { continue };
        // "and then" was cut before its "and".
        if clause.word(at) == "then" && clause.word(at - 1) == "and" {
            continue;
        }
        let then = clause.word(joint.to - 1) == "then";
        let follows = clause.fits_at(joint.to, next).is_some();
        let back = clause.words[joint.to..].iter().take(8).any(|word| {
            matches!(word.lower.as_str(), "it" | "back" | "file" | "content" | "contents" | "files")
                || word.lower.contains('.')
        });
        let commands = machine::command(&Clause::new(&text[..clause.words[at].start])).is_some();
        if free(clause.words[at].start) && follows && (then || back) && !commands {
            cuts.push(clause.words[at].start);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut from = 0;
    let mut parts = Vec::new();
    for cut in cuts.into_iter().chain([text.len()]) {
        let part = text[from..cut].trim();
        if part.chars().any(char::is_alphanumeric) {
            parts.push(part);
        }
        from = cut;
    }
    parts
}

fn held(text: &str) -> Vec<(usize, usize)> {
    let place = |quote: &str| {
        let from = quote.as_ptr() as usize - text.as_ptr() as usize;
        (from, from + quote.len())
    };
    quotes(text).into_iter().map(place).collect()
}

fn abbreviation(before: &str) -> bool {
    let last = before.rsplit(char::is_whitespace).next().unwrap_or("").to_lowercase();
    matches!(last.as_str(), "e.g" | "i.e" | "mr" | "mrs" | "ms" | "dr" | "st" | "no" | "etc" | "vs")
        || last.chars().count() == 1 && last.chars().all(char::is_alphabetic)
}
