//! `postrider plugin check --grants`: what a plugin asks for, against what a configuration grants
//! its stages.
//!
//! No secret is read: whether a host could start with the configuration is `config check`'s
//! question.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;

use postrider::config::{Config, StageConfig};
use postrider::pipeline::Pipeline;
use postrider::runtime::Linked;

/// Attribute of a description that holds a JSON Schema of the settings.
const SETTINGS_SCHEMA: &str = "settingsschema";

/// One thing that a plugin asks for.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Permission {
    /// An import, or `config <key>`.
    asked: String,
    /// What the stage gets of it; none: nothing.
    granted: Option<String>,
}

/// A plugin as one stage would run it.
#[derive(Debug, Serialize)]
struct PermissionCheck {
    stage: String,
    ok: bool,
    asks: Vec<Permission>,
}

/// Shows it for `stage`, else for every stage that would run the file. Exit code 1 when something
/// is missing.
pub(crate) fn check(
    linked: &Linked,
    file: &Path,
    config: &Path,
    stage: Option<&str>,
    json: bool,
) -> Result<ExitCode> {
    let config = Config::declared(Some(config))?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let pipeline = Pipeline::new(&config);
    let stages = stage.map_or_else(
        || pipeline.names_for(&name, &linked.description.name),
        |stage| vec![stage.to_owned()],
    );
    for stage in &stages {
        let known = config.stages.contains_key(stage) || *stage == linked.description.name;
        ensure!(
            known,
            "--stage: the configuration knows no stage `{stage}`, and the plugin is `{}`",
            linked.description.name
        );
    }
    let schema = linked
        .description
        .attributes
        .iter()
        .find(|(name, _)| name == SETTINGS_SCHEMA)
        .map(|(_, schema)| schema.as_str());
    let matched: Vec<PermissionCheck> = stages
        .into_iter()
        .map(|stage| compare(&stage, &linked.imports, schema, pipeline.config_of(&stage)))
        .collect();
    let ok = matched.iter().all(|stage| stage.ok);
    if json {
        println!("{:#}", json!({ "ok": ok, "digest": &*linked.digest, "stages": matched }));
    } else {
        print!("{}", matched.iter().map(table).collect::<String>());
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare(
    stage: &str,
    imports: &[String],
    schema: Option<&str>,
    config: &StageConfig,
) -> PermissionCheck {
    let import =
        |import: &String| Permission { asked: import.clone(), granted: granted(import, config) };
    let setting = |key: String| Permission {
        granted: answered(&key, config),
        asked: format!("config {key}"),
    };
    let asks: Vec<Permission> =
        imports.iter().map(import).chain(required(schema).into_iter().map(setting)).collect();
    PermissionCheck {
        stage: stage.to_owned(),
        ok: asks.iter().all(|ask| ask.granted.is_some()),
        asks,
    }
}

/// What an import comes to.
fn granted(import: &str, config: &StageConfig) -> Option<String> {
    let grants = &config.grants;
    match import.split('@').next().unwrap_or(import) {
        "wasi:http/outgoing-handler" if !grants.http.is_empty() => {
            Some(grants.http.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        "wasi:http/types" if !grants.http.is_empty() => Some("with the calls".to_owned()),
        name if name.starts_with("wasi:http/") => None,
        "wasi:cli/stderr" => Some("kept for trap messages".to_owned()),
        name if name.starts_with("wasi:") => {
            Some("without files, network, arguments or environment".to_owned())
        }
        _ => Some("the contract".to_owned()),
    }
}

/// Where the answer to `config.get` comes from.
fn answered(key: &str, config: &StageConfig) -> Option<String> {
    let setting = config.settings.contains_key(key).then(|| "a setting".to_owned());
    setting.or_else(|| config.secrets.contains_key(key).then(|| "a secret".to_owned()))
}

/// Settings that the plugin cannot do without, when it says so.
fn required(schema: Option<&str>) -> Vec<String> {
    let schema: Option<serde_json::Value> = schema.and_then(|text| serde_json::from_str(text).ok());
    let required = schema.as_ref().and_then(|schema| schema["required"].as_array());
    required.into_iter().flatten().filter_map(|key| key.as_str().map(ToOwned::to_owned)).collect()
}

fn table(stage: &PermissionCheck) -> String {
    let width = stage.asks.iter().map(|ask| ask.asked.chars().count()).max().unwrap_or(0);
    let line = |ask: &Permission| {
        let granted = ask.granted.as_deref().unwrap_or("MISSING");
        format!("  {:<width$}  {granted}\n", ask.asked)
    };
    let verdict = if stage.ok { "has all it asks for" } else { "would be refused" };
    let remedy = stage.asks.iter().find(|ask| ask.granted.is_none()).map(|ask| match ask.asked.strip_prefix("config ") {
        Some(key) => format!("  give it: [stages.{}.settings] {key} = \"…\", or a secret of that name\n", stage.stage),
        None => format!("  grant it: [stages.{}.grants] http = [{{ host = \"…\", methods = [\"POST\"] }}]\n", stage.stage),
    });
    let lines: String = stage.asks.iter().map(line).collect();
    format!("stage {} {verdict}\n{lines}{}", stage.stage, remedy.unwrap_or_default())
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
        let matched = compare("mailer", &imports, Some(SCHEMA), &config(toml));
        (matched.ok, table(&matched))
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
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
    fn what_is_granted_is_shown_beside_what_is_asked() {
        let (ok, shown) = shown(
            "[stages.mailer.settings]\nfrom = \"me\"\n[stages.mailer.secrets]\nkey = { env = \"PATH\" }\n\
             [stages.mailer.grants]\nhttp = [{ host = \"mail.example\", methods = [\"POST\"] }]\n",
        );
        assert!(
            ok && shown.contains("POST https://mail.example\n") && !shown.contains("MISSING"),
            "{shown}"
        );
        assert!(shown.contains("a secret") && shown.contains("a setting"), "{shown}");
        assert!(!shown.contains(&std::env::var("PATH").unwrap()), "{shown}");
    }
}
