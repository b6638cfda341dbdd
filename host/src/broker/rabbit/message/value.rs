//! Values of AMQP headers as the text of `CloudEvents` attributes. Every scalar type has one; a
//! table, a list and a header without a value have none.
//!
//! Text forms follow the `CloudEvents` type system, and so equal those of the same values in JSON:
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#type-system>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapin::types::{AMQPValue, DecimalValue};
use serde_json::{Number, Value};

use crate::domain::event::TIME_MAX_MS;
use crate::domain::json::whole;
use crate::domain::timestamp;

/// A value as text; an error says what is wrong with it.
pub(super) fn text(value: &AMQPValue) -> Result<String, &'static str> {
    Ok(match value {
        AMQPValue::LongString(text) => utf8(text.as_bytes())?,
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        // The shortest text that is this value, not the digits of its nearest double.
        AMQPValue::Float(value) => float(value.to_string().parse().unwrap_or(f64::NAN))?,
        AMQPValue::Double(value) => float(*value)?,
        AMQPValue::DecimalValue(value) => decimal(*value),
        AMQPValue::Timestamp(seconds) => {
            let at_ms = seconds.checked_mul(1_000).filter(|at_ms| *at_ms <= TIME_MAX_MS);
            timestamp::text(at_ms.ok_or("is a time after the year 9999")?)
        }
        AMQPValue::ByteArray(bytes) => STANDARD.encode(bytes.as_slice()),
        AMQPValue::FieldArray(_) => return Err("is a list: only single values can be attributes"),
        AMQPValue::FieldTable(_) => return Err("is a table: only single values can be attributes"),
        AMQPValue::Void => return Err("has no value"),
    })
}

/// A value that is a text by its meaning, such as an id: bytes are its UTF-8.
pub(super) fn string(value: &AMQPValue) -> Result<String, &'static str> {
    match value {
        AMQPValue::ByteArray(bytes) => utf8(bytes.as_slice()),
        other => text(other),
    }
}

/// A whole number of at least 0.
pub(in crate::broker::rabbit) fn unsigned(value: &AMQPValue) -> Option<u64> {
    text(value).ok()?.parse().ok()
}

fn utf8(bytes: &[u8]) -> Result<String, &'static str> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "is not UTF-8")
}

/// As JSON writes it; a whole number without its point.
fn float(value: f64) -> Result<String, &'static str> {
    let number = Number::from_f64(value).map(Value::Number).ok_or("is not a finite number")?;
    Ok(whole(&number).map_or_else(|| number.to_string(), |whole| whole.to_string()))
}

/// Clients send the digits as a signed number.
fn decimal(DecimalValue { scale, value }: DecimalValue) -> String {
    let (value, scale) = (value.cast_signed(), usize::from(scale));
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let (sign, point) = (if value < 0 { "-" } else { "" }, if scale == 0 { "" } else { "." });
    format!("{sign}{whole}{point}{fraction}")
}

#[cfg(test)]
mod tests {
    use lapin::types::{FieldArray, FieldTable, LongString};

    use super::*;

    #[test]
    fn every_scalar_type_has_a_text() {
        let decimal = |scale, value: i32| {
            AMQPValue::DecimalValue(DecimalValue { scale, value: value.cast_unsigned() })
        };
        for (value, expected) in [
            (AMQPValue::LongString("ä".into()), "ä"),
            (AMQPValue::ShortString("s".into()), "s"),
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::ShortShortInt(-5), "-5"),
            (AMQPValue::ShortShortUInt(200), "200"),
            (AMQPValue::ShortInt(-300), "-300"),
            (AMQPValue::ShortUInt(65_535), "65535"),
            (AMQPValue::LongInt(i32::MIN), "-2147483648"),
            (AMQPValue::LongUInt(u32::MAX), "4294967295"),
            (AMQPValue::LongLongInt(i64::MAX), "9223372036854775807"),
            (AMQPValue::Float(1.1), "1.1"),
            (AMQPValue::Float(-0.5), "-0.5"),
            (AMQPValue::Double(0.5), "0.5"),
            (AMQPValue::Double(2.0), "2"),
            (AMQPValue::Double(1e300), "1e+300"),
            (decimal(2, 1_234), "12.34"),
            (decimal(2, -5), "-0.05"),
            (decimal(0, 7), "7"),
            (decimal(3, i32::MIN), "-2147483.648"),
            (AMQPValue::Timestamp(1_580_702_706), "2020-02-03T04:05:06Z"),
            (AMQPValue::ByteArray(vec![0, 255].into()), "AP8="),
        ] {
            assert_eq!(text(&value).as_deref(), Ok(expected), "{value:?}");
        }
        assert_eq!(string(&AMQPValue::ByteArray(b"42".to_vec().into())).as_deref(), Ok("42"));
    }

    #[test]
    fn what_is_no_scalar_says_so() {
        for (value, expected) in [
            (AMQPValue::FieldArray(FieldArray::default()), "list"),
            (AMQPValue::FieldTable(FieldTable::default()), "table"),
            (AMQPValue::Void, "no value"),
            (AMQPValue::Double(f64::NAN), "finite"),
            (AMQPValue::Float(f32::INFINITY), "finite"),
            (AMQPValue::Timestamp(u64::MAX), "9999"),
            (AMQPValue::Timestamp(1_700_000_000_000), "9999"),
            (AMQPValue::LongString(LongString::from(vec![255])), "UTF-8"),
        ] {
            assert!(text(&value).is_err_and(|why| why.contains(expected)), "{value:?}");
        }
        assert!(string(&AMQPValue::ByteArray(vec![255].into())).is_err());
    }

    #[test]
    fn counts_are_read_from_any_integer() {
        assert_eq!(unsigned(&AMQPValue::ShortShortInt(3)), Some(3));
        assert_eq!(unsigned(&AMQPValue::LongLongInt(3)), Some(3));
        assert_eq!(unsigned(&AMQPValue::LongLongInt(-3)), None);
    }
}
