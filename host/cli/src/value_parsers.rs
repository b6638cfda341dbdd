//! Parsers for the values of options: durations, times, and settings of stages.

use postrider::internals::timestamp;
use postrider::{Clock as _, SystemClock};

/// A duration such as `90s`, `30m`, `1h` or `2d`, in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    timestamp::span_ms(text)
}

/// A duration before now, or a time in RFC 3339, in milliseconds since 1970-01-01 UTC.
pub(crate) fn time_ms(text: &str) -> Result<u64, String> {
    let ago = || duration_ms(text).map(|ago_ms| SystemClock.now_ms().saturating_sub(ago_ms));
    ago().or_else(|_| timestamp::instant_ms(text)).map_err(|_| {
        format!("expected a duration such as 1h, or a time such as 2026-01-31T12:00:00Z: `{text}`")
    })
}

/// A setting of a stage: `key=value`.
pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_with_their_unit() {
        for (text, expected) in [
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(duration_ms(text), Ok(expected), "{text}");
        }
        for invalid in ["", "1", "yesterday", "-1h", "1 month"] {
            assert!(duration_ms(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn times_are_absolute_or_relative_to_now() {
        assert_eq!(time_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        let hour_ago = SystemClock.now_ms() - 3_600_000;
        assert!(time_ms("1h").is_ok_and(|time| time.abs_diff(hour_ago) < 60_000));
        assert!(time_ms("yesterday").is_err_and(|error| error.contains("2026-01-31T12:00:00Z")));
    }
}
