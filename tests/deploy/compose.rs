//! `docker-compose.yml`: what it mounts exists, and what its services and their configuration refer to is
//! a service that runs with them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use super::deploy;
use crate::support::harness::root;
use crate::support::yaml;

/// The services, with what they take from another one by `<<`.
fn services() -> Result<BTreeMap<String, Map<String, Value>>> {
    let compose = yaml::read(&root().join("docker-compose.yml"))?;
    let services = compose["services"].as_object().context("services")?;
    let merged = services.iter().map(|(name, service)| {
        let mut whole = service["<<"].as_object().cloned().unwrap_or_default();
        whole.extend(service.as_object().cloned().unwrap_or_default());
        (name.clone(), whole)
    });
    Ok(merged.collect())
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn profiles(service: &Map<String, Value>) -> BTreeSet<&str> {
    texts(service.get("profiles")).collect()
}

#[test]
fn what_is_mounted_exists() -> Result<()> {
    let mut mounted = 0;
    for (name, service) in services()? {
        for volume in texts(service.get("volumes")) {
            let source = volume.split(':').next().unwrap_or_default();
            let Some(path) = source.strip_prefix("./") else { continue };
            ensure!(root().join(path).is_dir(), "{name} mounts {source}");
            mounted += 1;
        }
    }
    ensure!(mounted > 2, "only {mounted} folders were found");
    Ok(())
}

/// A service without a profile must not need one with a profile, and one of a profile only those that run
/// with it.
#[test]
fn services_need_only_those_that_run_with_them() -> Result<()> {
    let services = services()?;
    for (name, service) in &services {
        let needed: Vec<&str> = match service.get("depends_on") {
            Some(Value::Object(needed)) => needed.keys().map(String::as_str).collect(),
            other => texts(other).collect(),
        };
        for other in needed {
            let needed = services.get(other).with_context(|| format!("{name} needs {other}"))?;
            let runs = profiles(needed).is_empty()
                || (!profiles(service).is_empty()
                    && profiles(service).is_subset(&profiles(needed)));
            ensure!(runs, "{name} needs {other}, which does not always run with it");
        }
    }
    Ok(())
}

/// Name and port of the service in an address such as `http://jaeger:4318`.
fn service_and_port(url: &str) -> Option<(&str, &str)> {
    let (_, place) = url.split_once("://").unwrap_or(("", url));
    place.split('/').next()?.split_once(':')
}

#[test]
fn data_sources_targets_and_traces_are_services_of_the_profile() -> Result<()> {
    let services = services()?;
    let mut referred = Vec::new();
    for entry in std::fs::read_dir(deploy("grafana/provisioning/datasources"))? {
        let path = entry?.path();
        let sources = yaml::read(&path)?;
        for source in sources["datasources"].as_array().context("datasources")? {
            referred.push((path.display().to_string(), source["url"].clone()));
        }
    }
    let scrape = yaml::read(&deploy("prometheus/prometheus.yml"))?;
    for job in scrape["scrape_configs"].as_array().context("scrape_configs")? {
        referred
            .push(("prometheus.yml".to_owned(), job["static_configs"][0]["targets"][0].clone()));
    }
    let environment = &services["host"]["environment"];
    let endpoint = environment["OTEL_EXPORTER_OTLP_ENDPOINT"].as_str().context("an endpoint")?;
    // An empty value of the caller turns the export off.
    let default = endpoint.strip_prefix("${OTEL_EXPORTER_OTLP_ENDPOINT-");
    let default = default.and_then(|rest| rest.strip_suffix('}')).context("a default")?;
    referred.push(("host".to_owned(), default.into()));
    ensure!(referred.len() >= 5, "{referred:?}");
    for (place, url) in &referred {
        let found = url.as_str().and_then(service_and_port);
        let (name, _) = found.with_context(|| format!("{place}: {url}"))?;
        let service = services.get(name).with_context(|| format!("{place}: no service {name}"))?;
        let runs = profiles(service).is_empty() || profiles(service).contains("observability");
        ensure!(runs, "{place}: {name} does not run with the profile");
    }
    // Ports that people use are those that the documentation names.
    let trace_url = environment["POSTRIDER_HTTP__CONSOLE__TRACE_URL"].as_str();
    let (_, port) = trace_url.and_then(service_and_port).context("the address of a trace")?;
    let jaeger = services.get("jaeger").context("jaeger")?;
    let published = format!("127.0.0.1:{port}:{port}");
    ensure!(texts(jaeger.get("ports")).any(|one| one == published), "Jaeger's {port}");
    Ok(())
}
