//! Each outside world is confined to its own module, so that it can be understood and replaced
//! there.

use std::path::{Path, PathBuf};

use crate::support::harness::root;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn outside_worlds_stay_in_their_modules() {
    let source = root().join("host/src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    assert!(files.len() > 20, "found only {} source files", files.len());
    let worlds = [
        ("sqlx::", &["store"][..]),
        ("wasmtime::", &["runtime"]),
        // What is watched: plugins by every host, their sources by whoever develops.
        ("notify::", &["plugins", "cli/dev"]),
        ("axum::", &["http"]),
        ("lapin::", &["broker"]),
        ("hyper::", &["egress"]),
    ];
    for (world, homes) in worlds {
        for file in &files {
            let inside = file
                .strip_prefix(&source)
                .expect("below the source")
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(file).expect("a source file");
            let at_home = homes.iter().any(|home| {
                inside.starts_with(&format!("{home}/")) || inside == format!("{home}.rs")
            });
            let word = text.match_indices(world).any(|(at, _)| {
                !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            });
            assert!(at_home || !word, "{inside} uses {world} outside of {homes:?}");
        }
    }
}

#[test]
fn every_file_starts_with_a_module_comment() {
    let mut files = Vec::new();
    for folder in ["host/src", "sdk/rust/src", "xtask/src", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//!"), "{} does not begin with `//!`", file.display());
    }
}
