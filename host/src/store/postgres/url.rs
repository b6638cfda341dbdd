//! The driver's options for the servers of a connection string.

use std::fmt::Write as _;
use std::str::FromStr as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::domain::connection_string::{ConnectionString, Server, UrlError};

/// Everything but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The options for one server. They include the driver's defaults: `PGUSER` and the other variables,
/// and the password file, which the driver reads while it parses a URL.
pub(super) fn options(
    parsed: &ConnectionString,
    server: &Server,
) -> Result<PgConnectOptions, UrlError> {
    let mut url = String::from("postgres://");
    let user = parsed.user.clone().or_else(system_user);
    url.extend(user.as_deref().map(encoded));
    url.extend(parsed.password.as_deref().map(|password| format!(":{}", encoded(password))));
    if user.is_some() || parsed.password.is_some() {
        url.push('@');
    }
    // A URL has no form for a missing host, a socket or an address in brackets: they are set below.
    let host = server.host.as_deref();
    let is_name = |host: &&str| !host.starts_with('/') && !host.contains(':');
    url.push_str(&host.filter(is_name).map_or_else(|| "localhost".to_owned(), encoded));
    url.extend(server.port.map(|port| format!(":{port}")));
    url.extend(parsed.database.as_deref().map(|name| format!("/{}", encoded(name))));
    url.push_str("?application_name=");
    url.push_str(&encoded(&parsed.application_name));
    for (name, value) in &parsed.tls {
        let value = if *name == "sslmode" { mode(parsed, value) } else { value };
        // Writing into a string does not fail.
        let _ = write!(url, "&{name}={}", encoded(value));
    }
    // The driver's error may quote the URL, with its password.
    let options = PgConnectOptions::from_str(&url)
        .map_err(|_| UrlError::new("the host or a certificate is invalid"))?;
    let options = match host {
        Some(host) if is_this_machine(host) && is_default_mode(parsed) => {
            options.ssl_mode(PgSslMode::Disable)
        }
        _ => options,
    };
    let options = match host {
        None => options.host(PgConnectOptions::new_without_pgpass().get_host()),
        Some(folder) if folder.starts_with('/') => options.socket(folder),
        Some(host) => options.host(host),
    };
    if parsed.options.is_empty() {
        return Ok(options);
    }
    Ok(options.options(parsed.options.iter().map(|(name, value)| (name, value))))
}

/// The mode for the driver. It trusts the authorities of the machine beside `sslrootcert`, so a
/// certificate says nothing unless the name in it is checked as well. As in libpq, a connection that
/// names an authority asks for that check.
fn mode<'a>(parsed: &ConnectionString, mode: &'a str) -> &'a str {
    match mode {
        "verify-ca" => "verify-full",
        "require" if parsed.tls("sslrootcert").is_some() => "verify-full",
        mode => mode,
    }
}

/// Whether no mode is configured. Then the driver prefers encryption without any check, which
/// protects nothing on the way to a server of the same machine.
fn is_default_mode(parsed: &ConnectionString) -> bool {
    parsed.tls.is_empty() && std::env::var_os("PGSSLMODE").is_none()
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The user of this process, as in libpq. The driver only knows `PGUSER`.
fn system_user() -> Option<String> {
    let set = std::env::var("PGUSER").ok().filter(|user| !user.is_empty());
    set.or_else(|| whoami::username().ok())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> PgConnectOptions {
        let parsed = ConnectionString::parse(text).unwrap();
        options(&parsed, &parsed.servers[0]).unwrap()
    }

    #[test]
    fn a_certificate_is_checked_with_its_name() {
        let mode = |text: &str| format!("{:?}", only(text).get_ssl_mode());
        for (text, expected) in [
            ("postgres://u@db/x", "Prefer"),
            ("postgres://u@127.0.0.1/x", "Disable"),
            ("postgres://u@[::1]/x", "Disable"),
            ("postgres://u@localhost/x", "Disable"),
            ("postgres://u@localhost/x?sslmode=prefer", "Prefer"),
            ("postgres://u@db/x?sslmode=require", "Require"),
            ("postgres://u@db/x?sslmode=require&sslrootcert=ca", "VerifyFull"),
            ("postgres://u@db/x?sslmode=verify-ca&sslrootcert=ca", "VerifyFull"),
            ("postgres://u@db/x?sslmode=verify-full", "VerifyFull"),
        ] {
            assert_eq!(mode(text), expected, "{text}");
        }
    }

    #[test]
    fn the_driver_gets_what_the_string_says() {
        let found = only("postgres://u@[::1]:6000/x%2Fy?application_name=my%20shop");
        assert_eq!((found.get_host(), found.get_port()), ("::1", 6000));
        assert_eq!((found.get_username(), found.get_database()), ("u", Some("x/y")));
        assert_eq!(found.get_application_name(), Some("my shop"));
        let found = only("postgres://u@/x?host=/run/pg&port=6&options=-c%20geqo%3Doff");
        assert_eq!(found.get_socket().unwrap().to_str(), Some("/run/pg"));
        assert!(found.get_options().unwrap().ends_with("-c geqo=off"));
        let found = only("postgres:///x?user=u");
        assert!(found.get_host().starts_with('/') || found.get_host() == "localhost");
    }
}
