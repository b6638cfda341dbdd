//! Bodies as they arrive, over HTTP and AMQP: content encodings, charsets, byte order marks. Pure.
//!
//! Bound: a body is decompressed up to the given size, so a small message cannot fill the memory.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

/// The content encoding that a body may have: the value of `Accept-Encoding`.
pub const ACCEPTED_ENCODING: &str = "gzip";
/// Values that change nothing: HTTP's, and what AMQP clients write for the charset of a text, or for
/// bytes.
const NO_ENCODING: [&str; 8] =
    ["", "identity", "utf-8", "utf8", "us-ascii", "binary", "8bit", "7bit"];
const GZIP: [&str; 2] = ["gzip", "x-gzip"];
/// Texts in these are UTF-8 as well.
const UTF8: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a body cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its content encoding is not known.
    #[error("content-encoding `{0}` is not supported: send the body as it is, or with `gzip`")]
    Encoding(String),
    /// It is not what its content encoding says.
    #[error("content-encoding `gzip`: the body cannot be decompressed: {0}")]
    NotGzip(String),
    /// It has more than this many bytes once decompressed.
    #[error("the body is larger than the host accepts: {0} bytes (`http.body_max_bytes`)")]
    TooLarge(usize),
    /// Its charset is not UTF-8.
    #[error("charset `{0}` is not supported: send UTF-8")]
    Charset(String),
}

/// The body without its content encoding, of at most `max_bytes`.
pub fn decoded(encoding: &str, body: Bytes, max_bytes: usize) -> Result<Bytes, BodyError> {
    let mut compressed = false;
    for one in encoding.split(',').map(|one| one.trim().to_ascii_lowercase()) {
        match one.as_str() {
            one if NO_ENCODING.contains(&one) => {}
            one if GZIP.contains(&one) && !compressed => compressed = true,
            _ => return Err(BodyError::Encoding(encoding.to_owned())),
        }
    }
    let body = if compressed { decompressed(&body, max_bytes)?.into() } else { body };
    if body.len() > max_bytes { Err(BodyError::TooLarge(max_bytes)) } else { Ok(body) }
}

/// The body, or one byte more than `max_bytes` of it.
fn decompressed(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, BodyError> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| BodyError::NotGzip(error.to_string()))?;
    Ok(plain)
}

/// Refuses a JSON text in another charset than UTF-8, by its media type.
pub fn check_charset(content_type: &str) -> Result<(), BodyError> {
    // A media type that cannot be parsed has no charset that could be obeyed.
    let Ok(media_type) = content_type.parse::<mime::Mime>() else { return Ok(()) };
    match media_type.get_param(mime::CHARSET) {
        Some(charset) if !UTF8.iter().any(|utf8| charset.as_str().eq_ignore_ascii_case(utf8)) => {
            Err(BodyError::Charset(charset.as_str().to_owned()))
        }
        _ => Ok(()),
    }
}

/// A JSON text without its byte order mark, which RFC 8259 (8.1) allows to ignore.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// The same, sharing the memory of the text.
pub fn without_bom_shared(text: Bytes) -> Bytes {
    if text.starts_with(BOM) { text.slice(BOM.len()..) } else { text }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(body: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn encodings_that_change_nothing_are_accepted() {
        for encoding in ["", "identity", "UTF-8", "utf-8", "binary", "identity, UTF-8"] {
            assert_eq!(decoded(encoding, "{}".into(), 2).unwrap(), "{}", "{encoding}");
        }
    }

    #[test]
    fn gzip_is_decompressed_whatever_it_is_called() {
        for encoding in ["gzip", "GZIP", "x-gzip", "identity, gzip", " gzip "] {
            assert_eq!(decoded(encoding, gzip(b"hello"), 5).unwrap(), "hello", "{encoding}");
        }
        // Several members follow each other.
        let two = [gzip(b"a"), gzip(b"b")].concat();
        assert_eq!(decoded("gzip", two.into(), 2).unwrap(), "ab");
    }

    #[test]
    fn other_encodings_are_refused_by_name() {
        for encoding in ["br", "deflate", "zstd", "compress", "gzip, gzip", "iso-8859-1", "x"] {
            let error = decoded(encoding, gzip(b"hello"), 100).unwrap_err();
            assert!(matches!(&error, BodyError::Encoding(named) if named == encoding), "{error}");
            assert!(error.to_string().contains(&format!("content-encoding `{encoding}`")));
        }
    }

    #[test]
    fn a_body_is_decompressed_up_to_the_limit_only() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20_000);
        // One byte more than allowed tells that there is more; nothing beyond it is decompressed.
        assert_eq!(decompressed(&bomb, 1_000).unwrap().len(), 1_001);
        assert!(matches!(decoded("gzip", bomb, 1_000), Err(BodyError::TooLarge(1_000))));
        assert!(matches!(decoded("", "abc".into(), 2), Err(BodyError::TooLarge(2))));
        assert!(decoded("gzip", gzip(b"abc"), 3).is_ok());
        for broken in [&b"hello"[..], &gzip(b"hello")[..8], b""] {
            let error = decoded("gzip", Bytes::copy_from_slice(broken), 100);
            assert!(matches!(error, Err(BodyError::NotGzip(_))), "{error:?}");
        }
    }

    #[test]
    fn only_utf8_is_a_charset_of_json() {
        for content_type in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=us-ascii",
            "application/json; profile=x",
            "no media type",
        ] {
            assert!(check_charset(content_type).is_ok(), "{content_type}");
        }
        for (content_type, charset) in [
            ("application/json; charset=utf-16", "utf-16"),
            ("application/cloudevents+json; Charset=\"ISO-8859-1\"", "ISO-8859-1"),
            ("text/json; a=b; charset=windows-1252", "windows-1252"),
        ] {
            let error = check_charset(content_type).unwrap_err().to_string();
            assert!(error.to_ascii_lowercase().contains(&charset.to_ascii_lowercase()), "{error}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(without_bom(b"\xef\xbb\xbf{}"), b"{}");
        assert_eq!(without_bom(b"{}"), b"{}");
        assert_eq!(without_bom_shared(Bytes::from_static(b"\xef\xbb\xbf{}")), "{}");
    }
}
