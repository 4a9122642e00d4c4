//! Small WASI programs for the tests, written in WebAssembly text.

use std::fmt::Write as _;

/// Where a guest's texts start. Below are the buffers of the calls.
const TEXT_AT: usize = 1024;

/// A program.
#[derive(Clone, Debug)]
pub struct Guest(Vec<u8>);

impl Guest {
    /// A program that does this, one after another: texts of the functions and constants of this module.
    ///
    /// # Panics
    /// When it is no valid WebAssembly.
    #[must_use]
    pub fn new(body: &[&str]) -> Self {
        Self(wat::parse_str(source(&body.concat())).expect("guests are valid"))
    }

    /// The module.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Puts texts in braces into the memory, and their address and length where they stood.
fn source(body: &str) -> String {
    let (mut code, mut data) = (String::new(), String::new());
    let (mut at, mut rest) = (TEXT_AT, body);
    while let Some((before, after)) = rest.split_once('{') {
        let (text, after) = after.split_once('}').expect("every brace is closed");
        let len = text.len();
        write!(code, "{before}(i32.const {at}) (i32.const {len})").expect("a string takes all");
        write!(data, "(data (i32.const {at}) {text:?})").expect("a string takes all");
        at += len;
        rest = after;
    }
    code += rest;
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_symlink"
                (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            {data}
            ;; Ends with a code of its own, so that a guest that cannot do its work is not mistaken for another.
            (func $must (param i32) (if (i32.eqz (local.get 0)) (then (call $exit (i32.const 99)))))
            (func $ok (param i32) (call $must (i32.eqz (local.get 0))))
            (func $write (param $fd i32) (param $at i32) (param $len i32)
                (i32.store (i32.const 0) (local.get $at))
                (i32.store (i32.const 4) (local.get $len))
                (call $ok (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
            ;; Opens a path for writing below the work directory; the descriptor is then at address 16.
            (func $open (param $path i32) (param $len i32) (param $create i32) (result i32)
                (call $path_open (i32.const 3) (i32.const 1) (local.get $path) (local.get $len)
                    (local.get $create) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
            (func (export "_start") {code}))"#
    )
}

/// Prints to standard output.
#[must_use]
pub fn say(text: &str) -> String {
    format!("(call $write (i32.const 1) {{{text}}})")
}

/// Writes a file in the work directory.
#[must_use]
pub fn write_file(path: &str, content: &str) -> String {
    format!(
        "(call $ok (call $open {{{path}}} (i32.const 1)))
         (call $write (i32.load (i32.const 16)) {{{content}}})"
    )
}

/// Ends with code 98 when the file can be opened for writing.
#[must_use]
pub fn open_must_fail(path: &str) -> String {
    format!(
        "(if (i32.eqz (call $open {{{path}}} (i32.const 0))) (then (call $exit (i32.const 98))))"
    )
}

/// Ends with code 98 when the file can be made, or opened for writing.
#[must_use]
pub fn create_must_fail(path: &str) -> String {
    format!(
        "(if (i32.eqz (call $open {{{path}}} (i32.const 1))) (then (call $exit (i32.const 98))))"
    )
}

/// Makes a symbolic link, or does not when it must not.
#[must_use]
pub fn symlink(target: &str, link: &str) -> String {
    format!("(drop (call $symlink {{{target}}} (i32.const 3) {{{link}}}))")
}

/// Waits without computing.
#[must_use]
pub fn sleep_ms(ms: u64) -> String {
    // A clock subscription at 104: its kind, the monotonic clock, the time in nanoseconds.
    format!(
        "(i32.store8 (i32.const 112) (i32.const 0))
         (i32.store (i32.const 120) (i32.const 1))
         (i64.store (i32.const 128) (i64.const {}))
         (call $ok (call $poll (i32.const 104) (i32.const 200) (i32.const 1) (i32.const 16)))",
        ms * 1_000_000
    )
}

/// Ends with this code.
#[must_use]
pub fn exit_with(code: u8) -> String {
    format!("(call $exit (i32.const {code}))")
}

/// Asks for ever more memory; touches all of it, and computes on when it gets none.
#[must_use]
pub fn grow_without_end() -> String {
    "(loop $l (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br $l))"
        .to_owned()
}

/// Computes for ever.
pub const ENDLESS_LOOP: &str = "(loop $l (br $l))";
