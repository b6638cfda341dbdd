//! Retired words: names and phrases that the project replaced with the field's terms. They appear
//! in no code, document, help text or API.
//!
//! `CHANGELOG.md` is history and exempt, and so is the frozen plugin contract. Words that are also
//! ordinary English (`given`, `moment`) are searched as Rust names only.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};

use crate::support::harness::root;

/// How a retired word is searched.
enum Search {
    /// As a sequence of words in any text. `put back` also finds `put_back`, `putBack` and
    /// `PUT_BACK`.
    Words(&'static str),
    /// As an identifier in Rust code, letter for letter.
    Name(&'static str),
}

use Search::{Name, Words};

/// A retired word, and the term in its place.
struct Retired {
    search: Search,
    replacement: &'static str,
}

const fn retired(search: Search, replacement: &'static str) -> Retired {
    Retired { search, replacement }
}

const RETIRED: &[Retired] = &[
    retired(Words("mistake"), "field error, or error"),
    retired(Words("mistakes"), "field errors, or errors"),
    retired(Words("undertaker"), "`PoisonMessageHandler`"),
    retired(Words("bury"), "dead-letter"),
    retired(Words("buried"), "dead-lettered"),
    retired(Words("workbench"), "`DeadLetterService`"),
    retired(Name("News"), "`FeedItem`"),
    retired(Name("Behind"), "catching up"),
    retired(Words("obey"), "apply"),
    retired(Words("obeys"), "applies"),
    retired(Words("operator spoke"), "stage control changed"),
    retired(Name("Kept"), "`PluginArchive`"),
    retired(Words("put back"), "roll back, or restore"),
    retired(Words("vet"), "verify"),
    retired(Words("vets"), "verifies"),
    retired(Words("distrust"), "roll back"),
    retired(Words("distrusted"), "rolled back"),
    retired(Words("meter"), "stage metrics"),
    retired(Words("meters"), "stage metrics"),
    retired(Words("arrivals"), "ingest"),
    retired(Name("Arrival"), "`IngestedEvent`"),
    retired(Name("Asked"), "`ReadSet`"),
    retired(Name("Known"), "`Loaded`"),
    retired(Name("Plan"), "`WriteSet`"),
    retired(Name("Standing"), "a name for what it is"),
    retired(Name("standing"), "a name for what it is"),
    retired(Name("letters"), "dead letters"),
    retired(Name("letter"), "dead letter"),
    retired(Words("the letter"), "the dead letter"),
    retired(Words("a letter"), "a dead letter"),
    retired(Name("Tried"), "`Attempt`"),
    retired(Name("tried"), "attempt"),
    retired(Name("Moment"), "`DecisionInputs`"),
    retired(Name("moment"), "inputs, or now"),
    retired(Words("a try"), "an attempt"),
    retired(Words("each try"), "each attempt"),
    retired(Words("every try"), "every attempt"),
    retired(Words("one try"), "one attempt"),
    retired(Words("first try"), "first attempt"),
    retired(Words("last try"), "last attempt"),
    retired(Words("next try"), "next attempt"),
    retired(Words("failed try"), "failed attempt"),
    retired(Words("per try"), "per attempt"),
    retired(Words("the try"), "the attempt"),
    retired(Words("tries of"), "attempts of"),
    retired(Words("failed tries"), "failed attempts"),
    retired(Name("tries"), "attempts"),
    retired(Words("death"), "dead-letter"),
    retired(Words("deaths"), "dead letters"),
    retired(Words("died"), "dead-lettered, or stopped"),
    retired(Words("limit broken"), "`LimitExceeded`"),
    retired(Words("overtaken"), "`SubjectCancelled`"),
    retired(Words("commit again"), "`Conflict`"),
    retired(Words("accepted same"), "`Duplicate`"),
    retired(Words("accepted different"), "`Conflict`"),
    retired(Name("accept_as"), "`accept_with`"),
    retired(Words("story"), "history"),
    retired(Words("unfit"), "invalid"),
    retired(Words("run alone"), "`run_single_active`, or `run_isolated`"),
    retired(Words("came to"), "result, or outcome"),
    retired(Name("Ran"), "`BatchResult`"),
    retired(Name("turned"), "breaker change"),
    retired(Name("looks"), "reload count"),
    retired(Name("Exact"), "`JsonBytes`"),
    retired(Name("Given"), "`RecordedInputs`"),
    retired(Words("dress"), "`to_problem`"),
    retired(Name("Caller"), "`TraceContext`"),
    retired(Name("Checked"), "`QueryValidator`"),
    retired(Name("trial"), "dry run"),
    retired(Name("Ask"), "permission check"),
    retired(Name("Match"), "permission check"),
    retired(Words("orders outside"), "`external_event_types`"),
    retired(Words("keep dir"), "`archive_dir`"),
    retired(Words("keep ms"), "`max_age_ms`"),
    retired(Words("retention every"), "`interval_ms`"),
    retired(Words("free probes"), "`uncounted_probes`"),
    retired(Words("finals"), "`terminal`"),
    retired(Words("watchers"), "`observers`"),
    retired(Words("stages forget"), "`stages delete`"),
    retired(Words("wish to replay"), "replay request"),
    retired(Words("no such thing"), "not found"),
    retired(Words("no turn came"), "timed out waiting for a free slot"),
    retired(Words("stands for another"), "idempotency key reused"),
    retired(Words("all is undone"), "every compensation has completed"),
    retired(Words("stand so"), "filter by status"),
    retired(Words("probe is free"), "`is_uncounted`"),
    retired(Name("is_free"), "`is_uncounted`"),
    retired(Words("stage forgotten"), "stage deleted"),
];

/// A place where a retired word means something else.
struct Exception {
    path: &'static str,
    word: &'static str,
    meaning: &'static str,
}

const fn exception(path: &'static str, word: &'static str, meaning: &'static str) -> Exception {
    Exception { path, word, meaning }
}

const EXCEPTIONS: &[Exception] = &[
    exception("plugins/fixtures/caller/", "Caller", "the stage that makes HTTP calls"),
    exception("host/src/broker/rabbit/", "death", "the header `x-death` of RabbitMQ"),
    exception("tests/pipeline/broker_trust/", "death", "the header `x-death` of RabbitMQ"),
    exception("docs/decisions/0032-sign", "death", "the header `x-death` of RabbitMQ"),
];

/// Folders and files at the root that are searched.
const SEARCHED: [&str; 13] = [
    "ARCHITECTURE.md",
    "Cargo.toml",
    "README.md",
    "config",
    "docker-compose.yml",
    "docs",
    "host",
    "migrations",
    "plugins",
    "sdk",
    "tests",
    "xtask",
    "Dockerfile",
];

/// Paths that are not searched: the frozen contract, what the console's sources are bundled into, and
/// this list.
const SKIPPED: [&str; 3] = ["/console/dist/", "/fixtures/released/", "/structure/vocabulary.rs"];

const EXTENSIONS: [&str; 18] = [
    "c", "css", "go", "h", "html", "in", "js", "json", "md", "py", "rs", "sh", "sql", "toml", "ts",
    "txt", "yml", "wat",
];

/// What git tracks, and what is new and not ignored: not what builds and tools leave behind.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"])
        .args(SEARCHED)
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("paths are text");
    let paths = listed.split_terminator('\0').map(|path| root().join(path));
    paths
        .filter(|path| {
            let text = path.to_string_lossy();
            let extension = path.extension();
            extension.is_none_or(|end| EXTENSIONS.iter().any(|known| end == *known))
                && !SKIPPED.iter().any(|skipped| text.contains(skipped))
        })
        .collect()
}

/// The words of a text in lower case, each with its line. Identifiers are split at underscores and
/// at capitals.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut word = String::new();
        let mut previous = ' ';
        for letter in line.chars().chain([' ']) {
            let new_word = letter.is_uppercase() && previous.is_lowercase();
            if (!letter.is_alphanumeric() || new_word) && !word.is_empty() {
                words.push((number + 1, std::mem::take(&mut word)));
            }
            if letter.is_alphanumeric() {
                word.extend(letter.to_lowercase());
            }
            previous = letter;
        }
    }
    words
}

/// The identifiers in Rust code, each with its line. Comments and strings have none.
fn names(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => found.push((ident.span().start().line, ident.to_string())),
            TokenTree::Group(group) => names(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The lines of a text with retired words, each with the word and its replacement.
fn retired_in(text: &str, is_rust: bool) -> Vec<(usize, &'static str, &'static str)> {
    let words = words(text);
    let known: HashSet<&str> = words.iter().map(|(_, word)| word.as_str()).collect();
    let mut identifiers = Vec::new();
    if is_rust {
        names(text.parse().expect("valid Rust"), &mut identifiers);
    }
    let mut found = Vec::new();
    for Retired { search, replacement } in RETIRED {
        match search {
            // Most texts lack one of its words, which is cheap to find out.
            Words(phrase) if phrase.split(' ').any(|word| !known.contains(word)) => {}
            Words(phrase) => {
                let parts: Vec<&str> = phrase.split(' ').collect();
                let hits = words.windows(parts.len()).filter(|window| {
                    window.iter().zip(&parts).all(|((_, word), part)| word == part)
                });
                found.extend(hits.map(|window| (window[0].0, *phrase, *replacement)));
            }
            Name(name) => {
                let hits = identifiers.iter().filter(|(_, identifier)| identifier == name);
                found.extend(hits.map(|(line, _)| (*line, *name, *replacement)));
            }
        }
    }
    found
}

#[test]
fn retired_words_appear_nowhere() {
    let paths = files();
    assert!(paths.len() > 300, "only {} files found", paths.len());
    let mut violations = Vec::new();
    let mut unused: HashSet<(&str, &str)> =
        EXCEPTIONS.iter().map(|known| (known.path, known.word)).collect();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let is_rust = path.extension().is_some_and(|end| end == "rs");
        let place = path.strip_prefix(root()).expect("below the root").display().to_string();
        for (line, word, replacement) in retired_in(&text, is_rust) {
            let exempts = |known: &&Exception| place.starts_with(known.path) && word == known.word;
            match EXCEPTIONS.iter().find(exempts) {
                Some(exception) => drop(unused.remove(&(exception.path, exception.word))),
                None => violations.push(format!("{place}:{line}: `{word}`, use {replacement}")),
            }
        }
    }
    let unused: Vec<_> = EXCEPTIONS
        .iter()
        .filter(|known| unused.contains(&(known.path, known.word)))
        .map(|known| format!("{}: `{}` as {}", known.path, known.word, known.meaning))
        .collect();
    assert!(unused.is_empty(), "exceptions without a use: {unused:?}");
    assert!(violations.is_empty(), "retired words:\n{}", violations.join("\n"));
}

#[test]
fn retired_words_are_found_in_every_form() {
    let found = |text: &str| retired_in(text, true).len();
    for text in [
        "// The undertaker runs.",
        "fn put_back() {}",
        "struct PutBack;",
        "const PUT_BACK: u32 = 1;",
        "// is put\n// back",
        "enum Commit { Overtaken }",
        "struct Given;",
    ] {
        assert_eq!(found(text), 1, "{text}");
    }
    for text in ["// Given this, it is taken.", "struct Undertaking;", "// puts backends"] {
        assert_eq!(found(text), 0, "{text}");
    }
}
