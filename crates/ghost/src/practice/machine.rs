//! Finds commands to run, whether a person spells them out or asks about the machine in plain words.
//! Never: a command made of words that were meant as prose.

use super::understand::{Wish, asks, lead};
use super::words::{Clause, Span, quotes, unquoted};

/// Commands that people type as they are.
const BARE_COMMANDS: [&str; 12] =
    ["ls", "pwd", "uname", "whoami", "df", "du", "ps", "hostname", "uptime", "id", "echo", "date"];
const RUN: &str = "run|execute|exec|launch|invoke|issue";
/// What may stand between the verb and the command.
const BEFORE_COMMAND: [&str; 4] = [
    "this|the|following|a|these? following? shell|terminal|bash|unix|linux? command|commands|cmd|line",
    "in|on|using|with|from the|a|your? shell|terminal|console|bash|command-line",
    "this|following",
    "command",
];
/// Where the command ends and the talk about it goes on.
const AFTER_COMMAND: [&str; 9] = [
    "and|then then|please? tell|show|give|report|let|print|paste|send|say|share|explain|return me|us|back|the|what|its|it?",
    "in|on|using|with|from the|a|your|my|this? shell|terminal|console|bash|command-line|workspace|machine",
    "for me",
    "and what",
    "to see|find|check|know|get",
    "please",
    "so that|i|we",
    "as|in a|the? command|shell",
    "thanks|thank",
];
/// What the machine can be asked: words that must be there, one of each group, and the command that tells.
const QUESTIONS: [(&[&str], &str); 14] = [
    (&["disk|disc|storage|drive|filesystem", "space|free|full|left|usage|used|big|large|room|available"], "df -h ."),
    (&["ram|memory", "free|available|installed|usage|used|much|gigabytes|gb"], "free -h"),
    (&["cpu|cpus|cores|core|processor|processors"], "nproc"),
    (
        &["kernel|os|operating|linux|distribution|distro|unix", "what|which|version|name|run|running|tell|show|are|is"],
        "uname -a",
    ),
    (&["uptime"], "uptime"),
    (&["long|since", "machine|computer|server|system|box", "up|running|booted"], "uptime"),
    (&["hostname"], "uname -n"),
    (&["name|called", "machine|computer|host|server"], "uname -n"),
    (&["process|processes", "running|run|list|show|active|which|what"], "ps aux | head -n 15"),
    (
        &[
            "current|working|this|which|what|present",
            "directory|folder",
            "what|where|which|print|name|path|are|show|tell",
        ],
        "pwd",
    ),
    (&["where", "you|i|we", "running|working|located"], "pwd"),
    (&["user|account", "running|logged|which|what", "you|i|as|are|am"], "whoami"),
    (&["time|clock", "what|tell|current|now"], "date"),
    (&["date|day|today", "what|which|tell|current", "today|date|it|now|day"], "date"),
];
const PROGRAMS: &str = "python|python3|node|npm|git|bash|curl|perl|ruby|go|rust|rustc|cargo|java|gcc|make|nodejs";

/// A command that is spelled out.
pub(super) fn command(clause: &Clause<'_>) -> Option<Wish> {
    let text = clause.text.trim();
    if let Some(rest) = text.strip_prefix("$ ") {
        return Some(Wish::Run { command: rest.trim().to_owned() });
    }
    let start = lead(clause);
    let code = quotes(text).into_iter().find(|quote| text.contains(&format!("`{quote}`")));
    let says = "print|prints|output|outputs|return|returns|say|says|give|gives|show|do|does";
    if let Some(code) = code
        && (clause.has(RUN)
            || clause.has("shell|terminal|command")
            || clause.has("type|try|enter|use")
            || asks(clause) && clause.has(says))
    {
        return Some(Wish::Run { command: code.trim().to_owned() });
    }
    if let Some(verb) = clause
        .fits_at(start, RUN)
        .or_else(|| clause.find("use the|a|your? shell|terminal|bash|console|command-line to|and run|execute"))
    {
        return spelled_out(clause, verb).map(|command| Wish::Run { command });
    }
    if let Some(verb) = clause.find("the|this? following? shell|terminal|bash? command :?").filter(|_| !asks(clause)) {
        return spelled_out(clause, verb).map(|command| Wish::Run { command });
    }
    let first = text.split_whitespace().next().unwrap_or("");
    let bare = BARE_COMMANDS.contains(&first)
        && (text.len() == first.len() || text.contains(" -") || matches!(first, "echo" | "ls" | "du"));
    bare.then(|| Wish::Run { command: text.to_owned() })
}

fn spelled_out(clause: &Clause<'_>, verb: Span) -> Option<String> {
    let mut from = verb.to;
    while let Some(span) =
        BEFORE_COMMAND.iter().find_map(|pattern| clause.fits_at(from, pattern)).filter(|span| span.to > from)
    {
        from = span.to;
    }
    let rest = clause.after(Span { from: verb.from, to: from }).trim_start_matches([':', ',', ' ', '\n']);
    if let Some(quoted) = quotes(rest).first()
        && rest.trim_start().starts_with(['"', '\'', '`', '“'])
    {
        return Some((*quoted).trim().to_owned());
    }
    let inner = Clause::new(rest);
    let end =
        (1..inner.words.len()).find(|&at| AFTER_COMMAND.iter().any(|pattern| inner.fits_at(at, pattern).is_some()));
    let command = end.map_or(rest, |at| &rest[..inner.words[at].start]);
    let command = command.trim().trim_end_matches(['?', '!', ',']).trim_end();
    let command = command.strip_suffix('.').filter(|rest| !rest.ends_with([' ', '.', '/'])).unwrap_or(command);
    let first = command.split_whitespace().next()?;
    let prose = [
        "a", "an", "the", "my", "your", "some", "this", "that", "it", "away", "out", "all", "these", "those", "me",
        "to",
    ];
    let program = first.chars().all(|c| c.is_ascii_alphanumeric() || "._-/~+=$".contains(c));
    (program && !prose.contains(&first.to_lowercase().as_str())).then(|| unquoted(command).to_owned())
}

/// A question that a command answers.
pub(super) fn question(clause: &Clause<'_>) -> Option<Wish> {
    let own = clause.has("my|mine|our|birthday|meeting|appointment|flight|remember|wedding|deadline|wifi|password");
    let tells = asks(clause)
        || clause
            .fits_at(lead(clause), "show|tell|print|check|display|list|find|get|give|use|look|report|measure|count")
            .is_some();
    if own || !tells {
        return None;
    }
    if clause.has("version|installed")
        && let Some(program) = clause.find(PROGRAMS)
    {
        let name = match clause.word(program.from) {
            "python" => "python3",
            "nodejs" => "node",
            "rust" => "rustc",
            other => other,
        };
        let flag = if name == "go" { "version" } else { "--version" };
        return Some(Wish::Run { command: format!("{name} {flag}") });
    }
    let words = clause.words.len();
    let found = QUESTIONS.iter().find(|(groups, _)| groups.iter().all(|group| clause.has(group)));
    found.filter(|_| words <= 16).map(|(_, command)| Wish::Run { command: (*command).to_owned() })
}

/// Looking around in a folder: listing it, or counting what is there.
pub(super) fn folder(clause: &Clause<'_>) -> Option<Wish> {
    if let Some(made) = made(clause) {
        return Some(made);
    }
    let things =
        clause.find("files|file|documents|folders|directories|entries|items|contents|directory|folder|workspace")?;
    let place = place(clause);
    if clause.has("how many") || clause.has("number of") || clause.fits_at(lead(clause), "count").is_some() {
        return (clause.word(things.from) != "contents").then_some(Wish::Count { path: place });
    }
    let verb =
        clause.has("list|show|see|display|print|ls|enumerate|which|what|look|browse|there|exist|tell|view|check|any");
    let all = place.is_some()
        || clause.has("files|documents|folders|directories|entries")
        || clause.has("any|what|which file|document|folder")
        || clause.has("in|inside|of the|this|your|my|current? working|home? directory|folder|workspace")
        || clause.has("directory|folder|workspace contents|content|listing");
    (verb && all).then_some(Wish::List { path: place })
}

/// "Make a folder called photos."
fn made(clause: &Clause<'_>) -> Option<Wish> {
    let verb = clause.fits_at(lead(clause), "create|make|add|set up?")?;
    let folder = clause.find("folder|directory|subfolder|dir").filter(|folder| folder.from < verb.to + 4)?;
    let at = clause.fits_at(folder.to, "called|named|titled *").map_or(folder.to, |named| named.to - 1);
    let word = clause.words.get(at)?;
    let name = &clause.text[word.start..word.end];
    Some(Wish::Run { command: format!("mkdir -p -- {}", super::hands::shell_quoted(name)) })
}

/// A folder that is named: "in src/", "in the folder notes".
fn place(clause: &Clause<'_>) -> Option<String> {
    let named = clause.find("folder|directory|subfolder called|named? *").filter(|span| span.to - span.from > 1)?;
    let at = named.to - 1;
    let word = &clause.words[at];
    let text = &clause.text[word.start..word.end];
    let small = [
        "you", "here", "is", "are", "now", "have", "and", "please", "contain", "contains", "do", "with", "contents",
        "content", "i", "we", "it", "for", "of", "listing", "right", "called", "named", "there", "in", "to", "that",
    ];
    let fits = text.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c)) && !small.contains(&word.lower.as_str());
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_cut_out_of_prose() {
        for (text, expected) in [
            ("run uname -a", Some("uname -a")),
            ("Please execute the command `ls -la /` and tell me what it prints.", Some("ls -la /")),
            ("could you run echo \"a b\" | wc -c in the terminal?", Some("echo \"a b\" | wc -c")),
            ("Run the following shell command: python3 -c 'print(1)'", Some("python3 -c 'print(1)'")),
            ("What does `date +%Y` print?", Some("date +%Y")),
            ("$ true && false", Some("true && false")),
            ("ls -l", Some("ls -l")),
            ("Execute whoami and show me the output", Some("whoami")),
            ("run a marathon with me", None),
            ("I run every day", None),
            ("date with Anna", None),
        ] {
            let found = command(&Clause::new(text));
            assert_eq!(found, expected.map(|command| Wish::Run { command: command.to_owned() }), "{text}");
        }
    }

    #[test]
    fn questions_about_the_machine() {
        for (text, expected) in [
            ("how much disk space is left?", Some("df -h .")),
            ("Which version of Python do you have?", Some("python3 --version")),
            ("What time is it?", Some("date")),
            ("how many cores does this computer have?", Some("nproc")),
            ("what kernel are you running on", Some("uname -a")),
            ("What time is my meeting?", None),
            ("I have no time", None),
        ] {
            let found = question(&Clause::new(text));
            assert_eq!(found, expected.map(|command| Wish::Run { command: command.to_owned() }), "{text}");
        }
    }

    #[test]
    fn folders_are_listed_and_counted() {
        for (text, expected) in [
            ("how many files are here", Some(Wish::Count { path: None })),
            ("Count the files in the folder notes", Some(Wish::Count { path: Some("notes".into()) })),
            ("What files do you have?", Some(Wish::List { path: None })),
            ("list the contents of this folder", Some(Wish::List { path: None })),
            ("Show me the directory docs/api", Some(Wish::List { path: Some("docs/api".into()) })),
            ("Make a new folder named photos", Some(Wish::Run { command: "mkdir -p -- 'photos'".into() })),
            ("My files are lost and I'm sad", None),
        ] {
            assert_eq!(folder(&Clause::new(text)), expected, "{text}");
        }
    }
}
