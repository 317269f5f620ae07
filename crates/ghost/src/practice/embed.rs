//! The practice embedding: words hashed into a vector, so that texts about the same things point the same way.
//! Never: random numbers, or a vector without a direction.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::words::topics;
use crate::answer::Refusal;
use crate::usage::estimate;

const DIMENSIONS: usize = 256;
const DIMENSIONS_MAX: usize = 2_048;
/// As OpenAI's own limit.
const INPUTS_MAX: usize = 2_048;
/// A word's parts count less than the word, but bring different endings together.
const PART_WEIGHT: f32 = 0.25;
const PART_LETTERS: usize = 3;
/// Words without a topic still tell texts apart that have nothing else.
const PLAIN_WEIGHT: f32 = 0.05;

/// The answer to `POST /v1/embeddings`. Usage: one token for every four bytes of the request, rounded up.
pub(super) fn answer(request: &Value, body_bytes: usize) -> Result<Value, Refusal> {
    let texts = inputs(request.get("input"))?;
    let wanted = request.get("dimensions").filter(|value| !value.is_null());
    let dimensions = match wanted.map(|value| value.as_u64().and_then(|number| usize::try_from(number).ok())) {
        None => DIMENSIONS,
        Some(Some(number @ 1..=DIMENSIONS_MAX)) => number,
        Some(_) => {
            let message = format!("dimensions must be a whole number from 1 to {DIMENSIONS_MAX}.");
            return Err(Refusal::invalid("dimensions_invalid", message));
        }
    };
    let packed = request.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text, dimensions);
            let embedding = if packed { pack(&vector) } else { json!(vector) };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let tokens = estimate(body_bytes);
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(json!({ "object": "list", "data": data, "model": request.get("model"), "usage": usage }))
}

/// How near two texts are: the cosine, from -1 to 1.
pub(super) fn closeness(one: &str, other: &str) -> f32 {
    vector(one, DIMENSIONS).iter().zip(vector(other, DIMENSIONS)).map(|(a, b)| a * b).sum()
}

fn inputs(input: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let wrong = || Refusal::invalid("input_invalid", "input must be a text, a list of texts, or lists of tokens.");
    // Tokens of somebody else's vocabulary have no words; each counts as one.
    let of_tokens = |tokens: &[Value]| {
        let numbers: Option<Vec<String>> =
            tokens.iter().map(|token| token.as_u64().map(|number| format!("t{number}"))).collect();
        numbers.map(|numbers| numbers.join(" "))
    };
    let texts = match input {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) if items.is_empty() => return Err(wrong()),
        Some(Value::Array(items)) if items[0].is_u64() => vec![of_tokens(items).ok_or_else(wrong)?],
        Some(Value::Array(items)) => {
            let text = |item: &Value| item.as_str().map(str::to_owned).or_else(|| of_tokens(item.as_array()?));
            items.iter().map(text).collect::<Option<_>>().ok_or_else(wrong)?
        }
        _ => return Err(wrong()),
    };
    if texts.len() > INPUTS_MAX {
        return Err(Refusal::invalid("too_many_inputs", format!("At most {INPUTS_MAX} inputs in one call.")));
    }
    Ok(texts)
}

/// A vector of length one.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0f32; dimensions];
    for topic in topics(text) {
        add(&mut vector, &format!("topic {topic}"), 1.0);
        let letters: Vec<char> = topic.chars().collect();
        let parts = letters.windows(PART_LETTERS);
        let count = parts.len().max(1);
        for part in parts {
            #[expect(clippy::cast_precision_loss, reason = "a word has few letters")]
            add(&mut vector, &format!("part {}", part.iter().collect::<String>()), PART_WEIGHT / (count as f32).sqrt());
        }
    }
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        add(&mut vector, &format!("word {word}"), PLAIN_WEIGHT);
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length < f32::EPSILON {
        vector[0] = 1.0;
        return vector;
    }
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// Each feature has a place and a sign of its own, so that features which share a place cancel out on average.
fn add(vector: &mut [f32], feature: &str, weight: f32) {
    let hash = Sha256::digest(feature.as_bytes());
    let place = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize % vector.len();
    vector[place] += if hash[4] & 1 == 0 { weight } else { -weight };
}

fn pack(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_is_near_and_far_is_far() {
        for (near, middle, far) in [
            ("trains", "I like trains", "the password is on the fridge"),
            ("when is my sister's birthday?", "my sister's birthday is 4 May", "I like trains"),
            ("favourite hobby", "I enjoy sailing", "my car is red"),
        ] {
            let (close, distant) = (closeness(near, middle), closeness(near, far));
            assert!(close > 0.35 && distant < close / 2.0, "{near}: {close} {distant}");
        }
    }

    #[test]
    fn the_wire_shapes_hold() {
        let list = answer(&json!({ "input": ["a", "b"], "dimensions": 8 }), 40).unwrap();
        assert_eq!(list["data"][1]["embedding"].as_array().unwrap().len(), 8);
        assert_eq!(list["usage"], json!({ "prompt_tokens": 10, "total_tokens": 10 }));
        let packed = answer(&json!({ "input": "I like trains", "encoding_format": "base64" }), 1).unwrap();
        let bytes = STANDARD.decode(packed["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let floats: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(floats, vector("I like trains", DIMENSIONS));
        assert!(
            answer(&json!({ "input": [[1, 2], [3]] }), 1).is_ok() && answer(&json!({ "input": [1, 2] }), 1).is_ok()
        );
        for wrong in
            [json!({}), json!({ "input": 3 }), json!({ "input": [] }), json!({ "input": "a", "dimensions": 0 })]
        {
            assert_eq!(answer(&wrong, 1).unwrap_err().status, 400, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_vector_has_length_one(text in "\\PC{0,60}", dimensions in 1usize..600) {
            let length: f32 = vector(&text, dimensions).iter().map(|x| x * x).sum();
            prop_assert!((length - 1.0).abs() < 1e-3);
        }
    }
}
