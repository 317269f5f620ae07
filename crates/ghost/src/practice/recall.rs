//! Finds the answer to a question among notes: what a memory search gave, the memory file, the conversation itself.
//! Never: an answer that no note contains.

use serde_json::Value;

use super::embed::closeness;
use super::words::topics;

/// Leads every line that the practice model writes into memory.
pub(super) const TOLD: &str = "The user told me: ";
/// Lines that are quoted in one answer.
const LINES_MAX: usize = 3;
/// For "what do you know about me?".
const ALL_LINES_MAX: usize = 10;
/// Beside the best line, only those are quoted that fit about as well.
const NEARLY_AS_GOOD: f32 = 0.7;
/// A search's own hit without a word in common with the question must at least be this close.
const CLOSE_ENOUGH: f32 = 0.35;

/// One remembered line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    pub(super) text: String,
    pub(super) source: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    Nothing,
    /// Lines that answer.
    Fits(Vec<Note>),
    /// The search thought of these; they share no word with the question.
    Perhaps(Vec<Note>),
}

/// The notes in a memory search's answer, whatever its shape.
pub(super) fn hits(answer: &str) -> Vec<Note> {
    let Ok(value) = serde_json::from_str::<Value>(answer) else { return lines(answer, "memory") };
    let mut notes = Vec::new();
    collect(&value, &mut notes);
    notes
}

fn collect(value: &Value, notes: &mut Vec<Note>) {
    match value {
        Value::Object(map) => {
            let text =
                ["snippet", "text", "content", "excerpt", "memory"].iter().find_map(|name| map.get(*name)?.as_str());
            let source = ["path", "file", "source", "citation"].iter().find_map(|name| map.get(*name)?.as_str());
            match text {
                Some(text) => notes.extend(lines(text, source.unwrap_or("memory"))),
                None => map.iter().filter(|(name, _)| *name != "debug").for_each(|(_, inner)| collect(inner, notes)),
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, notes)),
        _ => {}
    }
}

/// The lines of a file that say something.
pub(super) fn lines(text: &str, source: &str) -> Vec<Note> {
    let said = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '<', '`']) && !line.starts_with("Source:"));
    let plain = said.map(|line| line.trim_start_matches(['-', '*', '•', ' ']).trim_start_matches(TOLD).trim());
    let full = plain.filter(|line| line.chars().any(char::is_alphanumeric));
    full.map(|line| Note { text: line.to_owned(), source: source.to_owned() }).collect()
}

/// The notes that answer the question, best first.
pub(super) fn best(question: &str, notes: &[Note]) -> Found {
    let wanted = topics(question);
    let mut seen: Vec<&str> = Vec::new();
    let fresh = notes.iter().filter(|note| {
        let new = !seen.contains(&note.text.as_str());
        seen.push(&note.text);
        new
    });
    let notes: Vec<&Note> = fresh.collect();
    if wanted.is_empty() || wants_everything(question) {
        let all: Vec<Note> = notes.into_iter().take(ALL_LINES_MAX).cloned().collect();
        return if all.is_empty() { Found::Nothing } else { Found::Fits(all) };
    }
    let score = |note: &Note| {
        let has = topics(&note.text);
        let mut common = wanted.iter().filter(|topic| has.contains(topic)).collect::<Vec<_>>();
        common.sort();
        common.dedup();
        (common.len(), closeness(question, &note.text))
    };
    let mut scored: Vec<_> = notes.into_iter().map(|note| (score(note), note)).collect();
    // Stable: of equals the one that was written later, as it is the newer truth.
    scored.reverse();
    scored.sort_by(|(one, _), (other, _)| other.0.cmp(&one.0).then(other.1.total_cmp(&one.1)));
    let Some(((most, close), first)) = scored.first() else { return Found::Nothing };
    if *most == 0 {
        let near = *close >= CLOSE_ENOUGH;
        return if near { Found::Perhaps(vec![(*first).clone()]) } else { Found::Nothing };
    }
    let fits = scored.iter().filter(|((common, near), _)| common == most && *near >= close * NEARLY_AS_GOOD);
    Found::Fits(fits.take(LINES_MAX).map(|(_, note)| (*note).clone()).collect())
}

fn wants_everything(question: &str) -> bool {
    let lower = question.to_lowercase();
    let about_me = [
        "about me",
        "remember about",
        "everything",
        "all you know",
        "in your memory",
        "you remembered",
        "you know of me",
    ];
    about_me.iter().any(|words| lower.contains(words)) && topics(question).len() <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Vec<Note> {
        lines(
            "# What I was asked to remember\n\n- The user told me: I like trains\n- The user told me: my sister's birthday is 4 May\n\
             - The user told me: the wifi password is on the fridge\n- The user told me: I work at a bakery in Lyon\n",
            "MEMORY.md",
        )
    }

    #[test]
    fn questions_find_their_line() {
        for (question, line) in [
            ("What do I like?", "I like trains"),
            ("Which things am I fond of?", "I like trains"),
            ("when was my sibling born?", "my sister's birthday is 4 May"),
            ("Where is the Wi-Fi password written?", "the wifi password is on the fridge"),
            ("what's my job", "I work at a bakery in Lyon"),
        ] {
            let Found::Fits(found) = best(question, &notes()) else { panic!("{question}") };
            assert_eq!(found[0].text, line, "{question}");
        }
        assert_eq!(best("How tall is the Eiffel tower?", &notes()), Found::Nothing);
        let Found::Fits(all) = best("What do you know about me?", &notes()) else { panic!() };
        assert_eq!(all.len(), 4);
        assert_eq!(best("what did I ask you to remember?", &notes()), Found::Fits(all));
        assert_eq!(best("anything?", &[]), Found::Nothing);
    }

    #[test]
    fn search_answers_of_any_shape_are_read() {
        let answer = r##"{"results":[{"path":"memory/a.md","snippet":"# note\nThe user told me: I like tea\n\nSource: a#L1"}],"debug":{"text":"x"}}"##;
        assert_eq!(hits(answer), [Note { text: "I like tea".into(), source: "memory/a.md".into() }]);
        assert_eq!(hits("- I like tea").len(), 1);
        assert_eq!(hits(r#"{"results":[],"provider":"none"}"#), []);
    }
}
