//! Generated texts and bodies: valid ones, and ones with a fault in one place.

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::one_of;

/// Texts that break readers.
const ODD: [&str; 16] = [
    "",
    " ",
    ".",
    "..",
    "%00",
    "a/b",
    "ä€🎁",
    "\"quoted\"",
    "a\nb",
    "\u{feff}x",
    "' OR 1=1 --",
    "../../etc/passwd",
    "null",
    "1e400",
    "\u{202e}txt",
    "postrider.x",
];

/// A text that is valid in most places, or an odd one.
pub(super) fn text(rng: &mut StdRng, valid: &str) -> String {
    match rng.random_range(0..20) {
        0 => (*one_of(rng, &ODD)).to_owned(),
        1 => "x".repeat(rng.random_range(200..3_000)),
        _ => valid.to_owned(),
    }
}

fn quantity(rng: &mut StdRng) -> Value {
    match rng.random_range(0..12) {
        0 => json!(0),
        1 => json!(-1),
        2 => json!(2.5),
        3 => json!("2"),
        4 => json!(u64::MAX),
        5 => json!([]),
        _ => json!(rng.random_range(1..5)),
    }
}

fn amount(rng: &mut StdRng) -> Value {
    match rng.random_range(0..12) {
        0 => json!(-1),
        1 => json!(1e308),
        2 => json!("20"),
        3 => json!({}),
        4 => json!(0),
        _ => json!(f64::from(rng.random_range(1..10_000)) / 100.0),
    }
}

/// An order, with a fault here and there.
pub(super) fn order(rng: &mut StdRng, id: &str) -> Value {
    let item = json!({ "sku": text(rng, "Book"), "quantity": quantity(rng) });
    let mut order = json!({ "order_id": text(rng, id), "total": amount(rng), "items": [item] });
    let (name, value) = match rng.random_range(0..14) {
        0 => ("items", json!(["Book", 7])),
        1 => ("items", json!({})),
        2 => ("user_id", json!(text(rng, "42"))),
        3 => ("customer_id", json!([1])),
        4 => ("note", json!(*one_of(rng, &ODD))),
        5 => ("force_fail", json!(true)),
        6 => ("decline", json!(true)),
        7 => ("product_id", json!(1)),
        _ => return order,
    };
    order[name] = value;
    order
}

/// The bytes of a document, mostly as they should be.
pub(super) fn bytes(rng: &mut StdRng, document: &Value) -> Vec<u8> {
    let mut bytes = document.to_string().into_bytes();
    match rng.random_range(0..24) {
        0 => bytes.truncate(rng.random_range(0..bytes.len())),
        1 => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        2 => bytes.clear(),
        3 => bytes.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
        4 => bytes = format!("{}{}", "[".repeat(500), "]".repeat(500)).into_bytes(),
        5 => bytes = format!("[{}]", vec!["0"; 150_000].join(",")).into_bytes(),
        6 => bytes = (0..rng.random_range(0..300)).map(|_| rng.random()).collect(),
        7 => bytes = br#"{"total":1,"items":["a"],"total":2}"#.to_vec(),
        8 => bytes = br#"{"total":123456789012345678901234567890.10,"items":["a"]}"#.to_vec(),
        9 => bytes = b"[1,2,3]".to_vec(),
        _ => {}
    }
    bytes
}
