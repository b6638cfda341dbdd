//! Strict reading of JSON, and decimals.

use serde_json::json;

use super::*;

fn number(text: &str) -> Number {
    text.parse().unwrap()
}

#[test]
#[cfg(feature = "exact-numbers")]
fn numbers_keep_every_digit() {
    for text in [
        "123456789012345678901234567890",
        "-9223372036854775809",
        "1004.9999999999999",
        "0.1000000000000000055511151231257827",
        "9007199254740993.0",
        "1e+400",
        "1E+2",
        "-0.0",
        "2.50",
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap().to_string().to_lowercase(), text.to_lowercase());
        let nested = format!(r#"{{"a":[{text}]}}"#).to_lowercase();
        assert_eq!(parse(nested.as_bytes()).unwrap().to_string().to_lowercase(), nested);
    }
}

#[test]
fn a_repeated_key_is_refused_at_any_depth() {
    for (text, key) in [
        (r#"{"a":1,"a":1}"#, "a"),
        (r#"{"a":{"b":1,"c":2,"b":3}}"#, "b"),
        (r#"[1,[{"":1,"":2}]]"#, ""),
        (r#"{"\u0061":1,"a":2}"#, "a"),
        ("{\n\"q\":1,\n\"q\":{}}", "q"),
    ] {
        let error = check(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(&format!("the key `{key}` occurs twice at line ")), "{error}");
    }
    for valid in [r#"{"a":{"a":1},"b":[{"a":1},{"a":1}]}"#, r#"{"a":1,"A":1}"#, "[]", "0"] {
        check(valid.as_bytes()).unwrap();
    }
}

#[test]
fn texts_beyond_the_bounds_are_refused() {
    let list = |length: usize| format!("[{}]", vec!["0"; length].join(","));
    check(list(VALUES_MAX / 2 - 1).as_bytes()).unwrap();
    let error = check(list(VALUES_MAX).as_bytes()).unwrap_err().to_string();
    assert!(error.contains("more than 100000 values"), "{error}");
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(check(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
}

#[test]
fn what_is_not_json_is_refused() {
    for text in ["", "{", "nul", "1 2", "[1,]", "{\"a\":NaN}", "01", "'a'", "\"\u{1}\""] {
        assert!(check(text.as_bytes()).is_err(), "{text}");
    }
    assert!(check(b"\"\xff\"").is_err() && check(b"{}\xff").is_err());
}

#[test]
fn a_decimal_is_the_same_in_every_notation() {
    for texts in [
        &["20", "20.0", "2e1", "2E+1", "0.2e2", "200e-1"][..],
        &["0", "-0", "0.0", "0e99", "-0.0e-9"],
        &["-1.5", "-15e-1", "-1.50"],
    ] {
        let all: Vec<String> =
            texts.iter().map(|text| Decimal::from(&number(text)).to_string()).collect();
        assert!(all.iter().all(|one| *one == all[0]), "{texts:?}: {all:?}");
    }
    for (one, other) in [("1", "-1"), ("1", "10"), ("1", "0.1"), ("0", "1")] {
        assert_ne!(Decimal::from(&number(one)), Decimal::from(&number(other)));
    }
}

#[test]
fn whole_numbers_are_exact() {
    for (text, expected) in [
        ("2", Some(2)),
        ("2.0", Some(2)),
        ("-0.0", Some(0)),
        ("1e19", Some(10_000_000_000_000_000_000)),
        ("18446744073709551615", Some(u64::MAX)),
        ("2.5", None),
        ("-1", None),
        ("1e400", None),
        ("1e-400", None),
    ] {
        if cfg!(feature = "exact-numbers") || !text.contains("400") {
            assert_eq!(Decimal::from(&number(text)).whole(), expected, "{text}");
        }
    }
}

#[test]
#[cfg(feature = "exact-numbers")]
fn whole_numbers_beyond_the_precision_of_a_float_are_exact() {
    for (text, expected) in [
        ("9007199254740993.0", Some(9_007_199_254_740_993)),
        ("18446744073709551616", None),
        ("1e99999999999999999999", None),
        ("1e-99999999999999999999", None),
    ] {
        assert_eq!(Decimal::from(&number(text)).whole(), expected, "{text}");
    }
}

#[test]
fn the_canonical_text_ignores_notation_only() {
    let one = parse(br#"{"b": [1.0, "x"], "a": {"d": null, "c": 2e0}}"#).unwrap();
    assert_eq!(canonical(&one), canonical(&json!({"a": {"c": 2, "d": null}, "b": [1, "x"]})));
    for (one, other) in [
        (json!([1, 2]), json!([12])),
        (json!({"a": 1}), json!([["a", 1]])),
        (json!("1"), json!(1)),
        (json!({"a": 1, "b": 2}), json!({"a": {"b": 2}})),
        (json!(null), json!("null")),
        (json!([[], 1]), json!([[1]])),
    ] {
        assert_ne!(canonical(&one), canonical(&other));
    }
}
