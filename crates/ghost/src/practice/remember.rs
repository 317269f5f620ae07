//! Finds what a person wants to be remembered, however they put it.
//! Never: a question taken for a request to remember.

use super::understand::{asks, lead};
use super::words::{Clause, Span, unquoted};

/// What is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Memo {
    Fact(String),
    /// "Keep that in mind": what was said just before.
    WhatWasSaid,
}

/// Phrases that ask for it wherever they stand. What is meant comes after them, or before.
const CUES: &[&str] = &[
    "keep|make a? record of",
    "hold|hang on|onto to? this|that|it|these?",
    "store|save|keep|log|record|note the? following|this|info|information|detail|details|fact",
    "not|never you? ever? let|allow? me|us? to? ever? forget about?",
    "not let this|that|it slip",
    "keep|bear|have|hold this|that|it? in mind",
    "keep track of",
    "make|take|keep|leave|write|add|put me? a|another? quick|mental|little? note of|about|to|that|for?",
    "take|make notes? of|that|down",
    "for future|later reference",
    "for the record",
    "for your information|records|memory|notes",
    "fyi",
    "just? so you know|remember",
    "you should|must|ought|need to? know|remember",
    "i want|need you to know|remember",
    "let it be known",
    "be aware of?",
    "take into account",
    "make sure to|you remember|know|memorize|memorise",
    "store|save|keep|log|record|memorize|memorise|file|commit|put|write|add|note this|that|it|the? fact|following? in|into|to|for|under your|the? long-term|longterm? memory|memories|notes|brain|mind|later",
    "commit to memory",
    "learn by heart",
    "remind yourself",
    "jot|write|note|scribble this|that|it? down",
    "memorize|memorise",
    "remember",
    "remind me to|that",
];
/// Phrases that ask for it only where the request begins.
const OPENINGS: &str = "note|learn|log|record that|this|down|the|my|our|following?";
/// What stands in for the thing itself: "add a reminder to your notes that …".
const STAND_INS: &[&str] =
    &["reminder", "note", "entry", "line", "memo", "item", "information", "info", "detail", "fact"];
/// "put my door code into your memory": what is meant stands between the verb and these.
const PLACES: [&str; 3] =
    ["in|into|to|onto your|the|my? long-term? memory|memories|brain", "in|into|to|onto your notes", "in mind"];
const PLACE_VERBS: &str =
    "put|store|save|keep|add|write|log|record|commit|note|bear|have|hold|file|stick|enter|memorize|memorise|remember";
/// Words at the edge of what is meant that aren't part of it.
const EDGE_WORDS: [&str; 30] = [
    "that",
    "this",
    "it",
    "please",
    "for",
    "me",
    "later",
    "now",
    "too",
    "also",
    "and",
    "so",
    "ok",
    "okay",
    "can",
    "could",
    "you",
    "would",
    "will",
    "thanks",
    "just",
    "something",
    "to",
    "the",
    "fact",
    "following",
    "of",
    "then",
    "always",
    "down",
];

/// `None`: nothing is to be remembered.
pub(super) fn memo(clause: &Clause<'_>) -> Option<Memo> {
    if asks_what_is_remembered(clause) {
        return None;
    }
    if let Some(fact) = between(clause) {
        return Some(fact);
    }
    let opening =
        || clause.fits_at(lead(clause), OPENINGS).filter(|span| opens_a_note(clause, *span)).map(|span| ("", span));
    let (cue, phrase) =
        CUES.iter().find_map(|cue| Some((*cue, clause.find(cue)?))).or_else(opening).or_else(|| at_the_end(clause))?;
    let weak = cue == "remember" || cue.starts_with("memorize");
    if weak && !is_request(clause, phrase) {
        return None;
    }
    let after = meant(clause.after(phrase));
    let before = meant(clause.before(phrase));
    // "We have a rabbit called Flopsy, remember her name": who she is stands before.
    let points_back =
        matches!(clause.word(phrase.to), "her" | "his" | "their" | "its" | "him" | "them") && !before.is_empty();
    if !after.is_empty() && !points_back {
        return Some(Memo::Fact(after));
    }
    Some(if before.is_empty() { Memo::WhatWasSaid } else { Memo::Fact(before) })
}

/// A lasting fact that somebody tells of themselves without asking for anything: "My favourite colour is green."
pub(super) fn told(clause: &Clause<'_>) -> Option<String> {
    if asks(clause) || clause.words.len() < 3 {
        return None;
    }
    let start = lead(clause);
    let lasting = [
        "i really|absolutely|also|do|just|always|never|only|usually|mostly? like|love|hate|enjoy|prefer|dislike|adore|live|work|own|play|speak|drive|collect|study|teach|eat|drink|grew|was|am|have",
        "my|our *",
    ];
    let phrase = lasting.iter().find_map(|pattern| clause.fits_at(start, pattern))?;
    let own = matches!(clause.word(phrase.from), "my" | "our");
    if own
        && !clause.words[phrase.from..].iter().any(|word| {
            matches!(
                word.lower.as_str(),
                "is" | "are" | "was" | "has" | "lives" | "works" | "likes" | "loves" | "hates"
            )
        })
    {
        return None;
    }
    let verb = clause.word(phrase.to - 1);
    let next = clause.word(phrase.to);
    let passing = match verb {
        "am" => !matches!(
            next,
            "allergic" | "a" | "an" | "from" | "called" | "vegetarian" | "vegan" | "married" | "left-handed" | "afraid"
        ),
        "was" => next != "born",
        "have" => {
            !matches!(next, "a" | "an" | "two" | "three" | "four" | "one" | "no")
                || clause.has("question|problem|idea|request|task")
        }
        "like" => next == "to" && clause.has("would"),
        _ => false,
    };
    let request = clause.has("would like") || clause.has("you");
    (!passing && !request).then(|| meant(clause.text))
}

/// "What do you remember about …", "do you remember …", "can you remember who …".
fn asks_what_is_remembered(clause: &Clause<'_>) -> bool {
    let patterns = [
        "do|did|does you|he|she|it still|also|even|happen? to? remember|recall|know|forget|note",
        "have|did you forget|forgotten|remembered|noted|memorized|written|saved|stored|kept|note|save|store|keep|write",
        "what|which|who|whom|where|when|how|why * * remember",
        "what|which|who|whom|where|when|how|why * * * remember|memorize|note",
        "remember|recall|know|remind|tell me? what|which|who|whom|whose|where|when|why|whether|if",
        "remember|recall how",
        "what|who|where|when|which is|are|was|were|did|do|does|have|has",
        "is there anything",
    ];
    let start = lead(clause);
    let asking = clause.is_question()
        || matches!(clause.word(start), "what" | "which" | "who" | "where" | "when" | "how" | "why" | "do" | "did");
    // "Remember what I told you: …" tells something; the colon gives it away.
    let tells = clause.text.contains(':') && !clause.is_question();
    let wh = matches!(clause.word(start), "what" | "which" | "who" | "whom" | "whose" | "where" | "when" | "why");
    let known = asking && patterns.iter().any(|pattern| clause.has(pattern));
    !tells && (wh || known || patterns[4..6].iter().any(|pattern| clause.fits_at(start, pattern).is_some()))
}

/// "remember" as a request, not as a report ("I remember the day …").
fn is_request(clause: &Clause<'_>, phrase: Span) -> bool {
    let before =
        (0..phrase.from).rev().map(|at| clause.word(at)).find(|word| !matches!(*word, "always" | "still" | "also"));
    let subject = before.unwrap_or("");
    !matches!(subject, "i" | "we" | "they" | "he" | "she" | "not" | "cannot" | "who")
        || clause.has("you always|still? remember")
}

/// "My mother's maiden name is Horvat - please store that."
fn at_the_end<'c>(clause: &Clause<'_>) -> Option<(&'c str, Span)> {
    let span = clause.find("store|save|keep|log|record|note|file this|that|it")?;
    meant(clause.after(span)).is_empty().then_some(("", span))
}

/// "note" begins a request; "log", "learn" and "record" do so only with what is meant right behind them.
fn opens_a_note(clause: &Clause<'_>, span: Span) -> bool {
    let colon = clause.after(span).trim_start().starts_with(':');
    clause.word(span.from) == "note" || span.to - span.from > 1 && (colon || clause.word(span.to - 1) == "that")
}

fn between(clause: &Clause<'_>) -> Option<Memo> {
    let place = PLACES.iter().find_map(|place| clause.find(place))?;
    let verb = (0..place.from).find_map(|at| clause.fits_at(at, PLACE_VERBS))?;
    let from = clause.words[verb.to - 1].end;
    let inside = meant(&clause.text[from..clause.words[place.from].start]);
    let stands_in = inside
        .split_whitespace()
        .all(|word| matches!(word, "a" | "an" | "the" | "another" | "new") || STAND_INS.contains(&word));
    if !stands_in {
        return Some(Memo::Fact(inside));
    }
    let after = meant(clause.after(place));
    let before = meant(clause.before(verb));
    Some(match (after.is_empty(), before.is_empty()) {
        (false, _) => Memo::Fact(after),
        (true, false) => Memo::Fact(before),
        (true, true) => Memo::WhatWasSaid,
    })
}

/// Without the small words and signs at its edges.
pub(super) fn meant(text: &str) -> String {
    let signs = |c: char| c.is_whitespace() || ",;:.!?—–-…".contains(c);
    let mut text = text.trim_matches(signs);
    // At the front only so far as a fact can't begin with it.
    loop {
        let first = text.split_whitespace().next().unwrap_or("");
        let word = first.trim_matches(signs).to_lowercase();
        let begins =
            matches!(word.as_str(), "this" | "it") && !first.ends_with([':', ',', '.']) && text.len() > first.len();
        if first.is_empty()
            || !EDGE_WORDS.contains(&word.as_str())
            || begins
            || (word == "the" && !starts_with_fact(text))
        {
            break;
        }
        if matches!(word.as_str(), "can" | "could" | "would" | "will" | "you" | "so" | "always") && !only_edges(text) {
            break;
        }
        text = text[first.len()..].trim_start_matches(signs);
    }
    loop {
        let last = text.split_whitespace().next_back().unwrap_or("");
        let word = last.trim_matches(signs).to_lowercase();
        let polite = matches!(word.as_str(), "please" | "thanks" | "ok" | "okay" | "and" | "so" | "for" | "you");
        let dangling =
            polite && (word != "for" && word != "you" || only_edges(last)) && (word != "you" || only_edges(text));
        if last.is_empty() || !dangling {
            break;
        }
        text = text[..text.len() - last.len()].trim_end_matches(signs);
    }
    if only_edges(text) { String::new() } else { unquoted(text).trim().to_owned() }
}

fn starts_with_fact(text: &str) -> bool {
    let lower = text.to_lowercase();
    lower.starts_with("the fact that ") || lower.starts_with("the following")
}

fn only_edges(text: &str) -> bool {
    let signs = |c: char| !c.is_alphanumeric();
    text.split(signs).all(|word| word.is_empty() || EDGE_WORDS.contains(&word.to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_remember() {
        for (text, fact) in [
            ("remember that I like trains", "I like trains"),
            ("Please keep in mind my sister's birthday is 4 May", "my sister's birthday is 4 May"),
            ("don't forget: the wifi password is on the fridge", "the wifi password is on the fridge"),
            ("Could you memorise the gate code 4711?", "the gate code 4711"),
            ("Make a note that Bob owes me ten euros.", "Bob owes me ten euros"),
            ("My passport expires in June, please remember that.", "My passport expires in June"),
            ("Put my shoe size, 43, into your memory", "my shoe size, 43"),
            ("For future reference: I'm allergic to peanuts", "I'm allergic to peanuts"),
            ("never forget that tea is better than coffee", "tea is better than coffee"),
            ("Would you please remember the fact that my car is red", "my car is red"),
            ("FYI the plumber comes on Tuesday", "the plumber comes on Tuesday"),
            ("Jot down that the meeting moved to noon", "the meeting moved to noon"),
            ("remember: this tree is old", "this tree is old"),
            ("Keep my fear of spiders in mind", "my fear of spiders"),
            ("You should know that I get up at five", "I get up at five"),
            ("Save this to your memory: my locker is number 12", "my locker is number 12"),
            ("Remember to buy milk", "buy milk"),
            ("My mother's maiden name is Horvat - please store that.", "My mother's maiden name is Horvat"),
            ("We have a rabbit called Flopsy, please remember her name", "We have a rabbit called Flopsy"),
            ("Let's note that the printer is upstairs", "the printer is upstairs"),
            ("Add a reminder to your notes that the bins go out on Wednesday", "the bins go out on Wednesday"),
            ("Would you be able to store the following for me: bike lock 3391", "bike lock 3391"),
        ] {
            assert_eq!(memo(&Clause::new(text)), Some(Memo::Fact(fact.to_owned())), "{text}");
        }
        for text in ["Keep that in mind.", "please remember this", "don't forget it!", "Make a note of that, please"] {
            assert_eq!(memo(&Clause::new(text)), Some(Memo::WhatWasSaid), "{text}");
        }
    }

    #[test]
    fn questions_and_reports_are_none() {
        for text in [
            "do you remember my sister's name?",
            "What do you remember about me?",
            "can you remember who my boss is?",
            "I remember the old days",
            "Remember when we met?",
            "who should remember this?",
            "Did you note my address?",
        ] {
            assert_eq!(memo(&Clause::new(text)), None, "{text}");
        }
    }

    #[test]
    fn facts_that_people_tell_of_themselves() {
        for (text, fact) in [
            ("My favourite colour is green.", Some("My favourite colour is green")),
            ("I'm allergic to nuts", Some("I'm allergic to nuts")),
            ("I love old steam engines", Some("I love old steam engines")),
            ("I'd like a coffee", None),
            ("I am tired", None),
            ("My goodness!", None),
            ("I like you", None),
            ("What is my name", None),
        ] {
            assert_eq!(told(&Clause::new(text)).as_deref(), fact, "{text}");
        }
    }
}
