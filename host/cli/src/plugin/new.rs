//! `postrider plugin new`: a folder with a working stage, in the language of choice. The templates
//! are in `sdk/templates`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use include_dir::{Dir, DirEntry, include_dir};
use serde_json::json;

use postrider::domain::name::is_name;

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/templates");
/// The Rust SDK goes along with a Rust stage.
static RUST_SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust/src");
/// The contract goes along with every stage.
pub(super) const WIT: &str = include_str!("../../../../wit/stage.wit");

/// A new stage.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// What it is written in.
    #[arg(long, value_enum, required_unless_present = "list")]
    lang: Option<Language>,
    /// Its name, and that of its folder: [a-z][a-z0-9-]{0,39}.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Where its folder is made.
    #[arg(long, default_value = ".")]
    into: PathBuf,
    /// Show the languages, and what each needs.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Rust,
    Js,
    Ts,
    Python,
    C,
    Go,
}

impl Language {
    fn template(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Ts => "ts",
            Self::Python => "python",
            Self::C => "c",
            Self::Go => "go",
        }
    }

    /// What must be installed; the first build gets the rest.
    fn needs(self) -> &'static str {
        match self {
            Self::Rust => {
                "cargo, and the target wasm32-unknown-unknown (`rustup target add wasm32-unknown-unknown`)"
            }
            Self::Js | Self::Ts => "Node 20 or later with npm",
            Self::Python => "Python 3.10 or later with pip",
            Self::C => "make, and Python with pip (which brings the compiler)",
            Self::Go => "Go 1.25 or later",
        }
    }
}

pub(super) fn run(args: NewArgs, json: bool) -> Result<ExitCode> {
    let (Some(language), Some(name)) = (args.lang, args.name) else {
        list(json);
        return Ok(ExitCode::SUCCESS);
    };
    ensure!(is_name(&name), "`{name}` cannot name a stage: it must match [a-z][a-z0-9-]{{0,39}}");
    let folder = args.into.join(&name);
    ensure!(!folder.exists(), "{} is there already", folder.display());
    let template =
        TEMPLATES.get_dir(language.template()).context("this build has no such template")?;
    let files = render(template, &name, language)?;
    for (path, content) in &files {
        let place = folder.join(path);
        let parent = place.parent().context("a folder")?;
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        std::fs::write(&place, content).with_context(|| place.display().to_string())?;
    }
    if json {
        let files: Vec<String> = files.iter().map(|(path, _)| path.display().to_string()).collect();
        println!(
            "{:#}",
            json!({ "folder": folder.display().to_string(), "files": files, "needs": language.needs() })
        );
    } else {
        println!("{} holds a stage; it needs {}.", folder.display(), language.needs());
        println!(
            "Next: cd {} && postrider plugin test --build --accept, then README.md",
            folder.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool) {
    let languages = Language::value_variants();
    if json {
        let rows: Vec<_> = languages
            .iter()
            .map(|language| json!({ "lang": language.template(), "needs": language.needs() }))
            .collect();
        println!("{:#}", json!(rows));
    } else {
        for language in languages {
            println!("{:<8} needs {}", language.template(), language.needs());
        }
    }
}

/// Every file of a new stage, with its place in the folder.
fn render(template: &Dir<'_>, name: &str, language: Language) -> Result<Vec<(PathBuf, String)>> {
    let mut files = vec![(PathBuf::from("wit/stage.wit"), WIT.to_owned())];
    collect(template, template.path(), Path::new(""), &mut files)?;
    if matches!(language, Language::Rust) {
        collect(&RUST_SDK, RUST_SDK.path(), Path::new("sdk/rust/src"), &mut files)?;
    }
    let ident = name.replace('-', "_");
    for (_, content) in &mut files {
        *content = content.replace("{{name}}", name).replace("{{ident}}", &ident);
    }
    files.sort();
    Ok(files)
}

fn collect(
    dir: &Dir<'_>,
    base: &Path,
    into: &Path,
    files: &mut Vec<(PathBuf, String)>,
) -> Result<()> {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(dir) => collect(dir, base, into, files)?,
            DirEntry::File(file) => {
                let text = file
                    .contents_utf8()
                    .with_context(|| format!("{} is no text", file.path().display()))?;
                // A template's manifest must not look like one to cargo, which would take it for a
                // part of this program.
                let path = into.join(file.path().strip_prefix(base)?);
                let path =
                    if path.ends_with("Cargo.toml.in") { path.with_extension("") } else { path };
                files.push((path, text.to_owned()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::project::FILE;

    #[test]
    fn every_language_has_a_template_without_leftovers() {
        for language in Language::value_variants() {
            let template =
                TEMPLATES.get_dir(language.template()).unwrap_or_else(|| panic!("{language:?}"));
            let files = render(template, "my-stage", *language).unwrap();
            let has = |path: &str| files.iter().any(|(place, _)| place == Path::new(path));
            assert!(
                has(FILE) && has("README.md") && has("wit/stage.wit") && has(".gitignore"),
                "{language:?}: {files:?}"
            );
            assert!(
                files.iter().filter(|(place, _)| place.starts_with("fixtures")).count() >= 3,
                "{language:?}"
            );
            for (place, content) in &files {
                assert!(
                    !content.contains("{{name}}") && !content.contains("{{ident}}"),
                    "{}",
                    place.display()
                );
            }
        }
    }
}
