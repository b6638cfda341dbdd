//! What a configuration must fulfil beyond the types of its values. Every problem is reported with
//! its key and what to do.

use super::features::Feature;
use super::urls::scheme;
use super::{BrokerUrl, Config, StoreUrl, subjects};
use crate::domain::event::topic_problem;
use crate::domain::json::{VALUE_BYTES, VALUES_MAX};
use crate::domain::name::is_name;

/// Fewest connections of the store's pool: one for a batch that holds locks, one for readers.
const CONNECTIONS_MIN: u32 = 2;
/// Smallest `recording.max_bytes`: a decision does not fit into less.
const RECORDING_MIN_BYTES: usize = 256;
/// Largest `recording.max_bytes`: the recordings of a batch are held in memory.
const RECORDING_MAX_BYTES: usize = 1 << 20;
/// What the values of a body need in memory once it is parsed.
const PARSED_MAX_BYTES: u64 = (VALUES_MAX * VALUE_BYTES) as u64;

impl Config {
    /// Adds every problem to `problems`.
    pub(super) fn find_problems(&self, problems: &mut Vec<String>) {
        if !is_name(&self.namespace) {
            problems
                .push(format!("namespace: `{}` must match [a-z][a-z0-9-]{{0,39}}", self.namespace));
        }
        self.find_problems_of_process(problems);
        self.find_problems_of_pipeline(problems);
        self.find_problems_of_namespaces(problems);
    }

    fn find_problems_of_process(&self, problems: &mut Vec<String>) {
        if let Some(problem) = listen_problem(&self.http.listen) {
            problems.push(format!("http.listen: `{}` {problem}", self.http.listen));
        } else {
            self.validate_anonymous(&self.http.listen, problems);
        }
        for host in &self.http.allowed_hosts {
            if let Some(problem) = host_problem(host) {
                problems.push(format!("http.allowed_hosts: `{host}` {problem}"));
            }
        }
        for origin in &self.http.cors.allowed_origins {
            if let Some(problem) = origin_problem(origin) {
                problems.push(format!("http.cors.allowed_origins: `{origin}` {problem}"));
            }
        }
        if let Some(url) = &self.http.console.trace_url
            && let Some(problem) = trace_url_problem(url)
        {
            problems.push(format!("http.console.trace_url: `{url}` {problem}"));
        }
        self.http.tls.validate(problems);
        self.http.rate_limits.find_problems_of_process(problems);
        for (key, value) in [
            ("http.connections_max", self.http.connections_max as u64),
            ("http.head_timeout_ms", self.http.head_timeout_ms),
            ("http.idle_timeout_ms", self.http.idle_timeout_ms),
            ("http.stall_timeout_ms", self.http.stall_timeout_ms),
            ("runtime.instances_max", u64::from(self.runtime.instances_max)),
            ("runtime.epoch_tick_ms", self.runtime.epoch_tick_ms),
            ("runtime.stack_max_bytes", self.runtime.stack_max_bytes as u64),
            ("runtime.compile_memory_max_bytes", self.runtime.compile_memory_max_bytes),
            ("runtime.compile_time_max_ms", self.runtime.compile_time_max_ms),
        ] {
            at_least_one(key, value, problems);
        }
    }

    /// The problems of one namespace, as keys of its own sections.
    pub(super) fn find_problems_of_pipeline(&self, problems: &mut Vec<String>) {
        if let Err(found) = self.plugins.provenance() {
            problems.extend(found);
        }
        self.validate_urls(problems);
        self.validate_auth(problems);
        self.validate_subscriptions(problems);
        self.ingress.find_problems(problems);
        self.encryption.find_problems(problems);
        self.validate_numbers(problems);
        self.validate_subjects(problems);
        self.validate_state_places(problems);
        self.defaults.validate("defaults", problems);
        // Defaults would apply to every file that is added to the folder.
        for (key, given) in [
            ("grants.http", !self.defaults.grants.http.is_empty()),
            ("secrets", !self.defaults.secrets.is_empty()),
            ("plugin", self.defaults.plugin.is_some()),
        ] {
            if given {
                problems
                    .push(format!("defaults.{key}: must be set per stage, under [stages.<name>]"));
            }
        }
        for (name, stage) in &self.stages {
            if !is_name(name) {
                problems.push(format!("stages.{name}: the name must match [a-z][a-z0-9-]{{0,39}}"));
            }
            stage.validate(&format!("stages.{name}"), problems);
            if stage.plugin.is_some() && !self.has_plugins_dir() {
                problems.push(format!(
                    "stages.{name}.plugin: there is no plugins folder: set plugins.dir"
                ));
            }
        }
    }

    fn validate_urls(&self, problems: &mut Vec<String>) {
        // A URL may hold a password: only its scheme is shown.
        match StoreUrl::parse(&self.store.url) {
            Some(url) => {
                problems.extend(Feature::of_store(url).problem("store.url"));
                problems.extend(url.tls_feature().and_then(|tls| tls.problem("store.url")));
                problems.extend(url.problem().map(|problem| format!("store.url: {problem}")));
            }
            None => problems.push(format!(
                "store.url: `{}…` must be `sqlite:<path>`, `postgres://…` or `host=… dbname=…`",
                scheme(&self.store.url)
            )),
        }
        match BrokerUrl::parse(&self.broker.url) {
            Some(url) => {
                let features = Feature::of_broker(url).iter();
                problems.extend(features.filter_map(|feature| feature.problem("broker.url")));
                self.broker.tls.validate(url, problems);
            }
            None => problems.push(format!(
                "broker.url: `{}…` must be `embedded:`, `amqp://…` or `amqps://…`",
                scheme(&self.broker.url)
            )),
        }
    }

    fn validate_subscriptions(&self, problems: &mut Vec<String>) {
        for pattern in self.broker.subscriptions.iter().flatten() {
            if let Some(why) = topic_problem(pattern) {
                problems.push(format!("broker.subscriptions: the topic pattern `{pattern}` {why}"));
            }
        }
    }

    fn validate_numbers(&self, problems: &mut Vec<String>) {
        for (key, value) in [
            ("http.body_max_bytes", self.http.body_max_bytes as u64),
            ("http.request_timeout_ms", self.http.request_timeout_ms),
            ("store.lease_ms", self.store.lease_ms),
            ("store.group_max_ops", self.store.group_max_ops as u64),
            ("store.timeout_ms", self.store.timeout_ms),
            ("store.migration_timeout_ms", self.store.migration_timeout_ms),
            ("broker.queue_capacity", u64::from(self.broker.queue_capacity)),
            ("broker.queue_max_bytes", self.broker.queue_max_bytes),
            ("broker.relay_max_bytes", self.broker.relay_max_bytes),
            ("retention.interval_ms", self.retention.interval_ms),
            ("retention.batch", u64::from(self.retention.batch)),
            ("events.expiry_ms", self.events.expiry_ms),
            ("events.hops_max", u64::from(self.events.hops_max)),
            ("events.chain_events_max", self.events.chain_events_max),
        ] {
            at_least_one(key, value, problems);
        }
        self.http.rate_limits.find_problems(problems);
        if self.store.connections < CONNECTIONS_MIN {
            problems.push(format!(
                "store.connections: {} must be at least {CONNECTIONS_MIN}: batches that hold locks \
                 use half of them",
                self.store.connections
            ));
        }
        if !(RECORDING_MIN_BYTES..=RECORDING_MAX_BYTES).contains(&self.recording.max_bytes) {
            let max_bytes = self.recording.max_bytes;
            problems.push(format!("recording.max_bytes: {max_bytes} must be from {RECORDING_MIN_BYTES} to {RECORDING_MAX_BYTES}"));
        }
        let body_most = self.http.body_max_bytes as u64 + PARSED_MAX_BYTES;
        if self.http.bodies_max_bytes < body_most {
            problems.push(format!(
                "http.bodies_max_bytes: {} must be at least {body_most}: `http.body_max_bytes`, and \
                 {PARSED_MAX_BYTES} for its values once it is parsed",
                self.http.bodies_max_bytes
            ));
        }
        problems.extend(self.period_problem("retention.max_age_ms", self.retention.max_age_ms));
    }

    fn validate_subjects(&self, problems: &mut Vec<String>) {
        subjects::kinds(&self.subjects, problems);
        for (name, config) in self.subjects.iter().filter(|(_, config)| config.enabled) {
            let periods =
                config.max_age_ms.map(|age_ms| (format!("subjects.{name}.max_age_ms"), age_ms));
            problems.extend(periods.and_then(|(key, age_ms)| self.period_problem(&key, age_ms)));
        }
        for pattern in &self.events.external_event_types {
            if let Some(why) = topic_problem(pattern) {
                problems
                    .push(format!("events.external_event_types: the event type `{pattern}` {why}"));
            }
        }
        if !is_name(&self.products.stage) {
            problems.push(format!("products.stage: `{}` is not a stage name", self.products.stage));
        }
    }

    /// Whether a folder of plugins is watched.
    pub(crate) fn has_plugins_dir(&self) -> bool {
        !self.plugins.dir.as_os_str().is_empty()
    }

    /// Why a retention period is too short: a copy of a deleted subject's event would be processed
    /// again, so every copy must have expired by then.
    fn period_problem(&self, key: &str, max_age_ms: u64) -> Option<String> {
        let least_ms = self.events.expiry_ms.saturating_mul(2);
        (max_age_ms != 0 && max_age_ms < least_ms).then(|| {
            format!("{key}: {max_age_ms} must be 0 or at least twice events.expiry_ms: {least_ms}")
        })
    }

    /// Files that the configuration names and that are not there. A host starts all the same, and
    /// loads them when they arrive.
    pub fn missing_files(&self) -> Vec<String> {
        let plugins = self.stages.iter().filter_map(|(name, stage)| {
            let file = stage.plugin.as_ref()?;
            let place = self.plugins.dir.join(file);
            (!place.is_file()).then(|| {
                format!(
                    "stages.{name}.plugin: {} does not exist: add the file, or correct the name",
                    place.display()
                )
            })
        });
        let further = self.namespaces.iter().flat_map(|(name, config)| {
            let missing = config.missing_files().into_iter();
            missing.map(move |problem| format!("namespaces.{name}.{problem}"))
        });
        plugins.chain(further).collect()
    }
}

/// Why a text is not an address to listen on; none if it is one.
fn listen_problem(listen: &str) -> Option<&'static str> {
    let Some((host, port)) = listen.rsplit_once(':') else {
        return Some("has no port: write `host:port`, such as 127.0.0.1:8000");
    };
    if port.parse::<u16>().is_err() {
        return Some("has no valid port: it must be a number from 0 to 65535");
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() {
        return Some("has no host: write 0.0.0.0 for every address of this machine");
    }
    if host.contains(':') && !bracketed {
        return Some("is ambiguous: write an IPv6 address in brackets, such as [::1]:8000");
    }
    let named = |one: char| one.is_ascii_alphanumeric() || "-._".contains(one);
    let valid = if bracketed {
        host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.chars().all(named)
    };
    (!valid).then_some("has no valid host: write a name or an address, without a scheme")
}

/// Why a text is not the name of a host; none if it is one, or `*`.
fn host_problem(host: &str) -> Option<&'static str> {
    let named = |one: char| {
        one.is_ascii_lowercase() || one.is_ascii_digit() || matches!(one, '-' | '.' | '_')
    };
    let valid = host == "*" || (!host.is_empty() && host.chars().all(named));
    (!valid).then_some("is not the name of a host: write it in lower case, without scheme and port")
}

/// Why a text is not an origin as browsers send it; none if it is one, or `*`.
fn origin_problem(origin: &str) -> Option<&'static str> {
    const EXPECTED: &str = "is not an origin: write scheme, host and port as browsers do, such as \
                            https://dashboard.example or http://localhost:3000, or * for all";
    if origin == "*" {
        return None;
    }
    let Ok(parsed) = origin.parse::<http::Uri>() else { return Some(EXPECTED) };
    let scheme = parsed.scheme_str();
    let host = parsed.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let usual_port = match scheme {
        Some("http") => ":80",
        Some("https") => ":443",
        _ => return Some(EXPECTED),
    };
    if host.ends_with(usual_port) {
        return Some("has the usual port of its scheme, which browsers leave out");
    }
    // No path, not even `/`, no user, lower case: origins are compared as texts.
    let canonical = format!("{}://{host}", scheme.unwrap_or_default());
    let valid = origin == canonical && !host.contains(['@', '*']) && host == host.to_lowercase();
    (!valid).then_some(EXPECTED)
}

/// The place of the id in the address of a trace.
const TRACE_ID: &str = "{trace_id}";

/// What is wrong with the address of a trace. The console links to it, so no other scheme is allowed.
fn trace_url_problem(url: &str) -> Option<&'static str> {
    if !url.contains(TRACE_ID) {
        return Some("has no `{trace_id}`: write it where the id of the trace belongs");
    }
    let parsed = url.replace(TRACE_ID, "0").parse::<http::Uri>().ok();
    let web = parsed.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    (!web).then_some("is not the address of a page: write http:// or https://, host and path")
}

pub(super) fn at_least_one(key: &str, value: u64, problems: &mut Vec<String>) {
    if value == 0 {
        problems.push(format!("{key}: must be at least 1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for valid in [
            "*",
            "https://dashboard.example",
            "http://localhost:3000",
            "http://[::1]:8080",
            "https://a.example:8443",
        ] {
            assert_eq!(origin_problem(valid), None, "{valid}");
        }
        for invalid in [
            "",
            "null",
            "dashboard.example",
            "https://dashboard.example/",
            "https://dashboard.example/app",
            "https://Dashboard.example",
            "https://dashboard.example:443",
            "http://dashboard.example:80",
            "https://*.example",
            "https://user@dashboard.example",
            "ftp://dashboard.example",
            "https://",
        ] {
            assert!(origin_problem(invalid).is_some(), "{invalid}");
        }
    }

    #[test]
    fn addresses_to_listen_on_are_checked() {
        for valid in
            ["127.0.0.1:8000", "0.0.0.0:0", "localhost:80", "[::1]:8000", "my-host.x:65535"]
        {
            assert_eq!(listen_problem(valid), None, "{valid}");
        }
        for (invalid, why) in [
            ("127.0.0.1", "no port"),
            ("", "no port"),
            ("8000", "no port"),
            ("127.0.0.1:", "no valid port"),
            ("127.0.0.1:http", "no valid port"),
            ("127.0.0.1:65536", "no valid port"),
            (":8000", "no host"),
            ("::1:8000", "brackets"),
            ("[::x]:8000", "no valid host"),
            ("http://127.0.0.1:8000", "brackets"),
            ("my host:8000", "no valid host"),
        ] {
            assert!(listen_problem(invalid).is_some_and(|text| text.contains(why)), "{invalid}");
        }
    }
}
