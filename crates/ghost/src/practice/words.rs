//! Words: where they are in a text, which belong together, and a small pattern language to find phrases.
//! Never: knowledge of what a phrase means to the user; that is `understand`.

/// A word with its place in the text. Contractions are spelled out: "don't" is two words at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) lower: String,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A text and its words.
#[derive(Clone, Debug)]
pub(super) struct Clause<'a> {
    pub(super) text: &'a str,
    pub(super) words: Vec<Word>,
}

/// A phrase that was found: the first word and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: usize,
    pub(super) to: usize,
}

const CONTRACTIONS: [(&str, &str); 12] = [
    ("can't", "can not"),
    ("won't", "will not"),
    ("shan't", "shall not"),
    ("let's", "let us"),
    ("i'm", "i am"),
    ("n't", "not"),
    ("'re", "are"),
    ("'ve", "have"),
    ("'ll", "will"),
    ("'d", "would"),
    ("dont", "do not"),
    ("whats", "what is"),
];
/// Words whose "'s" stands for "is"; behind other words it is a possessive.
const IS_BEARERS: [&str; 12] =
    ["what", "where", "who", "when", "how", "which", "that", "it", "there", "here", "he", "she"];

impl<'a> Clause<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        let mut start = None;
        for (at, letter) in text.char_indices().chain([(text.len(), ' ')]) {
            let inside = letter.is_alphanumeric() || "'’_-./~@+%#:\\".contains(letter);
            match (inside, start) {
                (true, None) => start = Some(at),
                (false, Some(from)) => {
                    push_word(&mut words, text, from, at);
                    start = None;
                }
                _ => {}
            }
        }
        Self { text, words }
    }

    /// The first place where the pattern fits. Words are separated by spaces; `a|b` is either, `a?` may be missing,
    /// `*` is any one word.
    pub(super) fn find(&self, pattern: &str) -> Option<Span> {
        let pattern: Vec<&str> = pattern.split(' ').collect();
        (0..self.words.len())
            .find_map(|from| fit(&self.words[from..], &pattern).map(|len| Span { from, to: from + len }))
    }

    /// Whether the pattern fits at this very word.
    pub(super) fn fits_at(&self, from: usize, pattern: &str) -> Option<Span> {
        let pattern: Vec<&str> = pattern.split(' ').collect();
        let len = fit(self.words.get(from..)?, &pattern)?;
        Some(Span { from, to: from + len })
    }

    pub(super) fn has(&self, pattern: &str) -> bool {
        self.find(pattern).is_some()
    }

    pub(super) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |word| &word.lower)
    }

    /// The text from the end of the phrase.
    pub(super) fn after(&self, span: Span) -> &'a str {
        let at = span.to.checked_sub(1).and_then(|last| self.words.get(last)).map_or(0, |word| word.end);
        &self.text[at..]
    }

    /// The text up to the phrase.
    pub(super) fn before(&self, span: Span) -> &'a str {
        let at = self.words.get(span.from).map_or(self.text.len(), |word| word.start);
        &self.text[..at]
    }

    pub(super) fn is_question(&self) -> bool {
        self.text.trim_end().ends_with('?')
    }

    /// It asks about the speaker or what belongs to them.
    pub(super) fn is_first_person(&self) -> bool {
        self.has("i|me|my|mine|our|ours|we|us|myself")
    }
}

fn push_word(words: &mut Vec<Word>, text: &str, from: usize, to: usize) {
    let raw = &text[from..to];
    let inner = raw.trim_start_matches(['\'', '’', '-', ':', '+', '%']);
    let start = from + raw.len() - inner.len();
    let inner = inner.trim_end_matches(['\'', '’', '-', '.', ':', '\\']);
    if inner.is_empty() {
        return;
    }
    let end = start + inner.len();
    let lower = inner.to_lowercase().replace('’', "'");
    // "Would you mind making", "how about making": a polite "make".
    let polite = words.last().is_some_and(|before| matches!(before.lower.as_str(), "mind" | "about" | "try"));
    let base = lower.strip_suffix("ing").filter(|head| polite && head.len() >= 2);
    let lower = base.map_or(lower.clone(), verb_of);
    for part in spelled_out(&lower).split(' ') {
        words.push(Word { lower: part.to_owned(), start, end });
    }
}

/// "mak" → "make", "runn" → "run", "keep" stays.
fn verb_of(head: &str) -> String {
    let letters: Vec<char> = head.chars().collect();
    let vowel = |at: usize| letters.get(at).is_some_and(|c| "aeiou".contains(*c));
    match letters.len() {
        count @ 3.. if letters[count - 1] == letters[count - 2] && !"ls".contains(letters[count - 1]) => {
            letters[..count - 1].iter().collect()
        }
        count @ 2..
            if !vowel(count - 1)
                && vowel(count - 2)
                && (count < 3 || !vowel(count - 3))
                && !head.ends_with(['w', 'y', 'x', 'd']) =>
        {
            format!("{head}e")
        }
        _ => head.to_owned(),
    }
}

fn spelled_out(word: &str) -> String {
    if let Some(head) = word.strip_suffix("'s")
        && IS_BEARERS.contains(&head)
    {
        return format!("{head} is");
    }
    for (short, long) in CONTRACTIONS {
        let head = if short.starts_with('\'') || short == "n't" { word.strip_suffix(short) } else { None };
        match head {
            Some(head) if !head.is_empty() => return format!("{head} {long}"),
            _ if word == short => return long.to_owned(),
            _ => {}
        }
    }
    word.to_owned()
}

fn fit(words: &[Word], pattern: &[&str]) -> Option<usize> {
    let Some((first, rest)) = pattern.split_first() else { return Some(0) };
    let (optional, choices) = first.strip_suffix('?').map_or((false, *first), |choices| (true, choices));
    if let Some(word) = words.first()
        && (choices == "*" || choices.split('|').any(|choice| choice == word.lower))
        && let Some(len) = fit(&words[1..], rest)
    {
        return Some(len + 1);
    }
    if optional { fit(words, rest) } else { None }
}

/// Words that carry no topic.
const STOP_WORDS: &str = "\
    a about again all also am an and any anything are as ask asked at be been before but by can could did do does \
    earlier ever exactly for from get give got had happen has have he her here him his how i if in into is it \
    its just kind know last let me mention mentioned mine more my note noted now of ok on or our please recall \
    recalled remember remembered remind said say she should show so some something sort still tell than that the their them then \
    there they thing this to told too type up us user was we were what when where whether which who whom whose \
    why will with would written you your yours";

/// Words that mean nearly the same are one feature. Only everyday notes; a practice model knows no more.
const CONCEPTS: [&[&str]; 26] = [
    &["like", "love", "enjoy", "prefer", "favourite", "favorite", "fond", "adore", "fan", "hobby", "interest"],
    &["dislike", "hate", "detest", "avoid"],
    &["sister", "brother", "sibling"],
    &["mother", "mum", "mom", "father", "dad", "parent"],
    &["wife", "husband", "partner", "spouse", "girlfriend", "boyfriend"],
    &["child", "kid", "son", "daughter", "children"],
    &["birthday", "born", "birth"],
    &["live", "home", "house", "address", "apartment", "flat", "reside"],
    &["job", "work", "profession", "career", "employer", "company", "office"],
    &["car", "vehicle", "drive", "automobile"],
    &["train", "railway", "railroad", "rail", "transport"],
    &["dog", "puppy", "cat", "kitten", "pet"],
    &["eat", "food", "meal", "dish", "dinner", "lunch", "breakfast", "cuisine"],
    &["drink", "beverage", "coffee", "tea"],
    &["allergic", "allergy", "intolerant", "intolerance"],
    &["password", "passcode", "passphrase", "pin", "code", "combination"],
    &["wifi", "wi-fi", "wlan", "internet", "network"],
    &["name", "called", "named"],
    &["phone", "telephone", "mobile", "number"],
    &["meeting", "appointment", "call", "meet"],
    &["flight", "fly", "plane", "airport"],
    &["doctor", "dentist", "physician"],
    &["colour", "color"],
    &["buy", "shop", "shopping", "purchase", "groceries"],
    &["deadline", "due"],
    &["hide", "hidden", "keep", "kept", "store", "stored", "put"],
];

/// The topics of a text, in order: stop words left out, endings cut, near-synonyms made one.
pub(super) fn topics(text: &str) -> Vec<String> {
    let plain = text.to_lowercase().replace('’', "'");
    let split = plain.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '-');
    split
        .map(|word| word.trim_matches(['\'', '-']).trim_end_matches("'s"))
        .filter(|word| !word.is_empty() && !STOP_WORDS.split(' ').any(|stop| stop == *word))
        .map(topic)
        .collect()
}

fn topic(word: &str) -> String {
    let base = stem(word);
    let same = |group: &&&[&str]| group.iter().any(|other| *other == word || stem(other) == base);
    CONCEPTS.iter().find(same).map_or(base, |group| group[0].to_owned())
}

/// Cuts the commonest English endings. "trains" and "training" are "train"; short words stay.
pub(super) fn stem(word: &str) -> String {
    let long_enough = |head: &str| head.chars().count() >= 3;
    let plural = [("ies", "y"), ("sses", "ss"), ("s", "")].iter().find_map(|(ending, instead)| {
        let head = word
            .strip_suffix(ending)
            .filter(|head| long_enough(head) && !(*ending == "s" && head.ends_with(['s', 'u'])))?;
        Some(format!("{head}{instead}"))
    });
    let word = plural.as_deref().unwrap_or(word);
    let head = ["ing", "edly", "ed", "ly"]
        .iter()
        .find_map(|ending| word.strip_suffix(ending).filter(|head| long_enough(head)));
    undouble(head.unwrap_or(word))
}

/// "running" → "runn" → "run", and a silent e at the end is cut, so that "liked", "likes" and "like" meet.
fn undouble(word: &str) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    if letters.len() > 3 && letters.last() == Some(&'e') {
        letters.pop();
    }
    let count = letters.len();
    if count > 3 && letters[count - 1] == letters[count - 2] && !"aeiousl".contains(letters[count - 1]) {
        letters.pop();
    }
    letters.into_iter().collect()
}

/// Takes one pair of quotes, backticks or brackets off, if the whole text stands in them.
pub(super) fn unquoted(text: &str) -> &str {
    let text = text.trim();
    for (open, close) in [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’'), ('«', '»'), ('„', '“')]
    {
        if let Some(inner) = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close))
            && !inner.contains(open)
            && !inner.contains(close)
        {
            return inner;
        }
    }
    text
}

/// Everything in quotes or backticks, in order.
pub(super) fn quotes(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((at, open)) = rest.char_indices().find(|(at, c)| opens(rest, *at, *c)) {
        let inner = &rest[at + open.len_utf8()..];
        let close = match open {
            '“' | '„' => '”',
            '«' => '»',
            other => other,
        };
        let Some(end) = inner.find(close).or_else(|| (open == '„').then(|| inner.find('“')).flatten()) else {
            break;
        };
        if end > 0 {
            found.push(&inner[..end]);
        }
        rest = &inner[end + inner[end..].chars().next().map_or(1, char::len_utf8)..];
    }
    found
}

/// An apostrophe inside a word opens nothing.
fn opens(text: &str, at: usize, letter: char) -> bool {
    match letter {
        '"' | '`' | '“' | '„' | '«' => true,
        '\'' => {
            let before = text[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric()) && text[at + 1..].contains('\'')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn phrases_are_found_however_they_are_spelled() {
        let clause = Clause::new("Please don’t ever forget: the Wi-Fi's in notes/a.md.");
        let words: Vec<_> = clause.words.iter().map(|word| word.lower.as_str()).collect();
        assert_eq!(words, ["please", "do", "not", "ever", "forget", "the", "wi-fi's", "in", "notes/a.md"]);
        let span = clause.find("not ever? forget").unwrap();
        assert_eq!(clause.after(span).trim(), ": the Wi-Fi's in notes/a.md.");
        assert_eq!(clause.before(span), "Please ");
        assert!(clause.has("forget|lose * wi-fi's") && !clause.has("forget wi-fi's"));
    }

    #[test]
    fn topics_meet_across_forms() {
        for (one, other) in [
            ("I like trains", "the train she liked"),
            ("my sister's birthday", "when were my siblings born"),
            ("running shoes", "he runs in a shoe"),
            ("wifi password", "the code for the Wi-Fi"),
        ] {
            let (one, other) = (topics(one), topics(other));
            assert!(one.iter().filter(|topic| other.contains(topic)).count() >= 2, "{one:?} {other:?}");
        }
        assert_eq!(topics("what did I tell you about it?"), Vec::<String>::new());
    }

    #[test]
    fn quotes_are_taken_off_and_found() {
        assert_eq!(unquoted(" “a b” "), "a b");
        assert_eq!(unquoted("\"a\" and \"b\""), "\"a\" and \"b\"");
        assert_eq!(quotes("run `ls -l` and 'don't' it's \"x y\""), ["ls -l", "don", "x y"]);
    }

    proptest! {
        #[test]
        fn any_text_has_words(text in "\\PC{0,80}") {
            let clause = Clause::new(&text);
            for word in &clause.words {
                prop_assert!(text.get(word.start..word.end).is_some());
            }
            let _ = (clause.find("a|b? * c"), topics(&text), quotes(&text), unquoted(&text));
        }
    }
}
