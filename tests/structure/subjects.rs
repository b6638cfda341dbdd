//! The rooms that serve every kind of subjects do not name one: `order` as a business word is found
//! only in the adapter of orders.
//!
//! Tests and examples in documentation may use orders as their sample kind, and text about sequence
//! (`in order`, `ORDER BY`) is something else.

use std::path::{Path, PathBuf};

use crate::support::harness::root;

/// The rooms, below `host/src`.
const ROOMS: [&str; 5] = ["domain", "store", "worker", "broker", "app"];
/// The adapter of orders.
const ADAPTER: &str = "domain/body_shape/order.rs";

/// A line that may name orders, and why.
struct Exception {
    path: &'static str,
    text: &'static str,
    why: &'static str,
}

const EXCEPTIONS: [Exception; 8] = [
    Exception {
        path: "domain/body_shape.rs",
        text: "Order",
        why: "the shape that the adapter implements",
    },
    Exception { path: "domain/body_shape.rs", text: "order::", why: "the adapter" },
    Exception { path: "domain/body_shape.rs", text: "mod order;", why: "the adapter" },
    Exception { path: "domain/subject.rs", text: "such as `order/123`", why: "an example" },
    Exception {
        path: "domain/cloud_events/ingress.rs",
        text: "namespace: \"orders\"",
        why: "the default namespace, in rules for tests",
    },
    Exception {
        path: "domain/cloud_events/ingress.rs",
        text: "source: \"/orders/events\"",
        why: "the default namespace, in rules for tests",
    },
    Exception { path: "domain/name.rs", text: "\"orders\"", why: "the default namespace" },
    Exception {
        path: "app/products.rs",
        text: "stocked or ordered",
        why: "the state of a product",
    },
];

/// Phrases about sequence, in lower case.
const SEQUENCE: [&str; 12] = [
    "order by",
    "byte order",
    "in order",
    "the order of",
    "the order in",
    "their order",
    "that order",
    "this order, so",
    "any order",
    "whatever order",
    "in one order",
    "same order",
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The part of a file that is not a test.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

fn names_orders(line: &str) -> bool {
    let mut lower = line.to_lowercase();
    for phrase in SEQUENCE {
        lower = lower.replace(phrase, "");
    }
    let words = lower.split(|one: char| !one.is_ascii_alphabetic());
    words.into_iter().any(|word| matches!(word, "order" | "orders"))
        || line.contains("Order") && !line.contains("Ordering") && !line.contains("Unordered")
}

#[test]
fn only_the_adapter_names_orders() {
    let source = root().join("host/src");
    let mut paths = Vec::new();
    for room in ROOMS {
        files(&source.join(room), &mut paths);
        paths.push(source.join(format!("{room}.rs")));
    }
    let mut found = Vec::new();
    for path in paths {
        let place = path.strip_prefix(&source).expect("below").to_string_lossy().into_owned();
        let is_test =
            ["/tests.rs", "/tests/", "/conformance"].iter().any(|part| place.contains(part));
        if place == ADAPTER || is_test || place.ends_with("fuzz.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in without_tests(&text).lines().enumerate() {
            // Examples in documentation, and examples of events and keys.
            let is_example =
                line.trim_start().starts_with("///") || line.trim_start().starts_with("//!");
            let excepted = EXCEPTIONS
                .iter()
                .any(|one| place == one.path && line.contains(one.text) && !one.why.is_empty());
            if !is_example && !excepted && names_orders(line) {
                found.push(format!("{place}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "orders are named outside of their adapter:\n{}", found.join("\n"));
}

#[test]
fn the_word_is_told_from_sequence() {
    for line in ["let order = 1;", "// an order's events", "fn accept_order()", "enum NewOrder {}"]
    {
        assert!(names_orders(line), "{line}");
    }
    for line in ["SELECT 1 ORDER BY seq", "// in the order of the keys", "use Ordering;", "border"]
    {
        assert!(!names_orders(line), "{line}");
    }
}
