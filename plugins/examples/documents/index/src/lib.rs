//! Index: keeps an index from the most frequent terms of each document to the documents that have
//! them, and removes a withdrawn document from it.
//!
//! State: `document/<id>/terms` has the document's terms, `term/<term>` the ids of its documents, and
//! `size` the number of documents. Every effect happens once in any order of arrival.
//!
//! Setting: `terms_max`, the number of terms of a document.

use std::collections::{BTreeMap, BTreeSet};

use postrider_stage::{Context, Description, Emit, Event, Failure, Stage, export};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The index stage.
pub struct Index;

export!(Index);

const TERMS_MAX: usize = 5;
/// Shorter words say little about a document.
const TERM_MIN_CHARS: usize = 4;
/// Most documents of a term: a value of the state has a limit.
const DOCUMENTS_MAX: usize = 1_000;

/// What the index knows of a document.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    Indexed {
        terms: Vec<String>,
    },
    /// It was withdrawn, perhaps before it was classified.
    Withdrawn,
}

impl Stage for Index {
    fn describe() -> Description {
        Description::new("index", env!("CARGO_PKG_VERSION"), "Keeps an index of documents by term")
            .consumes(&["document.classified", "document.cancelled"])
            .setting("terms_max", json!({ "type": "string", "description": "Terms of a document" }))
            .emits(&["document.indexed", "document.unindexed"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let key = format!("document/{}/terms", event.subject);
        let entry: Option<Entry> = cx.get(&key)?;
        match event.event_type.as_str() {
            "document.classified" if entry.is_none() => add(cx, &key, event),
            "document.classified" => Ok(vec![]),
            "document.cancelled" => withdraw(cx, &key, entry, &event.subject),
            _ => Err(Failure::unhandled(event)),
        }
    }
}

fn add(cx: &mut Context<'_>, key: &str, event: &Event) -> Result<Vec<Emit>, Failure> {
    let document = event.object()?;
    let Some(text) = document["text"].as_str() else {
        return Err(Failure::reject("bad-data", "`text` must be a string"));
    };
    let terms = terms(text, cx.setting("terms_max")?.unwrap_or(TERMS_MAX));
    for term in &terms {
        change(cx, term, |documents| {
            documents.insert(event.subject.clone());
        })?;
    }
    resize(cx, 1)?;
    let indexed = json!({
        "document_id": document["document_id"], "label": document["label"], "terms": terms,
    });
    cx.set(key, &Entry::Indexed { terms });
    Ok(vec![Emit::json("document.indexed", &indexed)])
}

fn withdraw(
    cx: &mut Context<'_>,
    key: &str,
    entry: Option<Entry>,
    id: &str,
) -> Result<Vec<Emit>, Failure> {
    cx.set(key, &Entry::Withdrawn);
    let Some(Entry::Indexed { terms }) = entry else { return Ok(vec![]) };
    for term in &terms {
        change(cx, term, |documents| {
            documents.remove(id);
        })?;
    }
    resize(cx, -1)?;
    Ok(vec![Emit::json("document.unindexed", &json!({ "document_id": id }))])
}

fn change(
    cx: &mut Context<'_>,
    term: &str,
    change: impl FnOnce(&mut BTreeSet<String>),
) -> Result<(), Failure> {
    let key = format!("term/{term}");
    let mut documents: BTreeSet<String> = cx.get(&key)?.unwrap_or_default();
    change(&mut documents);
    if documents.len() > DOCUMENTS_MAX {
        documents.pop_first();
    }
    if documents.is_empty() {
        cx.remove(&key)
    } else {
        cx.set(&key, &documents)
    }
    Ok(())
}

fn resize(cx: &mut Context<'_>, by: i64) -> Result<(), Failure> {
    let size = cx.get::<i64>("size")?.unwrap_or(0) + by;
    cx.set("size", &size);
    Ok(())
}

/// The most frequent words of a text, most frequent first. Pure.
fn terms(text: &str, max: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for word in text.split(|one: char| !one.is_alphanumeric()) {
        if word.chars().count() >= TERM_MIN_CHARS {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    // Stable: words that are equally frequent stay in the order of the alphabet.
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().take(max).map(|(word, _)| word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;
    use serde_json::Value;

    fn run(host: &mut MemoryHost, event_type: &str, id: &str, text: &str) -> Vec<Emit> {
        let document = json!({ "document_id": id, "label": "report", "text": text });
        host.handle::<Index>(&Event::json(event_type, id, &document)).unwrap()
    }

    fn state(host: &MemoryHost, key: &str) -> Value {
        host.state.get(key).map_or(Value::Null, |bytes| serde_json::from_slice(bytes).unwrap())
    }

    #[test]
    fn terms_are_the_most_frequent_words_in_any_case() {
        assert_eq!(
            terms("The tax, the TAXES: taxes and Fees; fees of a fée", 2),
            ["fees", "taxes"]
        );
        assert_eq!(terms("a an the", 5), Vec::<String>::new());
    }

    #[test]
    fn documents_join_the_index_once_and_leave_it() {
        let mut host = MemoryHost::default();
        let emitted = run(&mut host, "document.classified", "d-1", "annual report");
        assert_eq!(emitted[0].event_type, "document.indexed");
        assert_eq!(emitted[0].value()["terms"], json!(["annual", "report"]));
        assert!(run(&mut host, "document.classified", "d-1", "annual report").is_empty());
        run(&mut host, "document.classified", "d-2", "weekly report");
        assert_eq!(state(&host, "term/report"), json!(["d-1", "d-2"]));
        assert_eq!(state(&host, "size"), 2);

        let emitted = run(&mut host, "document.cancelled", "d-1", "");
        assert_eq!(emitted[0].event_type, "document.unindexed");
        assert!(run(&mut host, "document.cancelled", "d-1", "").is_empty());
        assert_eq!(state(&host, "term/report"), json!(["d-2"]));
        assert_eq!(state(&host, "term/annual"), Value::Null);
        assert_eq!(state(&host, "size"), 1);
    }

    #[test]
    fn a_document_that_is_withdrawn_first_is_never_indexed() {
        let mut host = MemoryHost::default();
        assert!(run(&mut host, "document.cancelled", "d-1", "").is_empty());
        assert!(run(&mut host, "document.classified", "d-1", "annual report").is_empty());
        assert_eq!(state(&host, "size"), Value::Null);
    }
}
