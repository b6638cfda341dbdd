//! Input of outsiders, generated from bytes: mostly typical values, sometimes arbitrary ones, and
//! sometimes oversized ones.

use arbitrary::{Result, Unstructured};

/// Typical values, and values that caused faults elsewhere.
const WORDS: [&str; 24] = [
    "",
    "x",
    "x.done",
    "order.created",
    "postrider.dead-lettered",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "specversion",
    "traceparent",
    "tracestate",
    "zone",
    "application/json",
    "application/cloudevents+json",
    "text/plain; charset=utf-8",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "vendor=1",
    "2026-11-21T12:00:00Z",
    "-9999-01-01T00:00:00Z",
    "18446744073709551615",
    "a\0b",
    "ä€\u{10ffff}",
];

/// Too long for anything but a payload.
const LONG_BYTES: usize = 200_000;

/// A text.
pub(crate) fn any_text(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(match u.int_in_range(0..=9)? {
        0 => {
            let (piece, times): (&str, u16) = u.arbitrary()?;
            piece.repeat(usize::from(times).min(LONG_BYTES / piece.len().max(1)))
        }
        1 | 2 => u.arbitrary()?,
        _ => (*u.choose(&WORDS)?).to_owned(),
    })
}

/// A payload.
pub(crate) fn any_bytes(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(if u.ratio(1, 4)? { any_text(u)?.into_bytes() } else { u.arbitrary()? })
}

/// A short list.
pub(crate) fn any_list<T>(
    u: &mut Unstructured<'_>,
    one: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=4)?).map(|_| one(u)).collect()
}
