//! `postrider plugin check --grants`: compares what a plugin needs with what a configuration grants
//! to its stages.
//!
//! Reads no secrets: `config check` verifies that they exist.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::dry_run::stages_of;
use crate::output::Output;
use postrider::internals::{Linked, SETTINGS_SCHEMA};
use postrider::{Config, StageConfig};

/// Something that a plugin needs, and what the configuration grants of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Permission {
    /// An import, or `config <key>`.
    permission: String,
    /// What is granted; none if it is missing.
    granted: Option<String>,
}

/// The permissions of a plugin when it runs as one stage.
#[derive(Debug, Serialize)]
struct PermissionCheck {
    stage: String,
    ok: bool,
    permissions: Vec<Permission>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    digest: &'a str,
    stages: Vec<PermissionCheck>,
}

/// The plugin and configuration to compare.
pub(crate) struct Request<'a> {
    pub(crate) file: &'a Path,
    pub(crate) config: &'a Config,
    /// The stage to check; by default every stage that would run the file.
    pub(crate) stage: Option<&'a str>,
}

/// Prints the permissions of each stage. Exit code 1 if one is missing.
pub(crate) fn run(linked: &Linked, request: &Request<'_>, output: Output) -> Result<ExitCode> {
    let config = request.config;
    let described = &linked.description.name;
    let stages = request
        .stage
        .map_or_else(|| stages_of(config, request.file, described), |stage| vec![stage.to_owned()]);
    for stage in &stages {
        let known = config.stages.contains_key(stage) || *stage == linked.description.name;
        ensure!(
            known,
            "--stage: unknown stage `{stage}`: it is not configured, and the plugin's stage is `{}`",
            linked.description.name
        );
    }
    let schema = linked
        .description
        .attributes
        .iter()
        .find(|(name, _)| name == SETTINGS_SCHEMA)
        .map(|(_, schema)| schema.as_str());
    let stages: Vec<PermissionCheck> = stages
        .into_iter()
        .map(|stage| check(&stage, &linked.imports, schema, config.stage(&stage)))
        .collect();
    let ok = stages.iter().all(|stage| stage.ok);
    output.print(&Report { ok, digest: &linked.digest, stages }, |report| {
        out!("{}", report.stages.iter().map(table).collect::<String>());
    })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(
    stage: &str,
    imports: &[String],
    schema: Option<&str>,
    config: &StageConfig,
) -> PermissionCheck {
    let import = |import: &String| Permission {
        permission: import.clone(),
        granted: granted(import, config),
    };
    let setting = |key: String| Permission {
        granted: configured(&key, config),
        permission: format!("config {key}"),
    };
    let permissions: Vec<Permission> = imports
        .iter()
        .map(import)
        .chain(required_settings(schema).into_iter().map(setting))
        .collect();
    PermissionCheck {
        stage: stage.to_owned(),
        ok: permissions.iter().all(|permission| permission.granted.is_some()),
        permissions,
    }
}

/// What the configuration grants of an import.
fn granted(import: &str, config: &StageConfig) -> Option<String> {
    let grants = &config.grants;
    match import.split('@').next().unwrap_or(import) {
        "wasi:http/outgoing-handler" if !grants.http.is_empty() => {
            Some(grants.http.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        "wasi:http/types" if !grants.http.is_empty() => {
            Some("granted with outgoing-handler".to_owned())
        }
        name if name.starts_with("wasi:http/") => None,
        "wasi:cli/stderr" => Some("always (written to the log)".to_owned()),
        name if name.starts_with("wasi:") => {
            Some("always (no files, network, arguments or environment)".to_owned())
        }
        _ => Some("always (plugin contract)".to_owned()),
    }
}

/// Whether `config.get` answers the key, and from where.
fn configured(key: &str, config: &StageConfig) -> Option<String> {
    let setting = config.settings.contains_key(key).then(|| "setting".to_owned());
    setting.or_else(|| config.secrets.contains_key(key).then(|| "secret".to_owned()))
}

/// Settings that the plugin's schema lists as required.
fn required_settings(schema: Option<&str>) -> Vec<String> {
    let schema: Option<serde_json::Value> = schema.and_then(|text| serde_json::from_str(text).ok());
    let required = schema.as_ref().and_then(|schema| schema["required"].as_array());
    required.into_iter().flatten().filter_map(|key| key.as_str().map(ToOwned::to_owned)).collect()
}

fn table(stage: &PermissionCheck) -> String {
    let name = &stage.stage;
    let widths = stage.permissions.iter().map(|entry| entry.permission.chars().count());
    let width = widths.max().unwrap_or(0);
    let line = |entry: &Permission| {
        let granted = entry.granted.as_deref().unwrap_or("MISSING");
        format!("  {:<width$}  {granted}\n", entry.permission)
    };
    let lines: String = stage.permissions.iter().map(line).collect();
    let missing = stage.permissions.iter().find(|entry| entry.granted.is_none());
    let remedy = missing.map(|entry| match entry.permission.strip_prefix("config ") {
        Some(key) => format!(
            "  to set it: [stages.{name}.settings] {key} = \"…\", or a secret with that name\n"
        ),
        None => format!(
            "  to grant it: [stages.{name}.grants] \
             http = [{{ host = \"…\", methods = [\"POST\"] }}]\n"
        ),
    });
    let summary = if stage.ok { "has every permission it needs" } else { "would be refused" };
    format!("stage {name} {summary}\n{lines}{}", remedy.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> StageConfig {
        Config::from_toml(toml).unwrap().stages.remove("mailer").unwrap_or_default()
    }

    const IMPORTS: [&str; 4] = [
        "postrider:stage/log@1.0.0",
        "wasi:cli/stderr@0.2.12",
        "wasi:http/types@0.2.12",
        "wasi:http/outgoing-handler@0.2.12",
    ];
    const SCHEMA: &str = r#"{ "type": "object", "required": ["from", "key"] }"#;

    fn shown(toml: &str) -> (bool, String) {
        let imports: Vec<String> = IMPORTS.iter().map(ToString::to_string).collect();
        let checked = check("mailer", &imports, Some(SCHEMA), &config(toml));
        (checked.ok, table(&checked))
    }

    #[test]
    fn missing_permissions_are_listed_with_a_remedy() {
        let (ok, shown) = shown("[stages.mailer.settings]\nfrom = \"me\"\n");
        assert!(!ok && shown.starts_with("stage mailer would be refused\n"), "{shown}");
        assert!(
            shown.contains("wasi:http/outgoing-handler@0.2.12  MISSING")
                && shown.contains("config key"),
            "{shown}"
        );
        assert!(shown.contains("[stages.mailer.grants] http ="), "{shown}");
    }

    #[test]
    fn granted_permissions_are_listed_without_secret_values() {
        let (ok, shown) = shown(
            "[stages.mailer.settings]\nfrom = \"me\"\n[stages.mailer.secrets]\nkey = { env = \"PATH\" }\n\
             [stages.mailer.grants]\nhttp = [{ host = \"mail.example\", methods = [\"POST\"] }]\n",
        );
        assert!(
            ok && shown.contains("POST https://mail.example\n") && !shown.contains("MISSING"),
            "{shown}"
        );
        assert!(
            shown.contains("config key   ")
                && shown.contains("  secret\n")
                && shown.contains("  setting\n"),
            "{shown}"
        );
        assert!(!shown.contains(&std::env::var("PATH").unwrap()), "{shown}");
    }
}
