//! Whole conversations with the practice model, against the tools that the runtime really offers and a real folder.
//! Never: a phrasing here that the rules spell out; these are other people's words.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::speak::Answer;
use super::think;

/// A request of the real runtime; tests/recorded/ORIGIN.md says where it comes from.
const RECORDED: &str = include_str!("../../tests/recorded/openclaw-2026.9.6-chat.json");
const CALLS_MAX: usize = 20;

/// A runtime in miniature: the recorded request, a conversation, and tools that work in a folder.
struct Runtime {
    folder: PathBuf,
    request: Value,
    /// What memory search finds: lines of the memory file, as the real one gives them.
    indexed: bool,
    called: Vec<String>,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Runtime {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("molt-practice-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut runtime = Self { folder, request: Value::Null, indexed: true, called: Vec::new() };
        runtime.forget();
        runtime
    }

    /// A new conversation: only the system's instructions are left.
    fn forget(&mut self) {
        self.request = serde_json::from_str(RECORDED).unwrap();
        self.request["messages"].as_array_mut().unwrap().truncate(1);
    }

    fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.folder.join(path)).unwrap_or_default()
    }

    /// Says something and lets the model work until it answers.
    fn say(&mut self, words: &str) -> String {
        let note =
            "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nActive exec sessions: none\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>";
        let user = format!("[Sun 2026-11-22 12:30 GMT+1] {words}\n\nRuntime: name=Pip | agent=main | os=Linux");
        self.push(json!({ "role": "user", "content": user }));
        self.called.clear();
        for _ in 0..CALLS_MAX {
            let mut asked = self.request.clone();
            asked["messages"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "role": "user", "content": [{ "type": "text", "text": note }] }));
            let answer = think(&asked);
            assert_eq!(answer.finish(), think(&asked).finish(), "two equal requests, two answers");
            let Some(call) = answer.call else {
                assert!(answer.text.to_lowercase().contains("practice model"), "{}", answer.text);
                self.push(json!({ "role": "assistant", "content": answer.text }));
                return answer.text;
            };
            let result = self.tool(&call.tool, &call.arguments);
            let arguments = call.arguments.to_string();
            self.push(json!({ "role": "assistant", "content": null, "tool_calls": [
                { "id": "call1", "type": "function", "function": { "name": call.tool, "arguments": arguments } }] }));
            self.push(json!({ "role": "tool", "tool_call_id": "call1", "content": result }));
        }
        panic!("no answer after {CALLS_MAX} calls: {words}");
    }

    fn push(&mut self, message: Value) {
        self.request["messages"].as_array_mut().unwrap().push(message);
    }

    fn tool(&mut self, name: &str, arguments: &Value) -> String {
        let text = |name: &str| arguments[name].as_str().unwrap_or_else(|| panic!("{name} in {arguments}")).to_owned();
        self.called.push(if name == "tool_call" { text("id") } else { name.to_owned() });
        match name {
            "read" => match std::fs::read_to_string(self.folder.join(text("path"))) {
                Ok(content) => content,
                Err(_) => format!("Optional file not found: {}.", text("path")),
            },
            "write" => {
                let path = self.folder.join(text("path"));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text("content")).unwrap();
                format!("Successfully wrote {} bytes to {}", text("content").len(), text("path"))
            }
            "edit" => self.edit(&text("path"), &arguments["edits"][0]),
            "exec" => run(&self.folder, &text("command")),
            "ls" => run(&self.folder, "ls -1p"),
            "tool_call" => self.deferred(&text("id"), &arguments["args"]),
            other => panic!("the model called {other} with {arguments}"),
        }
    }

    fn edit(&self, path: &str, edit: &Value) -> String {
        let (old, new) = (edit["oldText"].as_str().unwrap(), edit["newText"].as_str().unwrap());
        let content = self.file(path);
        if content.matches(old).count() != 1 {
            return format!("Error: oldText not found exactly once in {path}");
        }
        std::fs::write(self.folder.join(path), content.replace(old, new)).unwrap();
        format!("Edited {path}")
    }

    fn deferred(&self, id: &str, arguments: &Value) -> String {
        let inner = match id {
            "memory_search" => {
                assert!(arguments["query"].is_string());
                let memory = self.file("MEMORY.md");
                let hit = json!({ "path": "MEMORY.md", "startLine": 1, "snippet": format!("{memory}\nSource: MEMORY.md#L1"), "score": 0.5 });
                let results = if self.indexed && !memory.is_empty() { json!([hit]) } else { json!([]) };
                json!({ "results": results, "provider": "openai-compatible", "debug": { "hits": 1 } }).to_string()
            }
            "web_fetch" => format!("Fetched {}: Example Domain", arguments["url"].as_str().unwrap()),
            "web_search" => format!("Results for {}", arguments["query"].as_str().unwrap()),
            other => panic!("the model called {other}"),
        };
        json!({ "tool": { "id": id, "name": id }, "result": { "content": [{ "type": "text", "text": inner }] } })
            .to_string()
    }
}

impl Answer {
    fn finish(&self) -> String {
        format!("{self:?}")
    }
}

fn run(folder: &Path, command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).current_dir(folder).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.trim().is_empty() { "(no output)".to_owned() } else { text }
}

/// What somebody says, what of it must be kept, what they ask in another conversation, and what the answer must hold.
const TOLD_AND_ASKED: &[(&str, &str, &str, &str)] = &[
    ("remember that I like trains", "I like trains", "what do I like?", "trains"),
    ("please keep in mind my sister's birthday is 4 May", "4 May", "When is my sister's birthday?", "4 May"),
    ("don't forget: the wifi password is on the fridge", "fridge", "where is the wifi password written?", "fridge"),
    (
        "Hey Pip, would you mind making a note that my locker combination is 12-34-56?",
        "12-34-56",
        "What was my locker combination again?",
        "12-34-56",
    ),
    (
        "I'm allergic to shellfish, so please bear that in mind.",
        "shellfish",
        "Is there any food I'm allergic to?",
        "shellfish",
    ),
    (
        "Quick thing to store in your memory: the spare key is under the blue flowerpot.",
        "blue flowerpot",
        "Tell me where the spare key is",
        "blue flowerpot",
    ),
    ("My favourite composer is Debussy.", "Debussy", "Which composer do I prefer?", "Debussy"),
    (
        "Can you memorize this for me: our team meets on Thursdays at ten",
        "Thursdays",
        "On which day does our team meet?",
        "Thursdays",
    ),
    ("Never let me forget that Marta's husband is called Olek!", "Olek", "what's the name of Marta's husband", "Olek"),
    (
        "It's important that you know my blood type is O negative. Please remember it.",
        "O negative",
        "do you remember my blood type?",
        "O negative",
    ),
    (
        "for later: dentist appointment on 3 December at 15:00 — note it down",
        "3 December",
        "When do I have to go to the dentist?",
        "3 December",
    ),
    ("Could you write down that the car needs new tyres in spring?", "tyres", "What does the car need?", "tyres"),
    ("Please add to your memory that Lena hates coriander", "coriander", "What does Lena hate?", "coriander"),
    ("I'd like you to remember my flight number: LH 1234", "LH 1234", "what is my flight number?", "LH 1234"),
    ("remember, the meeting room code is 9981", "9981", "Do you know the code for the meeting room?", "9981"),
    ("Commit to memory: grandma's phone number ends in 77", "77", "how does grandma's phone number end?", "77"),
];

#[test]
fn what_is_told_is_written_down_and_found_again_in_another_conversation() {
    let mut wrong = Vec::new();
    for (told, fact, question, answer) in TOLD_AND_ASKED {
        for indexed in [true, false] {
            let mut runtime = Runtime::new();
            runtime.indexed = indexed;
            std::fs::write(runtime.folder.join("MEMORY.md"), "# Old\n\n- The user told me: I collect stamps\n")
                .unwrap();
            let noted = runtime.say(told);
            let memory = runtime.file("MEMORY.md");
            runtime.forget();
            let found = runtime.say(question);
            let kept = memory.contains(fact) && memory.contains("I collect stamps") && noted.contains(fact);
            if !kept || !found.contains(answer) || runtime.called[0] != "memory_search" {
                wrong.push(format!("{told}\n  {noted:?}\n{question}\n  {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_written_read_changed_and_removed_as_asked() {
    for (words, path, content) in [
        ("create a file todo.txt with buy milk", "todo.txt", "buy milk\n"),
        ("Please make a new file called notes.md containing \"hello world\".", "notes.md", "hello world\n"),
        ("Could you save the sentence \"the sky is clear\" to weather.txt?", "weather.txt", "the sky is clear\n"),
        ("I need a file named plan.md that says: first sleep, then code", "plan.md", "first sleep, then code\n"),
        ("write 42 into data/answer.txt", "data/answer.txt", "42\n"),
        ("Put the text 'keep calm' into a file called mood.txt please", "mood.txt", "keep calm\n"),
        (
            "Make poem.txt with these two lines:\n```\nroses are red\nviolets are blue\n```",
            "poem.txt",
            "roses are red\nviolets are blue\n",
        ),
        (
            "Create groceries.md with a shopping list of eggs, flour and butter",
            "groceries.md",
            "- eggs\n- flour\n- butter\n",
        ),
        ("Generate an empty file named blank.txt", "blank.txt", ""),
        (
            "I'd like a file called ideas.md with three bullet points: sail, paint, sleep",
            "ideas.md",
            "- sail\n- paint\n- sleep\n",
        ),
        ("Make a document report.md. It should say all is well.", "report.md", "all is well\n"),
        ("create notes/today.md and write met with Ana in it", "notes/today.md", "met with Ana\n"),
        ("Please write a script hi.py that prints good evening", "hi.py", "print(\"good evening\")\n"),
        ("hi! can you create hello.py with print('hi')", "hello.py", "print('hi')\n"),
    ] {
        let mut runtime = Runtime::new();
        let said = runtime.say(words);
        assert_eq!(runtime.file(path), content, "{words}: {said}");
        assert!(runtime.folder.join(path).exists());
    }
    let mut runtime = Runtime::new();
    std::fs::write(runtime.folder.join("todo.txt"), "buy milk\nfeed cat\n").unwrap();
    for words in [
        "what's in todo.txt",
        "Show me the contents of todo.txt",
        "Could you open todo.txt for me?",
        "what does the file todo.txt say?",
    ] {
        assert!(runtime.say(words).contains("feed cat"), "{words}");
    }
    assert!(runtime.say("add call mum to todo.txt").contains("call mum"));
    assert_eq!(runtime.file("todo.txt"), "buy milk\nfeed cat\ncall mum\n");
    assert!(runtime.say("In todo.txt, replace milk with oat milk").contains("oat milk"));
    assert!(runtime.say("please change \"feed cat\" to \"feed the dog\" in todo.txt.").contains("feed the dog"));
    assert_eq!(runtime.file("todo.txt"), "buy oat milk\nfeed the dog\ncall mum\n");
    assert!(runtime.say("replace bananas by apples in todo.txt").contains("That didn't work"));
    assert!(runtime.say("Read me shopping.txt").contains("no file"));
    runtime.say("Please delete todo.txt");
    assert!(!runtime.folder.join("todo.txt").exists());
    let twice = runtime.say("Create a.txt with one and then read it back to me");
    assert_eq!(runtime.called, ["write", "read"], "{twice}");
}

#[test]
fn commands_and_questions_about_the_machine_are_answered_by_running_something() {
    let mut runtime = Runtime::new();
    for name in ["a.txt", "b.txt", "c.txt"] {
        std::fs::write(runtime.folder.join(name), "x").unwrap();
    }
    std::fs::create_dir(runtime.folder.join("sub")).unwrap();
    for (words, wanted) in [
        ("run uname -a", "Linux"),
        ("Would you execute `echo hello | tr a-z A-Z` for me?", "HELLO"),
        ("how many files are here", "3 files"),
        ("Count the files in this folder, please.", "3 files"),
        ("Which files are in your workspace?", "b.txt"),
        ("run the command expr 6 \\* 7 and tell me the result", "42"),
        ("In what directory are you working right now?", "molt-practice-"),
        ("what operating system is this?", "Linux"),
        ("Run `false` and tell me what it says", "printed nothing"),
        ("what is 12 * 12?", "144"),
        ("Could you make a directory named photos?", "photos"),
        ("How many folders do you see here?", "2 folders"),
    ] {
        let said = runtime.say(words);
        assert!(said.contains(wanted), "{words}: {said}");
    }
}

#[test]
fn talk_is_honest_and_needs_no_tool() {
    let mut runtime = Runtime::new();
    for (words, wanted) in [
        ("Hello there", "Pip"),
        ("Hi! What can you help me with?", "Run uname"),
        ("Are you a real AI?", "practice model"),
        ("thank you very much", "welcome"),
        ("Explain quantum chromodynamics to my grandmother", "practice model"),
        ("Tell me a story about lighthouses", "lighthouses"),
    ] {
        let said = runtime.say(words);
        assert!(said.contains(wanted) && runtime.called.is_empty(), "{words}: {said} {:?}", runtime.called);
    }
    let said = runtime.say("Who invented the zip fastener?");
    assert!(said.contains("found nothing"), "{said}");
    assert!(runtime.say("What does https://example.com/x say?").contains("Fetched https://example.com/x"));
    assert!(runtime.say("search the web for rust async traits").contains("rust async traits"));
}

#[test]
fn thinking_shows_only_when_it_is_asked_for() {
    let mut request: Value = serde_json::from_str(RECORDED).unwrap();
    assert_eq!(think(&request).reasoning, "");
    request["reasoning_effort"] = "high".into();
    assert!(!think(&request).reasoning.is_empty());
    request["reasoning_effort"] = "none".into();
    request["messages"][1]["content"] = "Think out loud and create x.txt with abc".into();
    let answer = think(&request);
    assert!(answer.reasoning.contains("x.txt"));
    assert_eq!(answer.call.unwrap().arguments, json!({ "path": "x.txt", "content": "abc\n" }));
}

#[test]
fn a_demanded_tool_is_called_and_a_forbidden_one_is_not() {
    let text = json!({ "type": "string" });
    let tool = json!({ "type": "function", "function": { "name": "get_weather", "parameters":
        { "type": "object", "properties": { "city": text, "unit": { "enum": ["c", "f"] } }, "required": ["city", "unit"] } } });
    let mut request = json!({ "messages": [{ "role": "user", "content": "Lisbon" }], "tools": [tool],
        "tool_choice": { "type": "function", "function": { "name": "get_weather" } } });
    assert_eq!(think(&request).call.unwrap().arguments, json!({ "city": "Lisbon", "unit": "c" }));
    request["tool_choice"] = "required".into();
    assert_eq!(think(&request).call.unwrap().tool, "get_weather");
    request["tool_choice"] = "none".into();
    assert_eq!(think(&request).call, None);
}

mod any_request {
    use super::*;
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let words = "(remember|create|a.txt|with|run|`|\"|what|is|my|in|and then|\\.|\\?|:|2\\+2|file|é|\n| ){0,14}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            words.prop_map(Value::from),
            "\\PC{0,30}".prop_map(Value::from),
        ];
        let names = prop_oneof![
            Just("role"),
            Just("content"),
            Just("tool_calls"),
            Just("function"),
            Just("name"),
            Just("arguments"),
            Just("text"),
            Just("parameters"),
            Just("properties"),
            Just("required"),
            Just("path"),
            Just("messages"),
            Just("tools"),
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((names.clone(), inner), 0..4).prop_map(|fields| fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn is_answered_without_a_panic(messages in any_json(), tools in any_json(), choice in any_json(), limit in any_json()) {
            let _ = think(&json!({ "messages": messages, "tools": tools, "tool_choice": choice, "max_tokens": limit }));
        }

        #[test]
        fn in_any_words_is_answered(words in "(please |remember |that |create |a\\.txt |with |run |`|\"|'|what |is |my |in |and then |\\. |\\?|: |2\\+2|file |\u{e9}|replace |to |delete |think aloud |\n|,|\\PC){0,16}") {
            let mut request: Value = serde_json::from_str(RECORDED).unwrap();
            request["messages"][1]["content"] = words.into();
            let answer = think(&request);
            prop_assert!(answer.call.is_some() || !answer.text.is_empty());
        }
    }
}
