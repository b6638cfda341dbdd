//! Building guests: with the installed WebAssembly target, else with the one that rustup adds, else
//! with Debian's compiler, which builds the standard library from its source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{call, cargo, root, runs, say};

const TARGET: &str = "wasm32-unknown-unknown";
const STAGES: [&str; 4] = ["payment", "inventory", "shipping", "notification"];
/// Debian's compiler that can build for WebAssembly, with the source of the standard library.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// How guests are built on this machine.
enum Way {
    /// The toolchain has the target.
    Target,
    /// Debian's compiler and a linker that speaks WebAssembly.
    Debian { linker: PathBuf },
}

/// Builds the stages to `plugins/<name>.wasm` and the test guests to `target/fixtures/<name>.wasm`.
pub(crate) fn build_all() -> Result<()> {
    let way = choose()?;
    keep_wrapper(&way)?;
    say("building the stages (the first time takes some minutes)");
    build(&way, &[])?;
    for stage in STAGES {
        keep(stage, &root().join("plugins").join(format!("{stage}.wasm")))?;
    }
    let fixtures = root().join("target/fixtures");
    keep("hostile", &fixtures.join("hostile.wasm"))?;
    keep("fifth", &fixtures.join("fifth.wasm"))?;
    keep("caller", &fixtures.join("caller.wasm"))?;
    build(&way, &[("FIFTH_VERSION", "1.1.0"), ("PAYMENT_MAX_TOTAL", "50")])?;
    keep("fifth", &fixtures.join("fifth-next.wasm"))?;
    keep("payment", &fixtures.join("payment-strict.wasm"))?;
    build(&way, &[("FIFTH_VERSION", "1.2.0"), ("FIFTH_TRAPS", "1")])?;
    keep("fifth", &fixtures.join("fifth-traps.wasm"))?;
    Ok(())
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

/// A `cargo` for stages that are built outside this repository, as their authors do, where the
/// toolchain lacks the target. It is put before the others in `PATH`.
fn keep_wrapper(way: &Way) -> Result<()> {
    let Way::Debian { linker } = way else { return Ok(()) };
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

fn choose() -> Result<Way> {
    if has_target()? {
        say("stages are built with the installed target wasm32-unknown-unknown");
        return Ok(Way::Target);
    }
    if debian_compiler().is_none()
        && runs(Command::new("rustup").args(["target", "add", TARGET]).current_dir(root()))
        && has_target()?
    {
        say("stages are built with the target wasm32-unknown-unknown, which rustup has just added");
        return Ok(Way::Target);
    }
    let linker = sysroot()?.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if debian_compiler().is_none() {
        install_debian_compiler()?;
    }
    ensure!(linker.is_file(), "the toolchain has no rust-lld at {}", linker.display());
    say("stages are built with Debian's rustc-web and the standard library's source");
    Ok(Way::Debian { linker })
}

fn sysroot() -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(root())
        .output()
        .context("rustc does not run")?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn has_target() -> Result<bool> {
    Ok(sysroot()?.join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

fn debian_compiler() -> Option<()> {
    let source = Path::new("/usr/bin/rustc").is_file() && Path::new("/usr/bin/cargo").is_file();
    (source && runs(Command::new("dpkg-query").args(["--show", PACKAGES[0], PACKAGES[2]])))
        .then_some(())
}

fn install_debian_compiler() -> Result<()> {
    if !can_install() {
        let install = format!("apt-get install -y --no-install-recommends {}", PACKAGES.join(" "));
        bail!(
            "no way to build for WebAssembly: run `rustup target add {TARGET}`, or as root on Debian `{install}`"
        );
    }
    say("installing Debian's compiler for WebAssembly");
    install(&PACKAGES)
}

/// Whether packages can be installed here: as root, on Debian.
pub(crate) fn can_install() -> bool {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    is_root && Path::new("/etc/debian_version").is_file()
}

/// Installs Debian's packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    call(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut command = Command::new("apt-get");
    call(
        command
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn build(way: &Way, env: &[(&str, &str)]) -> Result<()> {
    let mut command = match way {
        Way::Target => cargo(),
        Way::Debian { linker } => {
            let mut command = Command::new("/usr/bin/cargo");
            // Nothing of the toolchain that runs this may reach the other one.
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
    if matches!(way, Way::Debian { .. }) {
        command.arg("-Zbuild-std=std,panic_abort");
    }
    call(command.env("CARGO_TARGET_DIR", root().join("target/guests")).envs(env.iter().copied()))
}

/// Copies a built guest to its place, at once, and only when it changed: a running host reloads
/// what moves.
fn keep(name: &str, place: &Path) -> Result<()> {
    let built =
        root().join("target/guests").join(TARGET).join("release").join(format!("{name}.wasm"));
    let bytes =
        std::fs::read(&built).with_context(|| format!("{} was not built", built.display()))?;
    if std::fs::read(place).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let folder = place.parent().context("a folder")?;
    std::fs::create_dir_all(folder)?;
    let part = folder.join(format!(".{name}.part"));
    std::fs::write(&part, bytes)?;
    Ok(std::fs::rename(part, place)?)
}
