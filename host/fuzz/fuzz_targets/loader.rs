//! Any bytes as a plugin file: `postrider::internals::Loader`.
#![no_main]

use std::sync::LazyLock;

use postrider::internals::Loader;

static LOADER: LazyLock<Loader> = LazyLock::new(|| {
    // The host survives a panic of the libraries that read a file, and refuses the file. Any other
    // panic reaches libFuzzer.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    Loader::new()
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| LOADER.run(input));
