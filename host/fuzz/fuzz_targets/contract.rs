//! Any description, event and answer of a stage: `postrider::internals::Contract`.
#![no_main]

use std::sync::{LazyLock, Mutex};

use postrider::internals::Contract;

static CONTRACT: LazyLock<Mutex<Contract>> = LazyLock::new(|| Mutex::new(Contract::new()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| CONTRACT.lock().expect("no input fails and is survived").run(input));
