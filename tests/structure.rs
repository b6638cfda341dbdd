//! The shape of the source tree: which modules import which, which of them use which crates, what
//! only one place does, and which words appear nowhere. These tests read source text; they start
//! nothing.

mod dead_letter_codes;
mod dependencies;
mod documentation;
mod imports;
mod modules;
mod subjects;
mod verdicts;
mod vocabulary;

use std::path::{Path, PathBuf};

use crate::support::harness::root;

/// Adds every Rust file below `folder` to `found`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_starts_with_a_module_comment() {
    let mut files = Vec::new();
    for folder in ["host/src", "host/cli/src", "sdk/rust/src", "xtask/src", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//!"), "{} does not begin with `//!`", file.display());
    }
}
