//! Finds what a person wants done with files: which file, what goes in, what changes.
//! Never: a file name made up where none was said.

use super::understand::{Wish, lead};
use super::words::{Clause, Span, quotes, unquoted};

/// Names without an ending that everybody knows as files.
const KNOWN_NAMES: [&str; 8] = ["makefile", "dockerfile", "readme", "license", "changelog", "todo", "notes", "gemfile"];
/// Endings that make one letter before the dot a file name, and not an abbreviation.
const KNOWN_ENDINGS: [&str; 28] = [
    "txt", "md", "json", "csv", "yaml", "yml", "toml", "html", "css", "js", "ts", "py", "rs", "sh", "log", "xml",
    "ini", "conf", "cfg", "sql", "c", "h", "go", "java", "rb", "tex", "env", "list",
];
const WRITE: &str = "write|create|make|save|store|generate|produce|draft|compose|start|set|output|record|dump|export|need|want|prepare|new|touch";
const APPEND: &str = "put|add|append|insert|include|stick|drop|attach|log|jot|note";
const EDIT: &str = "replace|change|swap|substitute|correct|update|edit|modify|fix|rename|turn";
const DELETE: &str = "delete|remove|erase|trash|discard|rm|unlink";
const READ: &str = "read|show|open|display|print|cat|view|see|check|look|give|tell|what|summarize|summarise|contents|content|inside|quote|recite|list|inspect|examine|which|how|does|is|are|do";
/// What leads from a file's name to its content.
const CONTENT_MARKS: [&str; 10] = [
    "with|holding|having|and its|the|this|following? content|contents|text|words|line|lines|sentence|message|body of|is|are|being|reads|set|should? to|be?",
    "and|then then? write|put|add|insert|type|store|save|place",
    "that|which should|must|will|just|only|simply? contain|contains|says|say|reads|read|has|have|holds|hold|lists|list|includes|include",
    "containing|saying|reading|holding|listing|including|stating|consisting of?",
    "whose content|contents|text is|are|should? be?",
    "its|the content|contents|text is|are|should|shall be?",
    "it should|must|shall contain|say|read|have|hold|list",
    "in|inside which|it should? it?",
    "with just|only?",
    "as follows",
];
const FILE_WORDS: &str = "file|document|note|textfile|script|list|page|markdown";

/// A path in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    span: Span,
    text: String,
}

/// `None`: no file is named, or nothing is asked of it.
pub(super) fn wish(clause: &Clause<'_>) -> Option<Wish> {
    let paths = paths(clause);
    let path = paths.first()?;
    let start = lead(clause);
    let kinds = [(WRITE, 'w'), (APPEND, 'a'), (EDIT, 'e'), (DELETE, 'd'), (READ, 'r')];
    let verb = (start..clause.words.len()).find_map(|at| {
        let kind = kinds.iter().find(|(words, _)| clause.fits_at(at, words).is_some())?;
        Some((at, kind.1))
    });
    // "I'd like a file … with …": no verb, and yet something belongs into it.
    let filled = || after_mark(clause.after(path.span)).is_some() && !clause.is_question();
    let verb = verb.filter(|(at, _)| !(path.span.from..path.span.to).contains(at));
    let (at, kind) = verb.unwrap_or_else(|| (start, if filled() { 'w' } else { 'r' }));
    if let ("rename" | "move" | "copy", Some(other)) = (clause.word(start), paths.get(1)) {
        let tool = if clause.word(start) == "copy" { "cp" } else { "mv" };
        return Some(Wish::Run { command: format!("{tool} -- {} {}", quoted(&path.text), quoted(&other.text)) });
    }
    let name = path.text.clone();
    match kind {
        'w' => Some(Wish::Write { content: content(clause, at, path), path: name }),
        'a' => Some(Wish::Append { lines: content(clause, at, path), path: name }),
        'e' => edit(clause, at, path).or(Some(Wish::Read { path: name })),
        'd' if path.span.from > at + 1 && clause.word(path.span.from - 1) == "from" => {
            let old = edge(&clause.text[clause.words[at].end..clause.words[path.span.from - 1].start]);
            Some(Wish::Edit { path: name, old, new: String::new() })
        }
        'd' => Some(Wish::Run { command: format!("rm -- {}", quoted(&name)) }),
        _ => Some(Wish::Read { path: name }),
    }
}

/// "It should say all is well.", after a file was named.
pub(super) fn continued(clause: &Clause<'_>) -> Option<String> {
    after_mark(clause.text).map(|text| tidy(&text)).filter(|text| !text.is_empty() && !clause.is_question())
}

/// "write met with Ana in it": what goes into the file that was named before.
pub(super) fn into_it(clause: &Clause<'_>, path: &str) -> Option<Wish> {
    let start = lead(clause);
    let verb = clause.fits_at(start, "write|put|add|append|insert|save|store|type|note")?;
    let place =
        clause.find("in|into|to|inside it|there|that").or_else(|| clause.find("in|into|to|inside the|that file"))?;
    let lines = as_list(&tidy(clause.text.get(clause.words[verb.to - 1].end..clause.words[place.from].start)?));
    (!lines.is_empty()).then(|| Wish::Append { path: path.to_owned(), lines })
}

/// Whether any word of the text is a path, for "it" in what follows.
pub(super) fn path_in(clause: &Clause<'_>) -> Option<String> {
    paths(clause).into_iter().next().map(|path| path.text)
}

fn quoted(path: &str) -> String {
    super::hands::shell_quoted(path)
}

fn paths(clause: &Clause<'_>) -> Vec<Path> {
    let mut found: Vec<Path> = Vec::new();
    for at in 0..clause.words.len() {
        let word = &clause.words[at];
        let text = &clause.text[word.start..word.end];
        let called = at > 1 && clause.fits_at(at - 1, "called|named|titled").is_some() && clause.has(FILE_WORDS);
        let after_file = at > 0 && clause.word(at - 1) == "file" && at > 1 && is_name_like(text);
        if looks_like_a_path(text) || (called && is_plain_name(text)) || after_file {
            let span = Span { from: at, to: at + 1 };
            if found.last().is_none_or(|last| clause.words[last.span.from].start != word.start) {
                found.push(Path { span, text: text.to_owned() });
            }
        }
    }
    found
}

fn looks_like_a_path(text: &str) -> bool {
    if text.contains("://") || text.starts_with("www.") || text.contains('@') {
        return false;
    }
    let name = text.rsplit('/').next().unwrap_or(text);
    let rooted = text.starts_with('/') && text.len() > 2 || text.starts_with("./") || text.starts_with("~/");
    let Some((stem, ending)) = name.rsplit_once('.') else { return rooted && is_plain_name(name) };
    let ending_fits = (1..=8).contains(&ending.len())
        && ending.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && ending.bytes().any(|byte| byte.is_ascii_alphabetic());
    let known = KNOWN_ENDINGS.contains(&ending.to_ascii_lowercase().as_str());
    let abbreviation = stem.len() <= 1 && !known || matches!(text, "e.g" | "i.e" | "a.m" | "p.m");
    let sentence = ending.starts_with(|c: char| c.is_ascii_uppercase()) && !known;
    ending_fits && !abbreviation && !sentence && (stem.chars().any(char::is_alphanumeric) || stem.is_empty() && known)
}

fn is_plain_name(text: &str) -> bool {
    let stop = [
        "with",
        "that",
        "in",
        "here",
        "containing",
        "and",
        "for",
        "to",
        "it",
        "this",
        "which",
        "saying",
        "a",
        "the",
        "is",
    ];
    !stop.contains(&text.to_lowercase().as_str()) && text.chars().all(|c| c.is_alphanumeric() || "._-/~".contains(c))
}

fn is_name_like(text: &str) -> bool {
    KNOWN_NAMES.contains(&text.to_lowercase().as_str())
}

/// What goes into the file: fenced, behind a mark, behind a colon, in quotes, or between the verb and the name.
fn content(clause: &Clause<'_>, verb: usize, path: &Path) -> String {
    if let Some(block) = fenced(clause.text) {
        return block;
    }
    let rest = clause.after(path.span).trim_start_matches(['"', '\'', '`', '”', ')', '*']);
    let between = clause.text.get(clause.words[verb].end..clause.words[path.span.from].start).unwrap_or("");
    let marked = after_mark(rest);
    // "write X to a file called P": what stands before the name wins over a trailing politeness.
    let before = object(between);
    if let Some(program) = program(rest, &path.text) {
        return program;
    }
    let text = match marked {
        Some(marked) => marked,
        None if !before.is_empty() => return before,
        None => rest.to_owned(),
    };
    // The question mark belongs to "could you", not to the file.
    let asked = if clause.is_question() && verb > 0 { text.trim_end().trim_end_matches('?') } else { &text };
    let text = tidy(asked);
    if text.is_empty() { before } else { as_list(&text) }
}

fn fenced(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("```")?;
    let (inside, _) = rest.split_once("```")?;
    let body =
        inside.split_once('\n').map_or(inside, |(first, body)| if first.trim().contains(' ') { inside } else { body });
    Some(body.trim_end_matches('\n').to_owned())
}

/// "a script hello.py that prints hello": the one program that a practice model can write.
fn program(rest: &str, path: &str) -> Option<String> {
    let clause = Clause::new(rest);
    let prints = clause.fits_at(0, "that|which|to just|simply|only? prints|print|outputs|output|echoes|echo")?;
    let text = tidy(clause.after(prints));
    let quoted = serde_json::Value::from(text.as_str()).to_string();
    match path.rsplit_once('.')?.1 {
        "py" => Some(format!("print({quoted})")),
        "js" | "mjs" | "ts" => Some(format!("console.log({quoted});")),
        "rb" => Some(format!("puts {quoted}")),
        "sh" => Some(format!("echo {}", super::hands::shell_quoted(&text))),
        _ => None,
    }
}

fn after_mark(rest: &str) -> Option<String> {
    let plain = rest.trim_start_matches([' ', ',', '.']);
    let clause = Clause::new(plain);
    let found = CONTENT_MARKS.iter().filter_map(|mark| clause.fits_at(0, mark));
    if let Some(span) = found.max_by_key(|span| span.to) {
        return Some(clause.after(span).to_owned());
    }
    match plain.chars().next() {
        Some(':' | '=' | '—' | '–') => Some(plain[plain.chars().next().map_or(0, char::len_utf8)..].to_owned()),
        Some('-') if plain.starts_with("- ") => Some(plain[2..].to_owned()),
        Some('\n') => Some(plain.to_owned()),
        _ => {
            let quoted = quotes(plain);
            quoted.first().map(|text| (*text).to_owned())
        }
    }
}

/// "the line 'x' to my", "buy milk into a file called": what is written, without the way to the name.
fn object(between: &str) -> String {
    if let Some(first) = quotes(between).first() {
        return (*first).to_owned();
    }
    let clause = Clause::new(between);
    let way = (0..clause.words.len()).rev().find(|&at| {
        clause.fits_at(at, "to|into|in|inside|as|onto|within|under|at|on").is_some()
            && clause.words.len() - at <= 7
            && only_way(&clause, at + 1)
    });
    let text = way.map_or("", |at| &between[..clause.words[at].start]);
    let text = text.trim_start_matches([' ', ':', ',']);
    let inner = Clause::new(text);
    let marks = [
        "down? the|this|a|an following|new|single|another|extra? text|words|word|line|lines|sentence|content|note|message|entry|item saying|that|with|of|reading|containing?",
        "down|me|out",
        "this|it|that|something",
    ];
    let lead = marks.iter().find_map(|mark| inner.fits_at(0, mark));
    let text = lead.map_or(text, |span| inner.after(span));
    as_list(&tidy(text))
}

/// Nothing but small words between here and the name.
fn only_way(clause: &Clause<'_>, from: usize) -> bool {
    let small = [
        "a", "an", "the", "my", "your", "our", "new", "text", "file", "document", "called", "named", "titled", "list",
        "note", "of", "end", "top", "empty", "markdown", "this", "existing",
    ];
    clause.words[from..].iter().all(|word| small.contains(&word.lower.as_str()))
}

fn tidy(text: &str) -> String {
    let mut text = text.trim().trim_start_matches([':', ',', '=', ' ']).trim().trim_end_matches([',', ' ']);
    for tail in [
        " in it",
        " inside it",
        " inside",
        " into it",
        " to it",
        ", please",
        " please",
        " thanks",
        " thank you",
        " for me",
        " as content",
        " as its content",
        " as the content",
    ] {
        let cut = text.trim_end_matches(['.', '!', '?', ' ']);
        if let Some(at) = cut.len().checked_sub(tail.len())
            && cut.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(tail))
        {
            text = cut[..at].trim_end_matches(',');
        }
    }
    let closed = text.trim_end_matches(['.', '!']);
    let text = if closed.ends_with(['"', '\'', '`', '”']) { closed } else { text };
    let bare = unquoted(text);
    if bare.len() == text.len() && !text.contains('\n') && text.matches('.').count() == 1 {
        return text.trim_end_matches('.').to_owned();
    }
    bare.to_owned()
}

/// "a shopping list with milk, eggs and bread" has a line for each thing.
fn as_list(text: &str) -> String {
    let clause = Clause::new(text);
    let kinds = [
        "a|the|my *? *? list of|with|containing",
        "a|the|my|these|two|three|four|five|six|some|1|2|3|4|5|6 bullet|list|separate|new? points|bullets|items|lines|entries|things",
        "a|the|my list",
    ];
    let list = kinds.iter().find_map(|kind| clause.fits_at(0, kind));
    let list = list.filter(|span| {
        clause.after(*span).trim_start().starts_with(':') || clause.word(span.to - 1) != "list" && span.to > 2
    });
    let Some(span) = list else { return text.to_owned() };
    let things = clause.after(span).trim_start_matches([':', ' ']).replace(" and ", ", ");
    let lines = things.split(',').map(str::trim).filter(|thing| !thing.is_empty()).map(|thing| format!("- {thing}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn edit(clause: &Clause<'_>, verb: usize, path: &Path) -> Option<Wish> {
    let text = clause.text;
    let spoken = quotes(text);
    let spoken: Vec<&str> = spoken.into_iter().filter(|quote| *quote != path.text).collect();
    if let [old, new, ..] = spoken[..] {
        return Some(Wish::Edit { path: path.text.clone(), old: old.to_owned(), new: new.to_owned() });
    }
    // "Update log.txt: replace noon by midnight": the last verb says what changes.
    let last =
        (verb + 1..clause.words.len()).find(|&at| clause.fits_at(at, "replace|change|swap|substitute|turn").is_some());
    let verb = last.unwrap_or(verb);
    let joint = (verb + 1..clause.words.len()).find_map(|at| clause.fits_at(at, "with|to|by|into|for"))?;
    let old = edge(&without_place(&text[clause.words[verb].end..clause.words[joint.from].start], path));
    let new = edge(&without_place(clause.after(joint), path));
    (!old.is_empty()).then(|| Wish::Edit { path: path.text.clone(), old, new })
}

/// Takes "in todo.txt" out.
fn without_place(text: &str, path: &Path) -> String {
    let Some(at) = text.find(&path.text) else { return text.to_owned() };
    let before = text[..at].trim_end_matches(['`', '"', '\'']);
    let clause = Clause::new(before);
    let way = (0..clause.words.len())
        .rev()
        .find(|&at| clause.fits_at(at, "in|inside|of|from|within").is_some() && only_way(&clause, at + 1));
    let before = way.map_or(before, |at| &before[..clause.words[at].start]);
    let after = text[at + path.text.len()..].trim_start_matches(['`', '"', '\'']);
    format!("{before}{after}")
}

fn edge(text: &str) -> String {
    let text = text.trim().trim_end_matches(['.', ',', '?', '!', ' ']);
    let clause = Clause::new(text);
    let lead = clause
        .fits_at(0, "every|each|all|the word|words|text|line|phrase|number|name")
        .or_else(|| clause.fits_at(0, "the word|words|text|line|phrase|string"));
    let text = lead.map_or(text, |span| clause.after(span));
    unquoted(text.trim().trim_end_matches(" please").trim_end_matches(',')).to_owned()
}
