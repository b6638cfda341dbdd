//! `postrider plugin bindings`: generates bindings of the plugin contract for languages without a
//! generator of their own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};

#[derive(Debug, Args)]
pub(crate) struct BindingsArgs {
    /// Language of the bindings.
    #[arg(long, value_enum)]
    lang: Language,
    /// Output folder.
    #[arg(long)]
    out: PathBuf,
    /// WIT file, or folder of WIT files.
    #[arg(default_value = "wit")]
    wit: PathBuf,
    /// World to generate bindings for [default: the only one].
    #[arg(long)]
    world: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    C,
    Go,
}

pub(super) fn run(args: BindingsArgs) -> Result<ExitCode> {
    let mut resolve = Resolve::default();
    let (package, _) =
        resolve.push_path(&args.wit).with_context(|| args.wit.display().to_string())?;
    let world = resolve.select_world(&[package], args.world.as_deref())?;
    let mut files = Files::default();
    let mut generator: Box<dyn WorldGenerator> = match args.lang {
        Language::C => wit_bindgen_c::Opts::default().build(),
        // The package names that the Go template uses.
        Language::Go => wit_bindgen_go::Opts {
            pkg_name: Some("stage/gen".to_owned()),
            export_pkg_name: Some("stage/postrider".to_owned()),
            ..wit_bindgen_go::Opts::default()
        }
        .build(),
    };
    generator.generate(&mut resolve, world, &mut files)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for (name, content) in files.iter() {
        let place = args.out.join(name);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::write(&place, content).with_context(|| place.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
