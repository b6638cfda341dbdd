//! Checks of the published crates: the library compiles with each feature alone, and every crate
//! can be packaged.

use anyhow::Result;

use crate::{call, cargo, say};

const FEATURES: [&str; 6] = ["exact-numbers", "http", "postgres", "rabbitmq", "sqlite", "wasm"];
const PUBLISHED: [&str; 3] = ["postrider-stage", "postrider", "postrider-cli"];
/// Optional dependencies of the command line, in a workspace of their own.
const STAGES: [&str; 4] = ["inventory", "notification", "payment", "shipping"];

/// Checks the library without features and with each feature alone. Only its own warnings are
/// errors, so the dependencies are shared with the other checks where their features agree.
pub(crate) fn features() -> Result<()> {
    for feature in std::iter::once("").chain(FEATURES) {
        say(&format!("checking the library with the features [{feature}]"));
        let library = ["clippy", "--package", "postrider", "--lib", "--no-default-features"];
        call(cargo().args(library).args(["--features", feature, "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Packages the crates together, so that one that is not published yet finds the others. What was
/// packaged is not compiled: its dependencies would be built once more, which takes longer than all
/// tests.
pub(crate) fn package() -> Result<()> {
    say("packaging the crates");
    let mut package = cargo();
    package.args(["package", "--allow-dirty", "--no-verify"]);
    package.args(PUBLISHED.iter().flat_map(|name| ["--package", name]));
    for stage in STAGES {
        let patch = format!("patch.crates-io.postrider-stage-{stage}.path=\"plugins/{stage}\"");
        package.args(["--config", &patch]);
    }
    call(&mut package)
}
