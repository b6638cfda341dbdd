//! `postrider plugin new`: creates a project with a working stage from a template in
//! `sdk/templates`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use include_dir::{Dir, DirEntry, include_dir};
use serde_json::json;

use crate::output::Output;
use postrider::internals::is_name;

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");
/// Copied into every Rust project, so that it builds without a registry.
static RUST_SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rust-sdk");
/// The plugin contract, copied into every project.
pub(super) const WIT: &str = include_str!("../../wit/stage.wit");

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Language of the stage.
    #[arg(long, value_enum, required_unless_present = "list")]
    lang: Option<Language>,
    /// Name of the stage and of its folder: a lower-case letter, then up to 39 of a-z, 0-9 and "-".
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Parent of the new folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    into: PathBuf,
    /// List the languages and the tools that each needs.
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

    /// The tools that must be installed; the first build downloads the rest.
    fn needs(self) -> &'static str {
        match self {
            Self::Rust => {
                "cargo and the target wasm32-unknown-unknown (`rustup target add wasm32-unknown-unknown`)"
            }
            Self::Js | Self::Ts => "Node 20 or later with npm",
            Self::Python => "Python 3.11 or later with pip",
            Self::C => "make, and Python with pip (which installs the compiler)",
            Self::Go => "Go 1.25 or later",
        }
    }
}

pub(super) fn run(args: NewArgs, output: Output) -> Result<ExitCode> {
    let (Some(language), Some(name)) = (args.lang, args.name) else {
        list(output)?;
        return Ok(ExitCode::SUCCESS);
    };
    ensure!(is_name(&name), "invalid stage name `{name}`: it must match [a-z][a-z0-9-]{{0,39}}");
    let folder = args.into.join(&name);
    ensure!(!folder.exists(), "{} already exists", folder.display());
    let template =
        TEMPLATES.get_dir(language.template()).context("this build has no such template")?;
    let files = render(template, &name, language)?;
    for (path, content) in &files {
        let place = folder.join(path);
        let parent = place.parent().context("a template file has no parent folder")?;
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        std::fs::write(&place, content).with_context(|| place.display().to_string())?;
    }
    let files: Vec<String> = files.iter().map(|(path, _)| path.display().to_string()).collect();
    let folder = folder.display().to_string();
    let created = json!({ "folder": &folder, "files": files, "needs": language.needs() });
    output.print(&created, |_| {
        outln!("created a stage in {folder}; it needs {}", language.needs());
        outln!("next: cd {folder} && postrider plugin test --build --accept (see README.md)");
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(output: Output) -> serde_json::Result<()> {
    let languages = Language::value_variants();
    let rows: Vec<_> = languages
        .iter()
        .map(|language| json!({ "lang": language.template(), "needs": language.needs() }))
        .collect();
    output.print(&rows, |_| {
        for language in languages {
            outln!("{:<8} needs {}", language.template(), language.needs());
        }
    })
}

/// The files of a new project, with their paths in it.
fn render(template: &Dir<'_>, name: &str, language: Language) -> Result<Vec<(PathBuf, String)>> {
    let mut files = vec![(PathBuf::from("wit/stage.wit"), WIT.to_owned())];
    collect(template, template.path(), Path::new(""), &mut files)?;
    if matches!(language, Language::Rust) {
        collect(&RUST_SDK, RUST_SDK.path(), Path::new("sdk/rust/src"), &mut files)?;
        files.push((PathBuf::from("sdk/rust/wit/stage.wit"), WIT.to_owned()));
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
                    .with_context(|| format!("{} is not UTF-8", file.path().display()))?;
                // The template's manifest has another name, because cargo would treat it as a package
                // of this workspace.
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
    fn every_template_renders_without_placeholders() {
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
