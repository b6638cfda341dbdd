//! The lock file has one version of each crate that takes long to compile.

/// Crates that take more than ten seconds to compile, or that such crates depend on.
const HEAVY: [&str; 14] = [
    "cranelift-codegen",
    "h2",
    "hyper",
    "libsqlite3-sys",
    "ring",
    "rustls",
    "sqlx-core",
    "tokio",
    "wasm-encoder",
    "wasmparser",
    "wasmtime",
    "wit-bindgen-core",
    "wit-component",
    "wit-parser",
];

#[test]
fn heavy_crates_have_one_version() {
    let lock = std::fs::read_to_string(crate::root().join("Cargo.lock")).expect("a lock file");
    for heavy in HEAVY {
        let name = format!("name = \"{heavy}\"");
        let versions = lock.lines().filter(|line| *line == name).count();
        assert_eq!(versions, 1, "{heavy}: `cargo tree --invert {heavy}` shows who needs which");
    }
}
