//! `[auth]`: who may use the API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Config;
use super::validate::at_least_one;
use crate::domain::access::Role;

/// Who may use the API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// `none`: everyone who can reach the port; `tokens`: who sends an API key, a JSON Web Token, or the
    /// cookie of a session.
    pub mode: AuthMode,
    /// Serve an address that others can reach although `mode` is `none`.
    pub allow_anonymous: bool,
    /// A principal that may submit but not read sees only the subjects that it submitted.
    pub own_subjects_only: bool,
    /// JSON Web Tokens.
    pub jwt: JwtConfig,
    /// Sessions of browsers.
    pub sessions: SessionsConfig,
}

/// Whether a host authenticates requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// It does not: everyone who can reach the port may do everything.
    #[default]
    None,
    /// Every request needs a token.
    Tokens,
}

/// JSON Web Tokens. None is accepted unless an issuer and its keys are configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// The required `iss`. Empty: no token is accepted.
    pub issuer: String,
    /// The `aud`s of which a token must have one.
    pub audience: Vec<String>,
    /// The algorithms that are accepted.
    pub algorithms: Vec<JwtAlgorithm>,
    /// A file with a JSON Web Key Set. Only there may a key be a shared secret (`oct`).
    pub jwks_file: Option<PathBuf>,
    /// The URL of a JSON Web Key Set.
    pub jwks_url: Option<String>,
    /// Time between two reads of the key set.
    pub jwks_refresh_ms: u64,
    /// Shortest time between two reads that tokens with an unknown key cause.
    pub jwks_min_interval_ms: u64,
    /// By how much the clocks of the issuer and of the host may differ.
    pub leeway_ms: u64,
    /// The claim with the principal's roles: a text, or a list of texts. A JSON pointer
    /// (`/realm_access/roles`) reaches into objects.
    pub roles_claim: String,
    /// The claim with the principal's name, for people.
    pub name_claim: String,
    /// The roles that each value of `roles_claim` stands for. Other values mean nothing.
    pub roles: BTreeMap<String, Vec<String>>,
}

/// An algorithm of a JSON Web Signature (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA with PKCS #1 padding and SHA-256.
    RS256,
    /// RSA with PKCS #1 padding and SHA-384.
    RS384,
    /// RSA with PKCS #1 padding and SHA-512.
    RS512,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// ECDSA with P-384 and SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: Vec::new(),
            algorithms: vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EdDSA],
            jwks_file: None,
            jwks_url: None,
            jwks_refresh_ms: 5 * 60 * 1_000,
            jwks_min_interval_ms: 30_000,
            leeway_ms: 30_000,
            roles_claim: "roles".into(),
            name_claim: "name".into(),
            roles: BTreeMap::new(),
        }
    }
}

/// Sessions of browsers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsConfig {
    /// Longest time from a log-in to the end of its session.
    pub max_age_ms: u64,
    /// Always mark the cookie `Secure`. Otherwise it is if the browser came by https.
    pub secure: bool,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self { max_age_ms: 12 * 60 * 60 * 1_000, secure: false }
    }
}

/// Longest `leeway_ms`.
const LEEWAY_MAX_MS: u64 = 10 * 60 * 1_000;

impl Config {
    pub(super) fn validate_auth(&self, problems: &mut Vec<String>) {
        let JwtConfig { issuer, audience, algorithms, jwks_file, jwks_url, .. } = &self.auth.jwt;
        let mut problem =
            |key: &str, what: String| problems.push(format!("auth.jwt.{key}: {what}"));
        let has_keys = jwks_file.is_some() || jwks_url.is_some();
        if issuer.is_empty() {
            if has_keys {
                problem("issuer", "must be the `iss` of the tokens whose keys are given".into());
            }
        } else {
            if audience.is_empty() || audience.iter().any(String::is_empty) {
                problem("audience", "must be the `aud` that tokens for this host have".into());
            }
            if !has_keys {
                problem("jwks_file", "set it, or `auth.jwt.jwks_url`, for the keys".into());
            }
            if algorithms.is_empty() {
                problem("algorithms", "must have one at least, such as RS256".into());
            }
        }
        if jwks_file.is_some() && jwks_url.is_some() {
            problem("jwks_url", "set either it or `auth.jwt.jwks_file`".into());
        }
        if let Some(why) = jwks_url.as_deref().and_then(url_problem) {
            problem("jwks_url", why.into());
        }
        let symmetric = algorithms.iter().find(|algorithm| algorithm.is_symmetric());
        if let (Some(algorithm), Some(_)) = (symmetric, jwks_url) {
            let why = format!("{algorithm:?} needs a shared secret: use `auth.jwt.jwks_file`");
            problem("algorithms", why);
        }
        if self.auth.jwt.leeway_ms > LEEWAY_MAX_MS {
            let leeway_ms = self.auth.jwt.leeway_ms;
            problem("leeway_ms", format!("{leeway_ms} must be at most {LEEWAY_MAX_MS}"));
        }
        for (value, roles) in &self.auth.jwt.roles {
            for error in roles.iter().filter_map(|role| role.parse::<Role>().err()) {
                problem(&format!("roles.{value}"), error.to_string());
            }
        }
        for (key, value) in [
            ("auth.jwt.jwks_refresh_ms", self.auth.jwt.jwks_refresh_ms),
            ("auth.jwt.jwks_min_interval_ms", self.auth.jwt.jwks_min_interval_ms),
            ("auth.sessions.max_age_ms", self.auth.sessions.max_age_ms),
        ] {
            at_least_one(key, value, problems);
        }
    }

    /// Refuses to let everyone in who can reach an address that is not this machine's own.
    pub(super) fn validate_anonymous(&self, listen: &str, problems: &mut Vec<String>) {
        problems.extend(self.anonymous_problem(listen));
    }

    /// The problem with listening on an address, if everyone who can reach it may do everything.
    pub(crate) fn anonymous_problem(&self, listen: &str) -> Option<String> {
        let AuthConfig { mode, allow_anonymous, .. } = self.auth;
        (mode == AuthMode::None && !allow_anonymous && !is_loopback(listen)).then(|| {
            format!(
                "auth.mode: `none` lets everyone in who can reach {listen}: set `auth.mode = \
                 \"tokens\"`, listen on 127.0.0.1, or set `auth.allow_anonymous = true`"
            )
        })
    }
}

impl JwtAlgorithm {
    /// Whether its keys are shared secrets.
    pub(crate) fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// Whether only programs of this machine reach an address.
fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn url_problem(url: &str) -> Option<&'static str> {
    let Ok(parsed) = url.parse::<http::Uri>() else { return Some("is not a URL") };
    let host = parsed.host().unwrap_or_default();
    match parsed.scheme_str() {
        _ if host.is_empty() => Some("is not a URL with a host"),
        Some("https") => None,
        Some("http") if is_loopback(&format!("{host}:0")) => None,
        Some("http") => Some("must be https: otherwise the keys can be replaced on their way"),
        _ => Some("must be an https URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        Config::from_toml(toml).err().map(|error| error.0).unwrap_or_default()
    }

    #[test]
    fn no_authentication_is_for_loopback_addresses() {
        for listen in ["127.0.0.1:80", "127.1.2.3:80", "localhost:80", "[::1]:80"] {
            assert_eq!(problems(&format!("http.listen = \"{listen}\"")), [""; 0], "{listen}");
        }
        for listen in ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "my-host:80", "[::ffff:8.8.8.8]:80"]
        {
            let toml = format!("http.listen = \"{listen}\"\n");
            let found = problems(&toml);
            let [problem] = &found[..] else { panic!("{listen}: {found:?}") };
            assert!(problem.starts_with("auth.mode: `none`") && problem.contains(listen));
            assert_eq!(problems(&format!("{toml}auth.allow_anonymous = true")), [""; 0]);
            assert_eq!(problems(&format!("{toml}auth.mode = \"tokens\"")), [""; 0]);
        }
    }

    #[test]
    fn every_problem_of_tokens_is_reported_with_its_key() {
        let jwt = "[auth.jwt]\nissuer = \"https://id.example\"\n";
        let whole = format!("{jwt}audience = [\"a\"]\njwks_url = \"https://id.example/keys\"\n");
        assert_eq!(problems(&whole), [""; 0]);
        for (toml, keys) in [
            (jwt.to_owned(), &["audience", "jwks_file"][..]),
            (format!("{whole}jwks_file = \"x\"\n"), &["jwks_url"]),
            (format!("{whole}algorithms = []\n"), &["algorithms"]),
            (format!("{whole}algorithms = [\"HS256\"]\n"), &["algorithms"]),
            (format!("{whole}algorithms = [\"none\"]\n"), &["algorithms[0]", "algorithms"]),
            (format!("{whole}leeway_ms = 3600000\n"), &["leeway_ms"]),
            (format!("{whole}roles.ops = [\"operator\"]\n"), &["roles"]),
            ("[auth.jwt]\njwks_file = \"x\"\n".to_owned(), &["issuer"]),
            (whole.replace("https://id.example/keys", "http://id.example/keys"), &["jwks_url"]),
        ] {
            let found = problems(&toml);
            assert_eq!(found.len(), keys.len(), "{toml}: {found:?}");
            for (problem, key) in found.iter().zip(keys) {
                assert!(problem.starts_with(&format!("auth.jwt.{key}")), "{problem}");
            }
        }
    }
}
