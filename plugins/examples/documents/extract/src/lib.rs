//! Extract: turns an uploaded document into text, or rejects one that has none.
//!
//! It has no state: the text travels on in `document.extracted`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider_stage::{Context, Description, Emit, Event, Failure, Stage, export};
use serde_json::{Value, json};

/// The extract stage.
pub struct Extract;

export!(Extract);

/// Media types whose content is text as it is.
const TEXT_TYPES: [&str; 4] = ["text/plain", "text/markdown", "text/csv", "application/json"];

impl Stage for Extract {
    fn describe() -> Description {
        Description::new("extract", env!("CARGO_PKG_VERSION"), "Turns uploaded documents into text")
            .consumes(&["document.uploaded"])
            .emits(&["document.extracted", "document.rejected"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let mut document = event.object()?;
        if document["force_fail"] == true {
            return Err(Failure::retry(
                "simulated-failure",
                "the document requests a failure (`force_fail`)",
            ));
        }
        let id = document["document_id"].clone();
        let text = match text(&document) {
            Ok(text) => text,
            Err(reason) => {
                cx.info(&format!("document {} is rejected: {reason}", event.subject));
                let rejected = json!({ "document_id": id, "reason": reason });
                return Ok(vec![Emit::json("document.rejected", &rejected)]);
            }
        };
        for field in ["content", "content_base64"] {
            document.as_object_mut().and_then(|fields| fields.remove(field));
        }
        document["words"] = json!(text.split_whitespace().count());
        document["text"] = json!(text);
        Ok(vec![Emit::json("document.extracted", &document)])
    }
}

/// The text of a document, or why it has none.
fn text(document: &Value) -> Result<String, String> {
    let media_type = document["media_type"].as_str().unwrap_or("text/plain");
    if !TEXT_TYPES.contains(&media_type) {
        return Err(format!(
            "`{media_type}` cannot be read: send one of {}",
            TEXT_TYPES.join(", ")
        ));
    }
    let text = match (&document["content"], &document["content_base64"]) {
        (Value::String(text), Value::Null) => text.clone(),
        (Value::Null, Value::String(encoded)) => decode(encoded)?,
        _ => return Err("give either `content` or `content_base64`, as a string".to_owned()),
    };
    if text.trim().is_empty() {
        return Err("the document is empty".to_owned());
    }
    Ok(text)
}

fn decode(encoded: &str) -> Result<String, String> {
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|error| format!("`content_base64` is not Base64: {error}"))?;
    String::from_utf8(bytes).map_err(|error| format!("the content is not UTF-8: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;

    fn extract(document: &Value) -> Emit {
        let event = Event::json("document.uploaded", "d-1", document);
        MemoryHost::default().handle::<Extract>(&event).unwrap().remove(0)
    }

    #[test]
    fn the_content_becomes_text_and_other_fields_travel_on() {
        for content in [
            json!({ "content": "Hello, wörld" }),
            json!({ "content_base64": "SGVsbG8sIHfDtnJsZA==", "media_type": "text/markdown" }),
        ] {
            let mut document = json!({ "document_id": "d-1", "owner": "42" });
            document.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
            let emitted = extract(&document);
            let value = emitted.value();
            assert_eq!(emitted.event_type, "document.extracted");
            assert_eq!(value["text"], "Hello, wörld");
            assert_eq!((&value["words"], &value["owner"]), (&json!(2), &json!("42")));
            assert!(value.get("content").is_none() && value.get("content_base64").is_none());
        }
    }

    #[test]
    fn a_document_without_text_is_rejected_with_the_reason() {
        for (document, reason) in [
            (json!({ "content": " \n" }), "empty"),
            (json!({ "content": "x", "media_type": "image/png" }), "`image/png`"),
            (json!({ "content_base64": "%" }), "Base64"),
            (json!({ "content_base64": "/w==" }), "UTF-8"),
            (json!({ "content": 7 }), "as a string"),
            (json!({ "content": "x", "content_base64": "eA==" }), "either"),
            (json!({}), "either"),
        ] {
            let emitted = extract(&document);
            assert_eq!(emitted.event_type, "document.rejected");
            let given = emitted.value()["reason"].as_str().unwrap().to_owned();
            assert!(given.contains(reason), "{document}: {given}");
        }
    }
}
