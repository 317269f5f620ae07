//! Small talk, sums, and honest answers about what a practice model is.
//! Never: a pretence of knowing.

use super::understand::{asks, lead};
use super::words::Clause;

/// Talk that needs no tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Talk {
    Hello,
    HowAreYou,
    WhoAreYou,
    WhatCanYouDo,
    Thanks,
    Bye,
    Joke,
    Agreed,
    Test,
}

const JOKES: [&str; 3] = [
    "Why did the proxy never lose count? It wrote everything down before it said goodbye.",
    "I would tell you a joke about timeouts, but it takes too long.",
    "There are ten kinds of practice models: those that count in binary, and those that count tokens.",
];

pub(super) fn talk(clause: &Clause<'_>) -> Option<Talk> {
    let short = clause.words.len() <= 12;
    let kinds: [(Talk, &[&str]); 9] = [
        (
            Talk::WhatCanYouDo,
            &[
                "what can|could you do|help|offer",
                "what are you able|capable|good",
                "how can|could|do you help|assist",
                "help me? please?",
                "what do you do",
                "your abilities|capabilities|skills|features",
                "which|what things|tasks|tools can|do you",
            ],
        ),
        (
            Talk::WhoAreYou,
            &[
                "who|what are you",
                "who|what am i talking|speaking|chatting",
                "your name",
                "which|what model|llm|ai",
                "introduce yourself",
                "made|built|created|trained|programmed|wrote you",
                "are you a|an|real|human|chatgpt|gpt|claude|alive|conscious|openclaw|there|intelligent",
                "tell me about yourself",
            ],
        ),
        (
            Talk::HowAreYou,
            &[
                "how are|is you|it|things|everything",
                "how do you do",
                "are you okay|ok|well|fine",
                "what is up",
                "how is your|the day",
            ],
        ),
        (Talk::Thanks, &["thanks|thank|thx|cheers|merci|danke|gracias", "much appreciated", "i appreciate"]),
        (Talk::Bye, &["bye|goodbye|farewell|cya", "see you", "good night", "talk to you later", "until next time"]),
        (Talk::Joke, &["joke|jokes", "make me laugh", "something funny"]),
        (Talk::Test, &["test|testing|ping|check"]),
        (
            Talk::Hello,
            &[
                "hi|hello|hey|howdy|greetings|yo|hola|bonjour|hallo|ciao|servus|moin|hiya|sup",
                "good morning|afternoon|evening|day",
            ],
        ),
        (
            Talk::Agreed,
            &["ok|okay|yes|no|yep|nope|sure|fine|great|cool|nice|perfect|wonderful|awesome|good|right|understood|well"],
        ),
    ];
    let fits = |talk: Talk, patterns: &[&str]| match talk {
        // Words that are also part of other sentences count only when they stand nearly alone.
        Talk::Test | Talk::Agreed => clause.words.len() <= 3 && clause.fits_at(0, patterns[0]).is_some(),
        Talk::Hello => clause.words.len() <= 7 && patterns.iter().any(|pattern| clause.fits_at(0, pattern).is_some()),
        Talk::Thanks | Talk::Bye => clause.words.len() <= 7 && patterns.iter().any(|pattern| clause.has(pattern)),
        Talk::WhatCanYouDo if clause.words.len() > 3 => {
            patterns.iter().any(|pattern| *pattern != "help me? please?" && clause.has(pattern))
        }
        Talk::WhoAreYou | Talk::HowAreYou => {
            !clause.has("my|our|i|we") && patterns.iter().any(|pattern| clause.has(pattern))
        }
        _ => patterns.iter().any(|pattern| clause.has(pattern)),
    };
    kinds.into_iter().find(|(talk, patterns)| short && fits(*talk, patterns)).map(|(talk, _)| talk)
}

impl Talk {
    pub(super) fn answer(self, name: Option<&str>, seed: usize) -> String {
        let name = name.unwrap_or("your assistant");
        let abilities = "remember things you tell me and find them again, write, read and change files, run commands, look at \
                         a web page when I have the way out, and do sums";
        match self {
            Self::Hello => {
                format!("Hello! I'm {name}. Tell me something to remember, or ask me to make a file or run a command.")
            }
            Self::HowAreYou => format!("All is well, and nothing is waiting. What shall {name} do for you?"),
            Self::WhoAreYou => format!(
                "I'm {name}, and behind me works the built-in practice model: no network, no bill worth naming, just careful rules. I can {abilities}."
            ),
            Self::WhatCanYouDo => format!(
                "I can {abilities}. For example:\n\n- “Please keep in mind that my sister's birthday is in May.”\n- “Create a \
                 file todo.txt with buy milk.”\n- “Run uname -a.”\n- “What did I tell you about my sister?”"
            ),
            Self::Thanks => "You're welcome!".to_owned(),
            Self::Bye => "Goodbye! What you told me to remember stays in my memory file.".to_owned(),
            Self::Joke => JOKES[seed % JOKES.len()].to_owned(),
            Self::Agreed => "Good. What shall I do next?".to_owned(),
            Self::Test => "It works: your message came through, and this is the answer.".to_owned(),
        }
    }
}

/// "What is 17 times 3?" → the sum and its result.
pub(super) fn sum(clause: &Clause<'_>) -> Option<(String, f64)> {
    let mut text = clause.text.to_lowercase();
    for (words, sign) in [
        ("multiplied by", "*"),
        ("times", "*"),
        ("divided by", "/"),
        ("over", "/"),
        ("plus", "+"),
        ("minus", "-"),
        ("to the power of", "^"),
        ("squared", "^2"),
        ("cubed", "^3"),
        ("×", "*"),
        ("÷", "/"),
        ("−", "-"),
        ("**", "^"),
        ("% of", "/100*"),
        ("percent of", "/100*"),
    ] {
        text = text.replace(words, sign);
    }
    for words in [
        "what is",
        "what's",
        "whats",
        "calculate",
        "compute",
        "how much is",
        "please",
        "solve",
        "evaluate",
        "equals",
        "can you",
        "tell me",
        "the result of",
        "hey",
        "work out",
        "=",
        "?",
        "!",
    ] {
        text = text.replace(words, " ");
    }
    let text = text.trim().trim_end_matches('.').replace(" x ", "*");
    let signs = text.chars().skip(1).filter(|c| "+-*/^%".contains(*c)).count();
    let plain = text.chars().all(|c| c.is_ascii_digit() || "+-*/^%(). ".contains(c));
    if !plain || signs == 0 || !text.contains(|c: char| c.is_ascii_digit()) || text.len() > 200 {
        return None;
    }
    // A date or a phone number isn't a sum unless somebody asks.
    if !(asks(clause)
        || clause.fits_at(lead(clause), "calculate|compute|solve|evaluate|work").is_some()
        || text.contains(' ')
        || text.contains(['*', '+', '^']))
    {
        return None;
    }
    let letters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let mut sum = Sum { letters: &letters, at: 0, depth: 0 };
    let result = sum.terms()?;
    (sum.at == letters.len() && result.is_finite())
        .then(|| (text.split_whitespace().collect::<Vec<_>>().join(" "), result))
}

/// As people write numbers: no decimals where there are none, ten at most.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.10}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parentheses in each other, so that a hostile text can't overflow the stack.
const DEPTH_MAX: u32 = 32;

struct Sum<'a> {
    letters: &'a [char],
    at: usize,
    depth: u32,
}

impl Sum<'_> {
    fn terms(&mut self) -> Option<f64> {
        let mut value = self.factors()?;
        loop {
            match self.peek() {
                Some('+') => value += self.next(Self::factors)?,
                Some('-') => value -= self.next(Self::factors)?,
                _ => return Some(value),
            }
        }
    }

    fn factors(&mut self) -> Option<f64> {
        let mut value = self.power()?;
        loop {
            match self.peek() {
                Some('*') => value *= self.next(Self::power)?,
                Some('/') => value /= self.next(Self::power)?,
                Some('%') => value %= self.next(Self::power)?,
                _ => return Some(value),
            }
        }
    }

    fn power(&mut self) -> Option<f64> {
        let base = self.atom()?;
        if self.peek() == Some('^') {
            self.deeper(|sum| sum.next(Self::power)).map(|exponent| base.powf(exponent))
        } else {
            Some(base)
        }
    }

    fn atom(&mut self) -> Option<f64> {
        match self.peek()? {
            '-' => self.deeper(|sum| sum.next(Self::power)).map(|value| -value),
            '(' => {
                let value = self.deeper(|sum| sum.next(Self::terms))?;
                (self.peek() == Some(')')).then(|| self.at += 1)?;
                Some(value)
            }
            _ => {
                let from = self.at;
                while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '.') {
                    self.at += 1;
                }
                self.letters[from..self.at].iter().collect::<String>().parse().ok()
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn next(&mut self, read: impl FnOnce(&mut Self) -> Option<f64>) -> Option<f64> {
        self.at += 1;
        read(self)
    }

    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Option<f64>) -> Option<f64> {
        if self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }
}

/// A text of about so many words, for people who want to see a long answer arrive.
pub(super) fn story(topic: &str, words: usize) -> String {
    let openings = [
        "Here is what a practice model can make of {}.",
        "Nobody had planned a day for {}, and yet it came.",
        "It began quietly, with {} at the window and a kettle on the stove.",
        "The neighbours talked about {} for a week.",
        "Somebody wrote {} on a slip of paper and put it into a drawer.",
        "Years later the drawer was opened again, and there was {} still.",
        "Every train that passed seemed to carry a little of {} away and bring a little back.",
        "Whoever counts words knows that {} has more sides than one afternoon can show.",
        "In the evening the lamps were lit, and {} looked quite different in their light.",
        "And so the story goes on, one word after the other, because {} is never quite told.",
    ];
    let mut out = String::new();
    let mut count = 0;
    for (at, sentence) in openings.iter().cycle().enumerate() {
        let sentence = sentence.replace("{}", topic);
        count += sentence.split_whitespace().count();
        out.push_str(&sentence);
        if count >= words {
            break;
        }
        out.push_str(if at % 4 == 3 { "\n\n" } else { " " });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums() {
        for (text, result) in [
            ("What is 17 times 3?", Some("51")),
            ("2+2", Some("4")),
            ("calculate (1 + 2) * 3 - 4 / 8", Some("8.5")),
            ("what's 2 to the power of 10", Some("1024")),
            ("how much is 7 divided by 0?", None),
            ("2026-11-22", None),
            ("what is love?", None),
        ] {
            assert_eq!(sum(&Clause::new(text)).map(|(_, value)| number(value)).as_deref(), result, "{text}");
        }
    }

    #[test]
    fn small_talk() {
        for (text, kind) in [
            ("hey there!", Some(Talk::Hello)),
            ("Thanks a lot", Some(Talk::Thanks)),
            ("so, what can you do for me?", Some(Talk::WhatCanYouDo)),
            ("What's your name?", Some(Talk::WhoAreYou)),
            ("what is my name?", None),
            ("how's it going", Some(Talk::HowAreYou)),
            ("the test of the new engine was a success", None),
        ] {
            assert_eq!(talk(&Clause::new(text)), kind, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_sum_ends(text in "[0-9+*/^%(). -]{0,120}") {
            let _ = sum(&Clause::new(&text));
        }
    }
}
