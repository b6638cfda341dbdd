//! Programs outside of the workspace use the versions of its dependencies: types of two versions of a
//! crate do not fit together, and each would be compiled.

use anyhow::{Context as _, Result};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde_json::Value;

use crate::support::harness::root;

const OUTSIDE: [&str; 1] = ["examples/embedding/Cargo.toml"];

fn read(manifest: &str) -> Result<Value> {
    let path = root().join(manifest);
    let read = Figment::from(Toml::file_exact(&path)).extract();
    read.with_context(|| path.display().to_string())
}

/// The version of a dependency; none: a path.
fn version(dependency: &Value) -> Option<&str> {
    dependency.as_str().or_else(|| dependency["version"].as_str())
}

#[test]
fn programs_outside_of_the_workspace_use_its_versions() -> Result<()> {
    let workspace = read("Cargo.toml")?;
    let (mut compared, mut differing) = (0, Vec::new());
    for manifest in OUTSIDE {
        let outside = read(manifest)?;
        let dependencies = outside["dependencies"].as_object().context("dependencies")?;
        for (name, dependency) in dependencies {
            let inside = version(&workspace["workspace"]["dependencies"][name]);
            let (Some(inside), Some(here)) = (inside, version(dependency)) else { continue };
            compared += 1;
            if inside != here {
                differing.push(format!("{manifest}: {name} {here}, the workspace has {inside}"));
            }
        }
    }
    assert!(compared > 5, "only {compared} dependencies compared");
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}
