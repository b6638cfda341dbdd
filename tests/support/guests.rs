//! Guests in WebAssembly text: stages that do one odd thing, as core modules for the contract.

use anyhow::Result;

/// A stage that consumes `<name>.poke` and does nothing, but for the code that is set.
pub(crate) struct WatStage<'a> {
    pub(crate) name: &'a str,
    /// Imports of the module.
    pub(crate) imports: &'a str,
    /// Runs in each new instance.
    pub(crate) init: &'a str,
    /// Runs before `describe` returns. The list of what it consumes is at [`CONSUMES`].
    pub(crate) describe: &'a str,
    /// Runs before `handle` returns.
    pub(crate) handle: &'a str,
}

/// Where the address and the length of the list `consumes` are in the result of `describe`.
pub(crate) const CONSUMES: u32 = 512 + 24;

impl<'a> WatStage<'a> {
    pub(crate) fn named(name: &'a str) -> Self {
        Self { name, imports: "", init: "", describe: "", handle: "" }
    }

    /// The module: strings from 1024 on, the description at 512, an empty result at 640, and a heap
    /// after the first page.
    pub(crate) fn build(&self) -> Result<Vec<u8>> {
        let Self { name, imports, init, describe, handle } = self;
        let consumes = format!("{name}.poke");
        let (name_len, consumes_len) = (name.len(), consumes.len());
        let initialize = if init.is_empty() {
            String::new()
        } else {
            format!("(func (export \"_initialize\") {init})")
        };
        let text = format!(
            r#"(module
            {imports}
            (memory (export "memory") 64)
            (global $heap (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
              (global.set $heap (i32.add (local.get $at) (local.get 3)))
              (local.get $at))
            {initialize}
            (func (export "postrider:stage/handler@1.0.0#describe") (result i32) (local $i i32)
              (i32.store (i32.const 512) (i32.const 1024)) (i32.store (i32.const 516) (i32.const {name_len}))
              (i32.store (i32.const 520) (i32.const 1200)) (i32.store (i32.const 524) (i32.const 5))
              (i32.store (i32.const 528) (i32.const 1200)) (i32.store (i32.const 532) (i32.const 5))
              (i32.store (i32.const 536) (i32.const 1300)) (i32.store (i32.const 540) (i32.const 1))
              (i32.store (i32.const 1300) (i32.const 1400)) (i32.store (i32.const 1304) (i32.const {consumes_len}))
              {describe}
              (i32.const 512))
            (func (export "postrider:stage/handler@1.0.0#handle")
              (param i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32) (result i32)
              {handle}
              (i32.const 640))
            (data (i32.const 1024) "{name}") (data (i32.const 1200) "1.0.0") (data (i32.const 1400) "{consumes}"))"#
        );
        Ok(wat::parse_str(text)?)
    }
}

/// Imports of WASI that [`sleep`] and [`sometimes`] use.
pub(crate) const WASI: &str = r#"
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;

/// Sleeps for an hour.
pub(crate) const SLEEP: &str = "(i32.store (i32.const 272) (i32.const 1))
    (i64.store (i32.const 280) (i64.const 3600000000000))
    (drop (call $poll (i32.const 256) (i32.const 700) (i32.const 1) (i32.const 768)))";

/// Never ends.
pub(crate) const LOOP: &str = "(loop (br 0))";

/// Runs the code with a probability of a quarter.
pub(crate) fn sometimes(code: &str) -> String {
    format!(
        "(drop (call $random (i32.const 800) (i32.const 1)))
         (if (i32.eqz (i32.and (i32.load8_u (i32.const 800)) (i32.const 3))) (then {code}))"
    )
}
