//! Builds the guests: the stages that ship with the host, and the test guests.
//!
//! The compiler is the toolchain with its WebAssembly target, installed or added by rustup; else
//! Debian's compiler, which builds the standard library from source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{call, cargo, root, runs, say};

const TARGET: &str = "wasm32-unknown-unknown";
const STAGES: [&str; 4] = ["payment", "inventory", "shipping", "notification"];
/// Debian's compiler that can build for WebAssembly, with the source of the standard library.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What compiles guests on this machine.
enum Compiler {
    /// The toolchain, with its WebAssembly target.
    Toolchain,
    /// Debian's, with the toolchain's linker for WebAssembly.
    Debian { linker: PathBuf },
}

/// Builds the shipped stages to `plugins/<name>.wasm`.
pub(crate) fn build_stages() -> Result<()> {
    let compiler = Compiler::find()?;
    let packages = STAGES.map(|stage| format!("--package=postrider-stage-{stage}"));
    build(&compiler, &packages, &[])?;
    install_stages()
}

/// Builds the shipped stages, and the test guests to `target/fixtures/<name>.wasm`.
pub(crate) fn build_all() -> Result<()> {
    let compiler = Compiler::find()?;
    write_cargo_wrapper(&compiler)?;
    say("building the stages and the test guests (a minute the first time)");
    let workspace = ["--workspace".to_owned()];
    build(&compiler, &workspace, &[])?;
    install_stages()?;
    let fixtures = root().join("target/fixtures");
    for guest in ["hostile", "fifth", "caller"] {
        install(guest, &fixtures.join(format!("{guest}.wasm")))?;
    }
    build(&compiler, &workspace, &[("FIFTH_VERSION", "1.1.0"), ("PAYMENT_MAX_TOTAL", "50")])?;
    install("fifth", &fixtures.join("fifth-next.wasm"))?;
    install("payment", &fixtures.join("payment-strict.wasm"))?;
    build(&compiler, &workspace, &[("FIFTH_VERSION", "1.2.0"), ("FIFTH_TRAPS", "1")])?;
    install("fifth", &fixtures.join("fifth-traps.wasm"))
}

fn install_stages() -> Result<()> {
    STAGES
        .iter()
        .try_for_each(|stage| install(stage, &root().join("plugins").join(format!("{stage}.wasm"))))
}

/// Builds the stages of the documents example to its `plugins/`. The program tests the one in Python
/// after it has built it.
pub(crate) fn build_documents(program: &Path) -> Result<()> {
    say("building the stages of the documents example (Python's takes a minute the first time)");
    let stages = ["extract", "index"];
    let packages = stages.map(|stage| format!("--package=document-{stage}"));
    build(&Compiler::find()?, &packages, &[])?;
    let example = root().join("plugins/examples/documents");
    let plugins = example.join("plugins");
    for stage in stages {
        install(stage, &plugins.join(format!("{stage}.wasm")))?;
    }
    let classify = example.join("classify");
    call(Command::new(program).args(["plugin", "test"]).arg(&classify))?;
    install_file(&classify.join("classify.wasm"), &plugins.join("classify.wasm"))
}

/// Runs the stages' own tests, natively.
pub(crate) fn test_all() -> Result<()> {
    say("testing the stages' logic");
    call(
        cargo()
            .args(["test", "--quiet", "--manifest-path", "plugins/Cargo.toml"])
            .env("CARGO_TARGET_DIR", root().join("target/guests-native")),
    )
}

/// Where the toolchain lacks the target, tests put this `cargo` first in `PATH`, to build stages
/// outside this repository as their authors do.
fn write_cargo_wrapper(compiler: &Compiler) -> Result<()> {
    let Compiler::Debian { linker } = compiler else { return Ok(()) };
    let folder = root().join("target/guest-bin");
    std::fs::create_dir_all(&folder)?;
    let place = folder.join("cargo");
    let script = format!(
        "#!/bin/sh\n\
         # Debian's compiler for WebAssembly, the usual one for everything else.\n\
         case \" $* \" in *\" --target {TARGET} \"*) ;; *) PATH=\"${{PATH#*:}}\" exec cargo \"$@\";; esac\n\
         unset CARGO RUSTUP_TOOLCHAIN RUSTC_WRAPPER\n\
         RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Clinker-flavor=wasm-ld CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER='{}' \\\n\
         exec /usr/bin/cargo \"$@\" -Zbuild-std=std,panic_abort\n",
        linker.display()
    );
    std::fs::write(&place, script)?;
    Ok(std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
}

impl Compiler {
    fn find() -> Result<Self> {
        if toolchain_has_target()? {
            say("guests: compiled for the toolchain's target wasm32-unknown-unknown");
            return Ok(Self::Toolchain);
        }
        if !has_debian_compiler()
            && runs(Command::new("rustup").args(["target", "add", TARGET]).current_dir(root()))
            && toolchain_has_target()?
        {
            say("guests: rustup added the target wasm32-unknown-unknown");
            return Ok(Self::Toolchain);
        }
        let linker = sysroot()?.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
        if !has_debian_compiler() {
            install_debian_compiler()?;
        }
        ensure!(linker.is_file(), "the toolchain has no rust-lld at {}", linker.display());
        say("guests: compiled with Debian's rustc-web and the standard library's source");
        Ok(Self::Debian { linker })
    }
}

fn sysroot() -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(root())
        .output()
        .context("rustc does not run")?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn toolchain_has_target() -> Result<bool> {
    Ok(sysroot()?.join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

fn has_debian_compiler() -> bool {
    Path::new("/usr/bin/rustc").is_file()
        && Path::new("/usr/bin/cargo").is_file()
        && runs(Command::new("dpkg-query").args(["--show", PACKAGES[0], PACKAGES[2]]))
}

fn install_debian_compiler() -> Result<()> {
    if !can_install_packages() {
        let install = format!("apt-get install -y --no-install-recommends {}", PACKAGES.join(" "));
        bail!(
            "no compiler for WebAssembly: run `rustup target add {TARGET}`, or on Debian as root \
             `{install}`"
        );
    }
    say("installing Debian's compiler for WebAssembly");
    install_packages(&PACKAGES)
}

/// Whether packages can be installed: as root on Debian.
pub(crate) fn can_install_packages() -> bool {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    is_root && Path::new("/etc/debian_version").is_file()
}

/// Reads which Debian packages there are.
pub(crate) fn update_packages() -> Result<()> {
    call(Command::new("apt-get").args(["update", "-qq"]))
}

/// Installs Debian packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    update_packages()?;
    let mut command = Command::new("apt-get");
    call(
        command
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn build(compiler: &Compiler, packages: &[String], env: &[(&str, &str)]) -> Result<()> {
    let mut command = match compiler {
        Compiler::Toolchain => cargo(),
        Compiler::Debian { linker } => {
            let mut command = Command::new("/usr/bin/cargo");
            // The two toolchains must not see each other's settings.
            for (name, _) in std::env::vars_os() {
                let name = name.to_string_lossy();
                if name.starts_with("CARGO") && name != "CARGO_HOME" || name.starts_with("RUST") {
                    command.env_remove(&*name);
                }
            }
            command
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTFLAGS", "-Clinker-flavor=wasm-ld");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
            command
        }
    };
    command.current_dir(root().join("plugins")).args(["build", "--release", "--target", TARGET]);
    command.args(packages);
    if matches!(compiler, Compiler::Debian { .. }) {
        command.arg("-Zbuild-std=std,panic_abort");
    }
    call(command.env("CARGO_TARGET_DIR", root().join("target/guests")).envs(env.iter().copied()))
}

/// Copies a built guest to `to`.
fn install(name: &str, to: &Path) -> Result<()> {
    let file = format!("{name}.wasm");
    install_file(&root().join("target/guests").join(TARGET).join("release").join(file), to)
}

/// Copies a built file to `to`. The copy is atomic, and skipped when nothing changed, because a
/// running host reloads a file that appears.
fn install_file(built: &Path, to: &Path) -> Result<()> {
    let bytes =
        std::fs::read(built).with_context(|| format!("{} was not built", built.display()))?;
    if std::fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let folder = to.parent().context("a folder")?;
    std::fs::create_dir_all(folder)?;
    let name = to.file_name().context("a file")?.to_string_lossy();
    let part = folder.join(format!(".{name}.part"));
    std::fs::write(&part, bytes)?;
    Ok(std::fs::rename(part, to)?)
}
