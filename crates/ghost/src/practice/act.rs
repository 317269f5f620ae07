//! Fulfils wishes step by step and says what came of it.
//! Never: a claim that something was done which no tool confirmed.

use super::hands::{Content, Done, Hands, NextCall, Stop, shell_quoted};
use super::hear::Heard;
use super::recall::{Found, Note, TOLD, best, hits, lines};
use super::talk::{number, story};
use super::understand::{Understood, Wish};

/// Of a tool's answer that is quoted.
const QUOTE_CHARACTERS_MAX: usize = 3_000;
const MEMORY_FILE: &str = "MEMORY.md";
const MEMORY_HEADING: &str = "# What I was asked to remember\n\n";

/// What the model does now.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    Call(NextCall),
    Say(String),
}

/// Goes on where the tools' answers stop.
pub(super) fn act(understood: &Understood, heard: &Heard, hands: &mut Hands<'_>) -> Move {
    let mut said: Vec<String> = Vec::new();
    for wish in &understood.wishes {
        match fulfil(wish, heard, hands) {
            Ok(sentence) => said.push(sentence),
            Err(Stop::Call(call)) => return Move::Call(call),
            Err(Stop::NoTool) => said.push(no_tool(wish)),
            Err(Stop::Failed(why)) => {
                said.push(format!("That didn't work, and nothing was changed by it. The tool said: “{why}”."))
            }
            Err(Stop::Enough) => said.push("I stopped here: this took more steps than I'm allowed.".to_owned()),
        }
    }
    Move::Say(said.join("\n\n"))
}

fn fulfil(wish: &Wish, heard: &Heard, hands: &mut Hands<'_>) -> Done<String> {
    match wish {
        Wish::Remember(fact) => remember(fact, heard, hands),
        Wish::Recall(question) => recall(question, heard, hands),
        Wish::Write { path, content } => write(path, content, hands),
        Wish::Append { path, lines } => {
            hands.append(path, "", lines)?;
            Ok(format!("I added this to `{path}`:\n\n{}", fenced(lines)))
        }
        Wish::Read { path } => read(path, hands),
        Wish::Edit { path, old, new } => edit(path, old, new, hands),
        Wish::List { path } => list(path.as_deref(), hands),
        Wish::Count { path } => count(path.as_deref(), hands),
        Wish::Run { command } => run(command, hands),
        Wish::Fetch { url } => {
            let page = hands.fetch(url)?;
            Ok(format!("{url} says:\n\n{}", fenced(&page)))
        }
        Wish::SearchWeb { query } => {
            let found = hands.search_web(query)?;
            Ok(format!("A web search for “{query}” found:\n\n{}", fenced(&found)))
        }
        Wish::Say(text) => Ok(text.clone()),
        Wish::Sum { sum, result } => Ok(format!("{sum} = **{}**", number(*result))),
        Wish::Story { topic, words } => Ok(story(topic, *words)),
        Wish::Talk(talk) => Ok(talk.answer(heard.name.as_deref(), heard.words.len())),
        Wish::Unknown(text) => Ok(unknown(text)),
    }
}

/// The memory file that the instructions name, or the usual one.
fn memory_file(heard: &Heard) -> String {
    if heard.system.contains(MEMORY_FILE) || !heard.system.contains("memory/") {
        return MEMORY_FILE.to_owned();
    }
    let date = heard.system.split("Current date:").nth(1).map(str::trim_start).and_then(|rest| rest.get(..10));
    date.map_or_else(|| MEMORY_FILE.to_owned(), |date| format!("memory/{date}.md"))
}

fn remember(fact: &str, heard: &Heard, hands: &mut Hands<'_>) -> Done<String> {
    let path = memory_file(heard);
    hands
        .thoughts
        .push(format!("The person wants me to remember “{fact}”, so it belongs into {path}, after what is there."));
    let before = match hands.read(&path) {
        Err(Stop::NoTool) => Content::TooLong(String::new()),
        read => read?,
    };
    let fact = fact.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Content::Text(text) = &before
        && text.to_lowercase().contains(&fact.to_lowercase())
    {
        return Ok(format!("I know that already; `{path}` says: “{fact}”."));
    }
    hands.add(&path, &before, MEMORY_HEADING, &format!("- {TOLD}{fact}"))?;
    Ok(format!("Noted. I wrote it into `{path}`: “{fact}”."))
}

fn recall(question: &str, heard: &Heard, hands: &mut Hands<'_>) -> Done<String> {
    hands.thoughts.push("That is a question, so I look into my memory before I answer.".to_owned());
    let mut looked = Vec::new();
    let mut perhaps = Vec::new();
    match hands.search_memory(question.trim_end_matches(['?', ' '])) {
        Ok(answer) => {
            looked.push("searched my memory".to_owned());
            match best(question, &hits(&answer)) {
                Found::Fits(notes) => return Ok(told(&notes)),
                Found::Perhaps(notes) => perhaps = notes,
                Found::Nothing => {}
            }
        }
        Err(stop @ (Stop::Call(_) | Stop::Enough)) => return Err(stop),
        Err(Stop::NoTool) => {}
        Err(Stop::Failed(why)) => looked.push(format!("tried to search my memory (“{why}”)")),
    }
    // A line that was written a moment ago may not be in the search's index yet.
    let path = memory_file(heard);
    match hands.read(&path) {
        Ok(Content::Text(text) | Content::TooLong(text)) => {
            looked.push(format!("read `{path}`"));
            if let Found::Fits(notes) = best(question, &lines(&text, &path)) {
                return Ok(told(&notes));
            }
        }
        Ok(Content::Missing) | Err(Stop::NoTool | Stop::Failed(_)) => {}
        Err(stop) => return Err(stop),
    }
    let statements = heard.earlier.iter().filter(|words| !words.trim_end().ends_with('?'));
    let said: Vec<Note> = statements
        .map(|words| Note { text: words.clone(), source: "earlier in this conversation".to_owned() })
        .collect();
    if let Found::Fits(notes) = best(question, &said) {
        return Ok(told(&notes));
    }
    if !perhaps.is_empty() {
        return Ok(format!(
            "I'm not sure this is what you mean, but it is the nearest that I have. {}",
            told(&perhaps)
        ));
    }
    let tried = if looked.is_empty() {
        "I have no way to look into a memory here".to_owned()
    } else {
        format!("I {}", looked.join(" and "))
    };
    Ok(format!(
        "{tried} and found nothing about that. If you tell me, I'll keep it in mind; general knowledge is beyond a practice model."
    ))
}

fn told(notes: &[Note]) -> String {
    match notes {
        [only] => format!("You told me: “{}”. (Source: {})", only.text, only.source),
        notes => {
            let lines: Vec<_> =
                notes.iter().map(|note| format!("- “{}” (Source: {})", note.text, note.source)).collect();
            format!("This is what I have:\n\n{}", lines.join("\n"))
        }
    }
}

fn write(path: &str, content: &str, hands: &mut Hands<'_>) -> Done<String> {
    hands.thoughts.push(format!("The person wants a file {path}."));
    let ended = if content.is_empty() || content.ends_with('\n') { content.to_owned() } else { format!("{content}\n") };
    hands.write(path, &ended)?;
    if content.is_empty() {
        return Ok(format!("I made `{path}`. It is empty; tell me what belongs into it."));
    }
    Ok(format!("I wrote `{path}`. It says now:\n\n{}", fenced(content)))
}

fn read(path: &str, hands: &mut Hands<'_>) -> Done<String> {
    hands.thoughts.push(format!("The answer is in the file {path}."));
    match hands.read(path)? {
        Content::Missing => Ok(format!("There is no file `{path}` here.")),
        Content::Text(text) if text.trim().is_empty() => Ok(format!("`{path}` is there, and it is empty.")),
        Content::Text(text) | Content::TooLong(text) => Ok(format!("`{path}` says:\n\n{}", fenced(&text))),
    }
}

fn edit(path: &str, old: &str, new: &str, hands: &mut Hands<'_>) -> Done<String> {
    hands.edit(path, old, new)?;
    let after = match hands.read(path) {
        Ok(Content::Text(text)) => format!(" It says now:\n\n{}", fenced(&text)),
        Err(stop @ Stop::Call(_)) => return Err(stop),
        _ => String::new(),
    };
    Ok(format!("In `{path}` I replaced “{old}” with “{new}”.{after}"))
}

fn run(command: &str, hands: &mut Hands<'_>) -> Done<String> {
    hands.thoughts.push(format!("For that I run the command {command}."));
    let output = hands.run(command)?;
    if matches!(output.trim(), "" | "(no output)") {
        return Ok(format!("`{command}` ran and printed nothing."));
    }
    Ok(format!("`{command}` printed:\n\n{}", fenced(&output)))
}

fn list(path: Option<&str>, hands: &mut Hands<'_>) -> Done<String> {
    let listed = match hands.list(path) {
        Err(Stop::NoTool) => hands.run(&format!("ls -1Ap{}", place(path)))?,
        listed => listed?,
    };
    let here = path.map_or("here".to_owned(), |path| format!("in `{path}`"));
    if listed.trim().is_empty() {
        return Ok(format!("There is nothing {here}."));
    }
    Ok(format!("This is what lies {here}:\n\n{}", fenced(&listed)))
}

fn count(path: Option<&str>, hands: &mut Hands<'_>) -> Done<String> {
    let listed = match hands.run(&format!("ls -1Ap{}", place(path))) {
        Err(Stop::NoTool) => hands.list(path)?,
        listed => listed?,
    };
    let names: Vec<&str> = listed
        .lines()
        .map(|line| line.trim().trim_matches('"'))
        .filter(|line| !line.is_empty() && *line != "(no output)")
        .collect();
    let (folders, files): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| name.ends_with('/'));
    let here = path.map_or("here".to_owned(), |path| format!("in `{path}`"));
    let many = |count: usize, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let shown = |names: &[&str]| {
        if names.is_empty() {
            String::new()
        } else {
            format!(" ({})", names.iter().take(30).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
        }
    };
    Ok(format!(
        "I count {}{} and {}{} {here}.",
        many(files.len(), "file"),
        shown(&files),
        many(folders.len(), "folder"),
        shown(&folders)
    ))
}

fn place(path: Option<&str>) -> String {
    path.map_or_else(String::new, |path| format!(" -- {}", shell_quoted(path)))
}

/// In a fence that the text itself doesn't close.
fn fenced(text: &str) -> String {
    let short: String = text.trim_end().chars().take(QUOTE_CHARACTERS_MAX).collect();
    let more = if short.len() < text.trim_end().len() { "\n…" } else { "" };
    let fence = if short.contains("```") { "````" } else { "```" };
    format!("{fence}\n{short}{more}\n{fence}")
}

fn no_tool(wish: &Wish) -> String {
    let what = match wish {
        Wish::Remember(_) => "write something into a memory file",
        Wish::Write { .. } | Wish::Append { .. } => "write a file",
        Wish::Read { .. } => "read a file",
        Wish::Edit { .. } => "change a file",
        Wish::List { .. } | Wish::Count { .. } => "look into a folder",
        Wish::Run { .. } => "run a command",
        Wish::Fetch { .. } => "open a web page",
        Wish::SearchWeb { .. } => "search the web",
        _ => "do that",
    };
    format!("I understood that I should {what}, but no tool for it was given to me here, so I did nothing.")
}

fn unknown(text: &str) -> String {
    let short: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
    let quoted =
        if short.is_empty() { "I got an empty message.".to_owned() } else { format!("You said: “{short}”.") };
    format!(
        "{quoted} I'm the practice model and follow simple rules, so I can't talk about everything. I can remember things and \
         find them again, work with files, run commands and do sums. For real conversation, choose another model in the settings."
    )
}
