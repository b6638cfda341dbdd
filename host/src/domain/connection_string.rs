//! Connection strings as libpq accepts them: URIs with any number of servers, Unix sockets and
//! parameters, and `keyword=value` lists.
//!
//! Bounds: [`SERVERS_MAX`] servers. A parameter that Postrider cannot honour is refused by name. No
//! error shows a value, because it may be the password.
//! Reference: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Most servers in one connection string.
const SERVERS_MAX: usize = 16;
/// The parameters that have an effect.
const SUPPORTED: &str = "host, hostaddr, port, user, password, dbname, sslmode, sslrootcert, \
                         sslcert, sslkey, application_name, options, connect_timeout, \
                         target_session_attrs";

const TLS_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Why a connection string was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// A parsed connection string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionString {
    /// In the order in which they are tried; at least one.
    pub servers: Vec<Server>,
    /// Longest wait for one server.
    pub connect_timeout: Option<Duration>,
    /// None: the driver's default.
    pub user: Option<String>,
    /// None: the driver looks for it elsewhere.
    pub password: Option<String>,
    /// None: the name of the user.
    pub database: Option<String>,
    /// Shown by the server.
    pub application_name: String,
    /// `sslmode`, `sslrootcert`, `sslcert` and `sslkey`, as far as they are given.
    pub tls: Vec<(&'static str, String)>,
    /// Settings that the server applies to each session.
    pub options: Vec<(String, String)>,
}

/// A server of a connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Name, address, or folder of a Unix socket; none: the local server.
    pub host: Option<String>,
    /// None: the default.
    pub port: Option<u16>,
}

type Parameters = BTreeMap<String, String>;

impl ConnectionString {
    /// Parses a URI or a list of keywords.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let scheme = ["postgres://", "postgresql://"];
        let rest = scheme.into_iter().find_map(|scheme| text.strip_prefix(scheme));
        let mut parameters = match rest {
            Some(rest) => uri(rest)?,
            None => keywords(text)?,
        };
        check_session(parameters.remove("target_session_attrs").as_deref())?;
        remove_defaults(&mut parameters)?;
        let connect_timeout = seconds(parameters.remove("connect_timeout"))?;
        let servers = servers(&mut parameters)?;
        let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        let fallback = take("fallback_application_name");
        let application_name = take("application_name").or(fallback);
        let tls = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
        let parsed = Self {
            servers,
            connect_timeout,
            user: take("user"),
            password: take("password"),
            database: take("dbname"),
            application_name: application_name.unwrap_or_else(|| "postrider".to_owned()),
            tls: tls.into_iter().filter_map(|name| Some((name, take(name)?))).collect(),
            options: startup_options(&take("options").unwrap_or_default())?,
        };
        parsed.check_tls()?;
        match parameters.keys().next() {
            None => Ok(parsed),
            Some(name) => Err(UrlError::new(format!(
                "the parameter `{name}` is not supported; remove it. Supported: {SUPPORTED}"
            ))),
        }
    }
}

impl ConnectionString {
    /// A parameter of the encryption.
    pub fn tls(&self, name: &str) -> Option<&str> {
        let found = self.tls.iter().find(|(one, _)| *one == name);
        found.map(|(_, value)| value.as_str())
    }

    fn check_tls(&self) -> Result<(), UrlError> {
        if self.tls("sslmode").is_some_and(|mode| !TLS_MODES.contains(&mode)) {
            return Err(UrlError::new(format!("sslmode must be one of {}", TLS_MODES.join(", "))));
        }
        for name in ["sslrootcert", "sslcert"] {
            if self.tls(name).is_some() && !self.requires_tls() {
                return Err(UrlError::new(format!(
                    "`{name}` needs an encrypted connection: add sslmode=verify-full"
                )));
            }
        }
        match (self.tls("sslcert"), self.tls("sslkey")) {
            (Some(_), None) => {
                Err(UrlError::new("`sslcert` needs the key of the certificate: add sslkey"))
            }
            (None, Some(_)) => Err(UrlError::new("`sslkey` needs its certificate: add sslcert")),
            _ => Ok(()),
        }
    }

    /// Whether a connection without encryption is refused.
    pub fn requires_tls(&self) -> bool {
        matches!(self.tls("sslmode"), Some("require" | "verify-ca" | "verify-full"))
    }
}

/// `user:password@host:port,host:port/database?name=value&…`
fn uri(text: &str) -> Result<Parameters, UrlError> {
    let mut parameters = Parameters::new();
    // As in libpq: credentials end at the first `@` that no `/` precedes.
    let (credentials, rest) = match text.find(['@', '/']) {
        Some(at) if text.as_bytes()[at] == b'@' => (&text[..at], &text[at + 1..]),
        _ => ("", text),
    };
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    if !user.is_empty() {
        parameters.insert("user".into(), decoded(user, "user")?);
    }
    if let Some(password) = password {
        parameters.insert("password".into(), decoded(password, "password")?);
    }
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = location.split_once('/').unwrap_or((location, ""));
    let (hosts, ports) = authorities(authority)?;
    if hosts.iter().any(|host| !host.is_empty()) {
        parameters.insert("host".into(), hosts.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        parameters.insert("port".into(), ports.join(","));
    }
    if !database.is_empty() {
        parameters.insert("dbname".into(), decoded(database, "database")?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(UrlError::new("each parameter after `?` must be `name=value`"));
        };
        let name = decoded(name, "name of a parameter")?;
        let value = decoded(value, &name)?;
        set(&mut parameters, &name, value)?;
    }
    Ok(parameters)
}

/// Host and port of each server; IPv6 addresses are in brackets.
fn authorities(text: &str) -> Result<(Vec<String>, Vec<String>), UrlError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in text.split(',') {
        let (host, port) = match server.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| UrlError::new("the `]` of an IPv6 address is missing"))?;
                let port = match rest {
                    "" => "",
                    _ => rest
                        .strip_prefix(':')
                        .ok_or_else(|| UrlError::new("only `:port` may follow an IPv6 address"))?,
                };
                (address, port)
            }
            None => server.split_once(':').unwrap_or((server, "")),
        };
        hosts.push(decoded(host, "host")?);
        ports.push(port.to_owned());
    }
    Ok((hosts, ports))
}

/// `name=value name='quoted value'`
fn keywords(text: &str) -> Result<Parameters, UrlError> {
    let mut parameters = Parameters::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| {
            UrlError::new(
                "expected postgres://user:password@host:5432/database, or a list of `name=value`",
            )
        })?;
        let (value, after) = keyword_value(after.trim_start())?;
        set(&mut parameters, name.trim(), value)?;
        rest = after.trim_start();
    }
    Ok(parameters)
}

/// The value at the start of `text`, and what follows it.
fn keyword_value(text: &str) -> Result<(String, &str), UrlError> {
    let quoted = text.strip_prefix('\'');
    let mut value = String::new();
    let mut characters = quoted.unwrap_or(text).char_indices();
    let body = quoted.unwrap_or(text);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted.is_some() => return Ok((value, &body[at + 1..])),
            _ if quoted.is_none() && character.is_whitespace() => return Ok((value, &body[at..])),
            _ => value.push(character),
        }
    }
    match quoted {
        None => Ok((value, "")),
        Some(_) => Err(UrlError::new("a quoted value has no closing quote")),
    }
}

fn set(parameters: &mut Parameters, name: &str, value: String) -> Result<(), UrlError> {
    // Other names of the same parameters, as in earlier drivers.
    let name = match name {
        "ssl-mode" => "sslmode",
        "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "ssl-cert" => "sslcert",
        "ssl-key" => "sslkey",
        "database" => "dbname",
        "username" => "user",
        name => name,
    };
    match name.strip_prefix("options[").and_then(|rest| rest.strip_suffix(']')) {
        Some(option) => {
            let options = parameters.entry("options".into()).or_default();
            // Writing into a string does not fail.
            let _ =
                write!(options, " -c {option}={}", value.replace('\\', "\\\\").replace(' ', "\\ "));
            Ok(())
        }
        None if name.is_empty() => Err(UrlError::new("a parameter has no name")),
        None => {
            parameters.insert(name.to_owned(), value);
            Ok(())
        }
    }
}

fn seconds(text: Option<String>) -> Result<Option<Duration>, UrlError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let seconds: i64 =
        text.parse().map_err(|_| UrlError::new("connect_timeout must be a number of seconds"))?;
    // As in libpq: zero and negative numbers are no limit.
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

/// Postrider writes, so it always looks for a server that accepts writes.
fn check_session(wanted: Option<&str>) -> Result<(), UrlError> {
    match wanted {
        None | Some("" | "any" | "read-write" | "primary") => Ok(()),
        Some("read-only" | "standby" | "prefer-standby") => Err(UrlError::new(
            "target_session_attrs names a standby, but Postrider writes; use `read-write`",
        )),
        Some(_) => {
            Err(UrlError::new("target_session_attrs must be `read-write`, `primary` or `any`"))
        }
    }
}

/// Removes parameters whose value asks for what happens anyway.
fn remove_defaults(parameters: &mut Parameters) -> Result<(), UrlError> {
    let accepted: [(&str, &[&str]); 8] = [
        ("client_encoding", &["utf8", "utf-8", "auto"]),
        ("channel_binding", &["prefer", "disable"]),
        ("gssencmode", &["prefer", "disable"]),
        ("sslcompression", &["0"]),
        ("sslnegotiation", &["postgres"]),
        ("load_balance_hosts", &["disable"]),
        ("keepalives", &["0", "1"]),
        ("replication", &["false", "off", "no", "0"]),
    ];
    // The host sets it itself.
    parameters.remove("statement-cache-capacity");
    for (name, values) in accepted {
        let Some(value) = parameters.remove(name) else { continue };
        if !value.is_empty() && !values.contains(&value.to_ascii_lowercase().as_str()) {
            return Err(UrlError::new(format!(
                "`{name}` is supported only as {}; remove it",
                values.join(" or ")
            )));
        }
    }
    Ok(())
}

fn servers(parameters: &mut Parameters) -> Result<Vec<Server>, UrlError> {
    let names = parameters.remove("host").unwrap_or_default();
    let addresses = parameters.remove("hostaddr").unwrap_or_default();
    let ports = parameters.remove("port").unwrap_or_default();
    // An address saves looking up the name.
    let listed = if addresses.is_empty() { names } else { addresses };
    let hosts: Vec<String> = listed.split(',').map(str::to_owned).collect();
    if hosts.len() > SERVERS_MAX {
        return Err(UrlError::new(format!("more than {SERVERS_MAX} hosts")));
    }
    let ports: Vec<Option<u16>> = ports.split(',').map(port).collect::<Result<_, _>>()?;
    if ports.len() != 1 && ports.len() != hosts.len() {
        return Err(UrlError::new(format!(
            "{} ports for {} hosts: give one port for all, or one for each",
            ports.len(),
            hosts.len()
        )));
    }
    let port_of = |at: usize| if ports.len() == 1 { ports[0] } else { ports[at] };
    let server = |(at, host): (usize, String)| Server {
        host: Some(host).filter(|host| !host.is_empty()),
        port: port_of(at),
    };
    Ok(hosts.into_iter().enumerate().map(server).collect())
}

fn port(text: &str) -> Result<Option<u16>, UrlError> {
    match text.trim() {
        "" => Ok(None),
        text => match text.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(UrlError::new("the port must be a number from 1 to 65535")),
        },
    }
}

/// `-c name=value --name=value`, with a backslash before spaces and backslashes of a value.
fn startup_options(text: &str) -> Result<Vec<(String, String)>, UrlError> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("never empty");
        match character {
            '\\' => word.extend(characters.next()),
            _ if !character.is_whitespace() => word.push(character),
            _ if word.is_empty() => {}
            _ => words.push(String::new()),
        }
    }
    let mut options = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match word.as_str() {
            "-c" => words.next(),
            word => word.strip_prefix("--").or(word.strip_prefix("-c")).map(str::to_owned),
        };
        let pair = setting.as_deref().and_then(|setting| setting.split_once('='));
        let Some((name, value)) = pair else {
            return Err(UrlError::new("options must be a list of `-c name=value`"));
        };
        options.push((name.to_owned(), value.to_owned()));
    }
    Ok(options)
}

/// Percent-decodes the part named `part`.
fn decoded(text: &str, part: &str) -> Result<String, UrlError> {
    let invalid = || UrlError::new(format!("the {part} has an invalid percent-encoding"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let byte = high.zip(low).map(|(high, low)| high * 16 + low).filter(|byte| *byte != 0);
        bytes.push(byte.ok_or_else(invalid)? as u8);
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host, port, user and database of each server.
    fn servers(text: &str) -> Vec<(String, u16, String, String)> {
        let parsed =
            ConnectionString::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let of = |server: &Server| {
            let port = server.port.unwrap_or(5432);
            (text(&server.host), port, text(&parsed.user), text(&parsed.database))
        };
        parsed.servers.iter().map(of).collect()
    }

    fn server(host: &str, port: u16, user: &str, database: &str) -> (String, u16, String, String) {
        (host.into(), port, user.into(), database.into())
    }

    #[test]
    fn the_forms_of_libpq_are_accepted() {
        for (text, expected) in [
            ("postgres://u@db/x", vec![server("db", 5432, "u", "x")]),
            ("postgresql://u:p%40%2F@db:6000/x%2Fy", vec![server("db", 6000, "u", "x/y")]),
            ("postgres://u@[::1]:6000/x", vec![server("::1", 6000, "u", "x")]),
            (
                "postgres://u@a:1,b:2,c/x?target_session_attrs=read-write",
                vec![
                    server("a", 1, "u", "x"),
                    server("b", 2, "u", "x"),
                    server("c", 5432, "u", "x"),
                ],
            ),
            ("postgres://u@a,b/x?port=7", vec![server("a", 7, "u", "x"), server("b", 7, "u", "x")]),
            ("postgres:///x?host=/run/pg&user=u", vec![server("/run/pg", 5432, "u", "x")]),
            ("postgres://u@/x?host=/run/pg&port=6", vec![server("/run/pg", 6, "u", "x")]),
            ("postgres://u@%2Frun%2Fpg/x", vec![server("/run/pg", 5432, "u", "x")]),
            ("postgres://u@%2Frun%2Fpg:6/x", vec![server("/run/pg", 6, "u", "x")]),
            ("postgres://u@ignored/x?hostaddr=10.0.0.1", vec![server("10.0.0.1", 5432, "u", "x")]),
            (
                "postgres://?host=a,b&dbname=x&user=u",
                vec![server("a", 5432, "u", "x"), server("b", 5432, "u", "x")],
            ),
            ("postgres://u:a?b#c@db/x", vec![server("db", 5432, "u", "x")]),
            ("host=db port=6 user=u dbname='a b'", vec![server("db", 6, "u", "a b")]),
            (
                r"host = /run/pg user=u password='it\'s' dbname=x",
                vec![server("/run/pg", 5432, "u", "x")],
            ),
            (
                "postgres://u@db/x?sslmode=prefer&connect_timeout=3&application_name=shop&options=-c%20geqo%3Doff%20--jit=off&options[work_mem]=4MB&gssencmode=disable&channel_binding=prefer",
                vec![server("db", 5432, "u", "x")],
            ),
        ] {
            assert_eq!(servers(text), expected, "{text}");
        }
        let parsed = ConnectionString::parse(
            "postgres://db/x?connect_timeout=3&options=-c%20geqo%3Doff%20--jit=off&options[a]=b%20c",
        )
        .unwrap();
        assert_eq!(parsed.connect_timeout, Some(Duration::from_secs(3)));
        let options = [("geqo", "off"), ("jit", "off"), ("a", "b c")];
        assert_eq!(parsed.options, options.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(parsed.application_name, "postrider");
        let parsed = ConnectionString::parse(r"host=db password='it\'s'").unwrap();
        assert_eq!(parsed.password.as_deref(), Some("it's"));
    }

    #[test]
    fn a_missing_host_is_the_local_server() {
        for text in ["postgres:///x?user=u", "postgres://u@/x", "user=u dbname=x"] {
            assert_eq!(servers(text), [server("", 5432, "u", "x")], "{text}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_without_showing_secrets() {
        for (text, words) in [
            ("postgres://u:secret@db:99999/x", "port"),
            ("postgres://u:secret@db:x/x", "port"),
            ("postgres://u:secret%zz@db/x", "password"),
            ("postgres://u:secret@[::1/x", "IPv6"),
            ("postgres://u:secret@db/x?target_session_attrs=standby", "standby"),
            ("postgres://u:secret@db/x?target_session_attrs=secret", "target_session_attrs"),
            ("postgres://u:secret@db/x?service=secret", "service"),
            ("postgres://u:secret@db/x?channel_binding=require", "channel_binding"),
            ("postgres://u:secret@db/x?connect_timeout=secret", "connect_timeout"),
            ("postgres://u:secret@db/x?sslmode=secret", "sslmode"),
            ("postgres://u:secret@a,b/x?port=1,2,3", "3 ports for 2 hosts"),
            ("postgres://u:secret@db/x?options=secret", "options"),
            ("postgres://u:secret@db/x?secret", "name=value"),
            ("host=db password='secret", "closing quote"),
            ("just a secret", "name=value"),
        ] {
            let error = ConnectionString::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
