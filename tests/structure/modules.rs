//! The directions between the top-level modules of the library, and the modules that may use a
//! crate. [`MODULES`] and [`CONFINED`] are the only places that list them.
//!
//! Code that only `test` or `fuzzing` compiles is exempt: a unit test may set up its subject with
//! any module.

use std::collections::BTreeSet;

use super::imports::{Import, Target, imports, imports_of};
use crate::support::harness::root;

/// A top-level module of `host/src`.
struct Module {
    name: &'static str,
    may_import: &'static [&'static str],
}

const fn module(name: &'static str, may_import: &'static [&'static str]) -> Module {
    Module { name, may_import }
}

/// Every top-level module, from the bottom up: a module may import only modules above it in this
/// table, so no two of them import each other, directly or through others.
const MODULES: [Module; 17] = [
    module("domain", &[]),
    module("tls", &["domain"]),
    module("store", &["domain", "tls"]),
    module("broker", &["domain", "tls", "store"]),
    module("stage", &["domain", "store"]),
    module("runtime", &["domain", "tls", "stage"]),
    module("config", &["domain", "tls", "stage", "runtime"]),
    module("pipeline", &["domain", "store", "stage", "runtime", "config"]),
    module("relay", &["domain", "store", "broker", "pipeline"]),
    module("services", &["domain", "store", "broker", "stage", "pipeline", "relay"]),
    module("worker", &["domain", "store", "broker", "stage", "pipeline", "services"]),
    module("background", &["domain", "store", "broker", "stage", "config", "pipeline", "services"]),
    module(
        "plugins",
        &[
            "domain",
            "store",
            "broker",
            "stage",
            "runtime",
            "pipeline",
            "services",
            "worker",
            "background",
        ],
    ),
    module(
        "app",
        &[
            "domain",
            "store",
            "stage",
            "config",
            "pipeline",
            "services",
            "worker",
            "background",
            "plugins",
        ],
    ),
    module("http", &["domain", "tls", "store", "stage", "config", "pipeline", "background", "app"]),
    module(
        "host",
        &[
            "domain",
            "tls",
            "store",
            "broker",
            "stage",
            "runtime",
            "config",
            "pipeline",
            "relay",
            "services",
            "background",
            "plugins",
            "app",
            "http",
        ],
    ),
    // What the command line, the tests and the fuzzers need beside the public surface: re-exports.
    module(
        "internals",
        &[
            "domain",
            "tls",
            "store",
            "broker",
            "stage",
            "runtime",
            "config",
            "pipeline",
            "relay",
            "services",
            "worker",
            "background",
            "plugins",
            "app",
            "http",
            "host",
        ],
    ),
];

/// Most top-level modules that the library may have.
const MODULES_MAX: usize = 17;

/// A crate that only some modules of another crate may name.
struct Confined {
    name: &'static str,
    to: &'static [&'static str],
}

const fn confined(name: &'static str, to: &'static [&'static str]) -> Confined {
    Confined { name, to }
}

/// Crates whose types do not leave the given modules of the library.
const CONFINED: [Confined; 20] = [
    confined("sqlx", &["store", "host", "app"]),
    confined("lapin", &["broker"]),
    confined("wasmtime", &["runtime"]),
    confined("wasmtime_wasi", &["runtime"]),
    confined("wasmtime_wasi_http", &["runtime"]),
    confined("hyper", &["runtime", "http"]),
    confined("notify", &["plugins"]),
    confined("axum", &["http", "host"]),
    confined("tower_http", &["http"]),
    confined("utoipa", &["http"]),
    confined("utoipa_axum", &["http"]),
    confined("utoipa_swagger_ui", &["http"]),
    confined("prometheus_client", &["app", "host"]),
    confined("procfs", &["app"]),
    confined("rustls", &["tls", "broker", "runtime"]),
    confined("x509_parser", &["tls"]),
    confined("minisign_verify", &["runtime"]),
    confined("figment", &["config"]),
    confined("jsonschema", &["domain"]),
    confined("aes_gcm_siv", &["domain"]),
];

/// The same for the command line.
const CONFINED_IN_CLI: [Confined; 1] = [confined("notify", &["dev"])];

/// Why an import is forbidden, or `None`.
fn forbidden(import: &Import) -> Option<String> {
    let from = import.module.first()?;
    let Target::Local(path) = &import.target else { return None };
    let to = path.first().map_or("*", String::as_str);
    if from == to {
        return None;
    }
    let module = MODULES.iter().find(|module| module.name == from)?;
    let allowed = module.may_import;
    (!allowed.contains(&to)).then(|| {
        let (file, line) = (import.file.display(), import.line);
        format!(
            "host/src/{file}:{line}: {from} → {} (allowed: {})",
            path.join("::"),
            allowed.join(", ")
        )
    })
}

/// Why naming a crate is forbidden here, or `None`.
fn outside(import: &Import, crates: &[Confined]) -> Option<String> {
    let Target::Other(path) = &import.target else { return None };
    let confined = crates.iter().find(|confined| confined.name == path[0])?;
    let from = import.module.first().map_or("the crate root", String::as_str);
    (!confined.to.contains(&from)).then(|| {
        let (file, line) = (import.file.display(), import.line);
        format!(
            "{file}:{line}: {from} uses {} (allowed: {})",
            path.join("::"),
            confined.to.join(", ")
        )
    })
}

#[test]
fn modules_import_only_in_allowed_directions() {
    let imports = imports(&root().join("host/src"));
    assert!(imports.len() > 1_000, "only {} paths found", imports.len());
    let violations: Vec<String> = imports.iter().filter_map(forbidden).collect();
    assert!(violations.is_empty(), "forbidden imports:\n{}", violations.join("\n"));
}

#[test]
fn crates_stay_in_their_modules() {
    let mut violations = Vec::new();
    for (folder, crates) in [("host/src", &CONFINED[..]), ("host/cli/src", &CONFINED_IN_CLI)] {
        let imports = imports(&root().join(folder));
        for confined in crates {
            let used = imports.iter().any(
                |import| matches!(&import.target, Target::Other(path) if path[0] == confined.name),
            );
            assert!(used, "no module of {folder} uses {}: remove it from the table", confined.name);
        }
        violations.extend(imports.iter().filter_map(|import| outside(import, crates)));
    }
    assert!(violations.is_empty(), "crates outside of their modules:\n{}", violations.join("\n"));
}

#[test]
fn allowed_directions_have_no_cycle() {
    for (at, module) in MODULES.iter().enumerate() {
        for import in module.may_import {
            let below = MODULES[..at].iter().any(|lower| lower.name == *import);
            assert!(
                below,
                "{} may import {import}, which is not above it in the table",
                module.name
            );
        }
    }
}

#[test]
fn every_top_level_module_is_in_the_table() {
    let listed: BTreeSet<String> = MODULES.iter().map(|module| module.name.to_owned()).collect();
    assert_eq!(listed.len(), MODULES.len(), "a module is listed twice");
    assert!(listed.len() <= MODULES_MAX, "{} top-level modules", listed.len());
    let entries = std::fs::read_dir(root().join("host/src")).expect("the sources");
    let paths = entries.map(|entry| entry.expect("a directory entry").path());
    let names = paths.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned());
    let found: BTreeSet<String> = names.filter(|name| name != "lib").collect();
    assert_eq!(found, listed);
}

#[test]
fn architecture_names_every_top_level_module() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the document");
    for Module { name, .. } in &MODULES {
        let named = text.contains(&format!("`{name}/`")) || text.contains(&format!("`{name}.rs`"));
        assert!(named, "ARCHITECTURE.md does not name `{name}`");
    }
}

#[test]
fn every_kind_of_path_is_checked() {
    let violations = |text: &str| -> Vec<String> {
        let imports = imports_of(text, &["domain", "event"]);
        let crates = imports.iter().filter_map(|import| outside(import, &CONFINED));
        imports.iter().filter_map(forbidden).chain(crates).collect()
    };
    for forbidden in [
        "use crate::store::Store;",
        "use crate::{domain::name, store::{Store, Batch}};",
        "use crate::store as s;",
        "use crate::*;",
        "use super::super::store::Store;",
        "mod inner { use super::super::super::store::Store; }",
        "fn f(_: &crate::store::Store) {}",
        "fn f() { crate::store::open(); }",
        "fn f() { assert!(crate::store::open()); }",
        "#[derive(crate::store::Row)] struct S;",
        "#[cfg(any(test, feature = \"conformance\"))] use crate::store::Store;",
        "use sqlx::Row as _;",
        "fn f() -> sqlx::Result<()> { todo!() }",
        "fn f() { tokio::select! { _ = sqlx::query(\"\") => {} } }",
    ] {
        assert_eq!(violations(forbidden).len().min(1), 1, "not found: {forbidden}");
    }
    for allowed in [
        "use crate::domain::name::Name;",
        "use super::name::Name;",
        "use self::inner::Inner; mod inner { use super::super::name; }",
        "#[cfg(test)] mod tests { use crate::store::Store; }",
        "#[cfg(any(test, fuzzing))] use crate::store::Store;",
        "fn f(sqlx: u32) -> u32 { sqlx }",
    ] {
        assert_eq!(violations(allowed), Vec::<String>::new(), "{allowed}");
    }
}
