//! Finds credentials in the headers of a request.

use axum::http::{HeaderMap, header};

use crate::http::problem::{Answer, Kind, Problem};

/// The scheme of tokens in `Authorization`.
const SCHEME: &str = "bearer";

/// What `Authorization` has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    /// Nothing.
    None,
    /// A token.
    Bearer(&'a str),
}

/// The credential of a request.
pub(super) fn of(headers: &HeaderMap) -> Answer<Credential<'_>> {
    let refused = |detail: &str| Err(Problem::new(Kind::INVALID_CREDENTIALS, detail));
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(Credential::None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return refused("Authorization: given more than once"),
    };
    let Some((scheme, token)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return refused("Authorization: expected `Bearer`, a space and a token");
    };
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return refused("Authorization: the scheme must be `Bearer`");
    }
    Ok(Credential::Bearer(token.trim()))
}

/// The values of all cookies of a name: a browser may send one for each path.
pub(in crate::http) fn session_cookies<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';'));
    let named = pairs.filter_map(|pair| pair.trim().split_once('='));
    named.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_a_credential() {
        assert_eq!(of(&headers(&[])).ok().unwrap(), Credential::None);
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            let found = headers(&[("authorization", value)]);
            assert_eq!(of(&found).ok().unwrap(), Credential::Bearer("a.b.c"), "{value}");
        }
        for refused in [
            &[("authorization", "Bearer")][..],
            &[("authorization", "Basic dTpw")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        ] {
            assert!(of(&headers(refused)).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn cookies_are_found_by_name() {
        let found =
            headers(&[("cookie", "a=1; postrider-orders=x"), ("cookie", "postrider-orders=y")]);
        assert_eq!(session_cookies(&found, "postrider-orders"), ["x", "y"]);
        assert_eq!(session_cookies(&found, "postrider"), [""; 0]);
    }
}
