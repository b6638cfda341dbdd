//! Any headers and body as a message from the broker: `postrider::internals::Message`.
#![no_main]

use std::sync::{LazyLock, Mutex};

use postrider::internals::Message;

static MESSAGE: LazyLock<Mutex<Message>> = LazyLock::new(|| Mutex::new(Message::new()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| MESSAGE.lock().expect("no input fails and is survived").run(input));
