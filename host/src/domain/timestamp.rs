//! Parses and formats instants and spans. Pure.

/// An instant: RFC 3339 (`2026-05-01T09:00:00Z`), or milliseconds since 1970-01-01 UTC; in
/// milliseconds. An earlier time is clamped to 1970-01-01.
pub fn instant_ms(text: &str) -> Result<u64, String> {
    if let Ok(ms) = text.parse::<u64>() {
        return Ok(ms).and_then(|ms| {
            if i64::try_from(ms).is_ok() { Ok(ms) } else { Err(format!("{ms} ms is too far away")) }
        });
    }
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("`{text}` is neither a time such as 2026-05-01T09:00:00Z (RFC 3339) nor milliseconds since 1970"))?;
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

/// An instant in a query, where an unescaped `+` of an offset arrives as a space.
pub fn query_instant_ms(text: &str) -> Result<u64, String> {
    instant_ms(text).or_else(|wrong| {
        let (time, offset) = text.rsplit_once(' ').ok_or_else(|| wrong.clone())?;
        // Only a time of day has an offset: the space may be before the time of day instead.
        let has_time = time.contains(['T', 't', ' ']);
        let with_plus = has_time.then(|| instant_ms(&format!("{time}+{offset}")).ok()).flatten();
        with_plus.ok_or(wrong)
    })
}

/// A span: `90s`, `30m`, `1h 30m`, `2d`, or ISO 8601 (`PT90S`); in milliseconds.
pub fn span_ms(text: &str) -> Result<u64, String> {
    let wrong = |_| format!("`{text}` is not a span of time such as 90s, 30m, 1h or 2d");
    let span: jiff::Span = text.parse().map_err(wrong)?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(wrong)?;
    u64::try_from(duration.as_millis()).map_err(|_| format!("`{text}` is in the past"))
}

/// An instant in RFC 3339; empty after the year 9999.
pub fn text(at_ms: u64) -> String {
    jiff::Timestamp::from_millisecond(i64::try_from(at_ms).unwrap_or(i64::MAX))
        .map(|time| time.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_in_a_query_may_arrive_as_a_space() {
        for text in [
            "2026-01-01T00:00:00+02:00",
            "2026-01-01T00:00:00 02:00",
            "2026-01-01T00:00:00.000 02:00",
            "2026-01-01T00:00:00 0200",
            "2026-01-01T00:00 02",
            "2026-01-01t00:00:00 02:00",
            "2026-01-01 00:00:00 02:00",
            "2025-12-31T22:00:00Z",
            "2025-12-31 22:00:00Z",
            "1767218400000",
        ] {
            assert_eq!(query_instant_ms(text), Ok(1_767_218_400_000), "{text}");
        }
        for text in [
            "2026-01-01 00:00",
            "2026-01-01T00:00:00 ",
            "2026-01-01T00:00:00  02:00",
            " 02:00",
            "soon 02:00",
            "2026-01-01T00:00:00Z 02:00",
            "1767218400000 02:00",
        ] {
            let error = query_instant_ms(text).unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{text}: {error}");
        }
    }

    #[test]
    fn instants_and_spans_are_parsed() {
        assert_eq!(instant_ms("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(instant_ms("1970-01-01T01:00:00.5+01:00"), Ok(500));
        assert_eq!(instant_ms("1969-12-31T23:59:59Z"), Ok(0));
        for (text, ms) in [
            ("90s", 90_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
            ("PT90S", 90_000),
            ("250ms", 250),
        ] {
            assert_eq!(span_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "soon", "-1", "18446744073709551615"] {
            assert!(instant_ms(text).is_err(), "{text}");
        }
        for text in ["", "5", "-5s", "1month"] {
            assert!(span_ms(text).is_err(), "{text}");
        }
        assert_eq!(instant_ms(&super::text(1_700_000_000_123)), Ok(1_700_000_000_123));
    }
}
