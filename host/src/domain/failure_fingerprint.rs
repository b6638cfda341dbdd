//! The fingerprint of a failure: it groups ten thousand dead letters into a handful.
//!
//! Pure. A fingerprint is the failure's code with its message, in which everything that differs
//! between dead letters of a group (ids, numbers, hexadecimal, quoted values, times) is replaced by
//! a placeholder; for a trap it is the guest's function, line and column. Computed once, when the
//! dead letter is written. Bounds: `READ_MAX` bytes of a message are read, `CAUSE_MAX` characters are
//! kept.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::domain::event::{hash, hex, shortened};

/// Bytes of a message, or of a line of a backtrace, that are read.
const READ_MAX: usize = 4_096;
/// Longest fingerprint, characters.
const CAUSE_MAX: usize = 300;
/// Hexadecimal digits of this length and above are an id, not a word or a count.
const HEX_MIN: usize = 8;

/// Everything that may differ between dead letters of a group, in the order of matching.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
    let parts = [
        // A value in quotes. An apostrophe inside a word opens nothing.
        r#"(?P<value>"[^"]*"|`[^`]*`|\B'[^']*'\B|“[^”]*”|‘[^’]*’)"#,
        r"(?P<uuid>\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b)",
        r"(?P<time>\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z\b|[+-]\d{2}:?\d{2}\b)?)?)",
        r"(?P<email>\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b)",
        r"(?P<thousands>\b\d{1,3}(?:,\d{3})+(?:\.\d+)?\b)",
        r"(?P<word>[\p{L}\p{N}_]+(?:[-.][\p{L}\p{N}_]+)*)",
    ];
    Regex::new(&parts.join("|")).expect("a constant expression that a test compiles")
});

/// A number with at most a short unit behind it.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\d+(?:\.\d+)*(?:[eE][-+]?\d+)?(\p{L}{1,3})?$")
        .expect("a constant expression that a test compiles")
});

/// What the compiler adds to a function's name: `::h0123456789abcdef`.
static NAME_HASH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"::h[0-9a-f]{16}\b|\[[0-9a-f]{16}\]")
        .expect("a constant expression that a test compiles")
});

/// Placeholders of which a list of any length is one.
const PLACEHOLDERS: [&str; 7] = ["<value>", "<uuid>", "<time>", "<email>", "<n>", "<hex>", "<id>"];

/// How functions begin that end a guest but are not its author's.
const MACHINERY: [&str; 16] = [
    "core::",
    "std::",
    "alloc::",
    "<core::",
    "<std::",
    "<alloc::",
    "rust_",
    "__rust",
    "_R",
    "postrider_stage::",
    "<postrider_stage::",
    "abort",
    "__assert_fail",
    "dlmalloc",
    "runtime.",
    "<function ",
];

/// Where the files of functions are that are not the author's: the language's own library, and
/// dependencies. They may be inlined, with a name that tells nothing.
const MACHINERY_FILES: [&str; 5] = [
    " at /rustc/",
    "/library/alloc/src/",
    "/library/core/src/",
    "/library/std/src/",
    "/registry/src/",
];

/// Whether a frame of a backtrace is what ends a guest, rather than its author's code.
pub fn is_machinery(frame: &str) -> bool {
    MACHINERY.iter().any(|start| frame.starts_with(start))
        || MACHINERY_FILES.iter().any(|part| frame.contains(part))
}

/// Why a dead letter failed, and the group that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureFingerprint {
    /// The fingerprint; the same for all dead letters of the group.
    pub text: String,
    /// Id of the group, from stage, code and fingerprint. Stable, and safe in a URL.
    pub group: String,
}

impl FailureFingerprint {
    /// The fingerprint of a dead letter, given the symbolised backtrace of its last failed attempt.
    pub fn of(stage: &str, (code, message): (&str, &str), backtrace: Option<&str>) -> Self {
        let text = place(code, backtrace).unwrap_or_else(|| normalise(message));
        let hash = hash(&["cause", stage, code, &text]);
        Self { group: hex(&hash[..8]), text }
    }
}

/// The function, and the line if known, in which a guest trapped. None for a timeout or a stack
/// overflow: where those stop a guest is arbitrary.
fn place(code: &str, backtrace: Option<&str>) -> Option<String> {
    let kind = code.strip_prefix("trap:")?;
    if matches!(kind, "timeout" | "stack-overflow") {
        return None;
    }
    let frames: Vec<&str> = backtrace?
        .lines()
        .map(|line| shortened(line, READ_MAX).trim())
        .filter(|line| !line.is_empty())
        .collect();
    let own = frames.iter().find(|frame| !is_machinery(frame));
    let frame = NAME_HASH.replace_all(own.or(frames.first())?, "").into_owned();
    Some(shorten(&format!("in {}", without_folders(&frame))))
}

/// The file without the folders of the machine that built it, so that the same source gives the
/// same fingerprint wherever it was built.
fn without_folders(frame: &str) -> Cow<'_, str> {
    match frame.rsplit_once(" at ") {
        Some((function, file)) => {
            let kept: Vec<&str> = file.rsplit('/').take(2).collect();
            let file = kept.into_iter().rev().collect::<Vec<_>>().join("/");
            Cow::Owned(format!("{function} at {file}"))
        }
        None => Cow::Borrowed(frame),
    }
}

/// A message with placeholders, on one line.
pub fn normalise(message: &str) -> String {
    let one_line = shortened(message, READ_MAX).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = VARIABLE.replace_all(&one_line, placeholder).into_owned();
    for placeholder in PLACEHOLDERS {
        for between in [", ", " ", ","] {
            let pair = format!("{placeholder}{between}{placeholder}");
            while text.contains(&pair) {
                text = text.replace(&pair, placeholder);
            }
        }
    }
    shorten(&text)
}

fn placeholder(found: &Captures<'_>) -> String {
    let named =
        ["value", "uuid", "time", "email"].into_iter().find(|name| found.name(name).is_some());
    match named {
        Some(name) => format!("<{name}>"),
        None if found.name("thousands").is_some() => "<n>".to_owned(),
        None => word(&found[0]),
    }
}

/// A word is kept unless it contains a digit: then it is a number or a name.
fn word(word: &str) -> String {
    let digits = word.chars().any(char::is_numeric);
    let is_hex = |text: &str| {
        !text.is_empty() && text.chars().all(|dead_letter| dead_letter.is_ascii_hexdigit())
    };
    if !digits {
        return word.to_owned();
    }
    if let Some(number) = NUMBER.captures(word)
        && !(word.len() >= HEX_MIN && is_hex(word) && number.get(1).is_some())
    {
        return format!("<n>{}", number.get(1).map_or("", |unit| unit.as_str()));
    }
    let bare = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    if bare.is_some_and(is_hex) || (word.len() >= HEX_MIN && is_hex(word)) {
        return "<hex>".to_owned();
    }
    "<id>".to_owned()
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(CAUSE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_parts_become_placeholders() {
        for (message, expected) in [
            ("no stock", "no stock"),
            ("", ""),
            ("order 123 is unknown", "order <n> is unknown"),
            (
                "took 1500 ms, 20.5s or 3MB of 1,234,567.8 bytes",
                "took <n> ms, <n>s or <n>MB of <n> bytes",
            ),
            ("HTTP 503 from 10.0.0.7:8080", "HTTP <n> from <n>:<n>"),
            ("no customer cust_123", "no customer <id>"),
            ("no customer c-9f or ORD-2024-77", "no customer <id> or <id>"),
            ("key 550e8400-e29b-41d4-a716-446655440000 is taken", "key <uuid> is taken"),
            ("digest deadbeef00 differs from 0x1F", "digest <hex> differs from <hex>"),
            ("12345678 rows", "<n> rows"),
            ("a decade of added facades", "a decade of added facades"),
            ("unknown field `colour` in \"shirt\"", "unknown field <value> in <value>"),
            ("can't book 'a b' and won't", "can't book <value> and won't"),
            ("gave “x” for ‘y’", "gave <value> for <value>"),
            ("expired at 2026-01-02T03:04:05.678Z", "expired at <time>"),
            (
                "closed since 2026-01-02 03:04+01:00, and on 2026-01-03",
                "closed since <time>, and on <time>",
            ),
            ("mail to jane.doe+x@mail.example.org bounced", "mail to <email> bounced"),
            ("GET /orders/123/items/a7 failed", "GET /orders/<n>/items/<id> failed"),
            ("missing: 1, 2, 3", "missing: <n>"),
            ("missing: 'a', 'b'", "missing: <value>"),
            ("at line 3 column 14", "at line <n> column <n>"),
            ("two\n  lines\tof it", "two lines of it"),
            ("Größe 12 überschritten", "Größe <n> überschritten"),
            ("-5 is below zero", "-<n> is below zero"),
        ] {
            assert_eq!(normalise(message), expected, "{message}");
        }
    }

    #[test]
    fn normalising_is_idempotent_and_bounded() {
        arbtest::arbtest(|random| {
            let message: String = random.arbitrary()?;
            let once = normalise(&message);
            assert!(once.chars().count() <= CAUSE_MAX + 1, "{message:?}");
            Ok(())
        });
        assert_eq!(normalise(&"word ".repeat(10_000)).chars().count(), CAUSE_MAX + 1);
        // Cut in the middle of a character of several bytes.
        assert!(normalise(&"ä".repeat(READ_MAX)).starts_with('ä'));
    }

    fn of_trap(code: &str, backtrace: &str) -> String {
        FailureFingerprint::of("payment", (code, "wasm trap: about 17"), Some(backtrace)).text
    }

    #[test]
    fn traps_are_grouped_by_location() {
        let rust = "__rust_start_panic at std/src/sys.rs:3\nrust_panic\ncore::panicking::panic_fmt::h0123456789abcdef at core/p.rs:1\n\
                    payment::charge::h0123456789abcdef at /home/jane/payment/src/lib.rs:40\npayment::handle";
        assert_eq!(of_trap("trap:unreachable", rust), "in payment::charge at src/lib.rs:40");
        assert_eq!(
            of_trap("trap:integer-division-by-zero", "divide at c/tax.c:7\nmain"),
            "in divide at c/tax.c:7"
        );
        let inlined = "__rustc::rust_begin_unwind at /rustc/59807616/library/std/src/panicking.rs:689\n\
                       unwrap<&str> at /rustc/59807616/library/core/src/option.rs:1016\n\
                       from_slice<u8> at /home/jane/.cargo/registry/src/crates.io-1/serde_json-1.0.1/src/de.rs:9\n\
                       postrider_stage::Emit::json at /x/sdk/rust/src/lib.rs:220\n\
                       <try_rust::Check as postrider_stage::Stage>::handle at /x/src/lib.rs:21";
        assert_eq!(
            of_trap("trap:unreachable", inlined),
            "in <try_rust::Check as postrider_stage::Stage>::handle at src/lib.rs:21"
        );
        assert_eq!(of_trap("trap:unreachable", "rust_panic\nabort"), "in rust_panic");
        for (code, backtrace) in
            [("trap:timeout", "spin"), ("trap:stack-overflow", "recurse"), ("trap:other", "\n")]
        {
            assert_eq!(of_trap(code, backtrace), "wasm trap: about <n>", "{code}");
        }
    }

    #[test]
    fn groups_differ_by_stage_code_and_fingerprint() {
        let group =
            |stage, code, message| FailureFingerprint::of(stage, (code, message), None).group;
        let one = group("payment", "no-answer", "gateway 7 is silent");
        assert_eq!(one, group("payment", "no-answer", "gateway 8 is silent"));
        assert_eq!(
            (one.len(), one.chars().all(|dead_letter| dead_letter.is_ascii_hexdigit())),
            (16, true)
        );
        for other in [
            group("shipping", "no-answer", "gateway 7 is silent"),
            group("payment", "declined", "gateway 7 is silent"),
            group("payment", "no-answer", "gateway 7 is loud"),
        ] {
            assert_ne!(one, other);
        }
    }
}
