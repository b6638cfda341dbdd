//! `postrider plugin check`: whether a host with a configuration would load a plugin and run it.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::dry_run::stages_of;
use super::permission_check::Request;
use crate::output::Output;
use postrider::internals::{
    CONTRACT, Linked, TopologyStage, event_settings_problem, handled_event_types,
};

pub(super) fn run(linked: &Linked, request: &Request<'_>, output: Output) -> Result<ExitCode> {
    let Request { file, config, stage } = *request;
    let description = &linked.description;
    let stages = match stage {
        Some(stage) => vec![stage.to_owned()],
        None => stages_of(config, file, &description.name),
    };
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    match config.plugins.provenance() {
        Ok(provenance) => {
            let refused = provenance.verify(file, &std::fs::read(file)?, &linked.digest).err();
            problems.extend(refused.map(|refused| refused.to_string()));
        }
        Err(invalid) => problems.extend(invalid),
    }
    for name in &stages {
        let stage = config.stage(name);
        let refused = linked.check_grants(name, &stage.grants).err();
        problems.extend(refused.map(|refused| format!("stage `{name}`: {refused}")));
        let invalid = event_settings_problem(description, &stage.settings);
        problems.extend(invalid.map(|problem| format!("stage `{name}`: {problem}")));
        let policy = config.stage_policy(&name.as_str().into(), description);
        let topology = TopologyStage {
            name: name.clone(),
            version: description.version.clone(),
            consumes: policy.consumes,
            handles: handled_event_types(description, &stage.settings),
            emits: policy.emits,
        };
        warnings.extend(topology.warnings());
    }
    let ok = problems.is_empty();
    let report = json!({
        "ok": ok,
        "stage": stages[0],
        "stages": stages,
        "version": description.version,
        "contract": CONTRACT,
        "problems": problems,
        "warnings": warnings,
    });
    output.print(&report, |_| {
        for warning in &warnings {
            outln!("warning: {warning}");
        }
        for problem in &problems {
            outln!("refused: {problem}");
        }
        if ok {
            let version = &description.version;
            outln!("ok: {} {version} implements {CONTRACT}", stages.join(", "));
        }
    })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
