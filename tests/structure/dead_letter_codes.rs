//! `docs/dead-letters.md` lists every code that the host and the Rust SDK give to a dead letter.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::support::harness::root;

/// What stands before a code in the source, and what the host puts before it.
const PLACES: [(&str, &str); 7] = [
    ("AttemptError::fatal(", ""),
    ("dead_letter(inputs,", ""),
    ("_CODE: &str =", ""),
    ("SECRET_LEAK: &str =", ""),
    ("Failure::reject(", ""),
    ("Self::reject(", ""),
    ("kind: ", "trap:"),
];

/// The string literal at the beginning of a text, after white space.
fn literal(text: &str) -> Option<&str> {
    let rest = text.trim_start().strip_prefix('"')?;
    rest.split_once('"').map(|(literal, _)| literal)
}

fn is_code(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte == b'-' || byte == b':';
    !text.is_empty() && text.bytes().all(known)
}

fn codes_in(source: &str, codes: &mut BTreeSet<String>) {
    // Unit tests make up codes.
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source);
    // So do the examples in comments.
    let is_code_line = |line: &&str| !line.trim_start().starts_with("//");
    let source = &source.lines().filter(is_code_line).collect::<Vec<_>>().join("\n");
    for (place, prefix) in PLACES {
        for (at, _) in source.match_indices(place) {
            let code = literal(&source[at + place.len()..]).filter(|code| is_code(code));
            codes.extend(code.map(|code| format!("{prefix}{code}")));
        }
    }
    // `Trap::StackOverflow => "stack-overflow"`
    for (at, _) in source.match_indices("Trap::") {
        let arm = source[at..].split_once(" => ").filter(|(pattern, _)| !pattern.contains('\n'));
        let code = arm.and_then(|(_, value)| literal(value)).filter(|code| is_code(code));
        codes.extend(code.map(|code| format!("trap:{code}")));
    }
    let limits = source.match_indices("\"limit:").filter_map(|(at, _)| literal(&source[at..]));
    codes.extend(limits.filter(|code| is_code(code)).map(str::to_owned));
}

fn collect(folder: &Path, codes: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" && name != "fuzz" {
                collect(&path, codes)?;
            }
        } else if path.extension().is_some_and(|end| end == "rs")
            && !["tests.rs", "conformance.rs", "testing.rs"].contains(&name.as_str())
        {
            codes_in(&std::fs::read_to_string(&path)?, codes);
        }
    }
    Ok(())
}

#[test]
fn every_code_of_a_dead_letter_is_documented() -> Result<()> {
    let mut codes = BTreeSet::new();
    collect(&root().join("host/src"), &mut codes)?;
    collect(&root().join("sdk/rust/src"), &mut codes)?;
    for known in ["expired", "hop-limit", "limit:memory", "trap:timeout", "trap:stack-overflow"] {
        ensure!(codes.contains(known), "the search misses `{known}`: {codes:?}");
    }
    let docs = std::fs::read_to_string(root().join("docs/dead-letters.md"))?;
    let missing: Vec<&String> =
        codes.iter().filter(|code| !docs.contains(&format!("`{code}`"))).collect();
    ensure!(missing.is_empty(), "docs/dead-letters.md does not explain {missing:?}");
    Ok(())
}
