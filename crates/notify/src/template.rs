//! The texts of our mails: a subject line, an empty line, the body, with `{names}` filled in.
//! Never: a mail with a hole in it, or a second header smuggled in by a value.

use serde_json::Value;

/// A mail that can't be written, whatever the carrier does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Faulty {
    #[error("there is no template of this name")]
    UnknownTemplate,
    #[error("the template needs a value that the message doesn't carry: {0}")]
    Missing(String),
    #[error("a sealed value of the message can't be opened")]
    Unsealable,
}

const TEMPLATES: [(&str, &str); 7] = [
    ("your-bot-is-ready", include_str!("../templates/your-bot-is-ready.txt")),
    ("unusual-use", include_str!("../templates/unusual-use.txt")),
    ("bot-slowed", include_str!("../templates/bot-slowed.txt")),
    ("bot-paused", include_str!("../templates/bot-paused.txt")),
    ("bot-suspended", include_str!("../templates/bot-suspended.txt")),
    ("plan-ended", include_str!("../templates/plan-ended.txt")),
    ("magic-link", include_str!("../templates/magic-link.txt")),
];

/// Subject and text.
pub(crate) fn write(template: &str, data: &Value) -> Result<(String, String), Faulty> {
    let (_, source) = TEMPLATES.iter().find(|(name, _)| *name == template).ok_or(Faulty::UnknownTemplate)?;
    let (head, body) = source.split_once("\n\n").ok_or(Faulty::UnknownTemplate)?;
    let subject = head.strip_prefix("Subject: ").ok_or(Faulty::UnknownTemplate)?;
    let one_line = fill(subject, data)?.replace(char::is_control, " ");
    Ok((one_line, fill(body, data)?))
}

fn fill(source: &str, data: &Value) -> Result<String, Faulty> {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(Faulty::UnknownTemplate)?;
        text.push_str(before);
        match data.get(name) {
            Some(Value::String(value)) => text.push_str(value),
            Some(Value::Number(value)) => text.push_str(&value.to_string()),
            _ => return Err(Faulty::Missing(name.to_owned())),
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_template_can_be_written() {
        let data = json!({
            "bot_name": "Pip {x}\nBcc: all@example.com", "bot_id": "molt-0", "public_url": "https://molt.example",
            "link": "https://molt.example/link#abc", "minutes": 15,
            "reason": "It asked the same 12 times.", "spent": "$1.23", "since": "09:10 UTC on 22 November",
            "ended": "28 November 2026",
        });
        for (name, _) in TEMPLATES {
            let (subject, text) = write(name, &data).unwrap();
            assert!(!subject.contains('\n') && !subject.is_empty(), "{name}");
            assert!(text.contains("https://molt.example/"), "{name}: {text}");
        }
        assert!(write("your-bot-is-ready", &data).unwrap().0.starts_with("Pip {x} Bcc"));
        assert_eq!(write("magic-link", &json!({})), Err(Faulty::Missing("minutes".to_owned())));
        assert_eq!(write("nothing", &data), Err(Faulty::UnknownTemplate));
    }
}
