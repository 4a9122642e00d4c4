//! Guests for the tests of the WASI runtime, in text form.

use std::fmt::Write as _;

/// Where a guest's texts and buffers lie: texts are kept at the place of the code that uses them, one after another.
const TEXT_AT: usize = 1024;

/// A preview 1 command with the given body of `_start`. `{text}` in it stands for a text's address and length.
pub(crate) fn core(body: &str) -> Vec<u8> {
    wat::parse_str(text(body, "")).unwrap()
}

/// As [`core`], larger than what is compiled at once.
pub(crate) fn large(body: &str) -> Vec<u8> {
    let filler = format!("(data \"{}\")", "x".repeat(400 << 10));
    wat::parse_str(text(body, &filler)).unwrap()
}

/// The same command as a preview 2 component.
pub(crate) fn component(body: &str) -> Vec<u8> {
    use wasi_preview1_component_adapter_provider as adapter;
    wit_component::ComponentEncoder::default()
        .module(&core(body))
        .unwrap()
        .adapter(
            adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            adapter::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        )
        .unwrap()
        .encode()
        .unwrap()
}

fn text(body: &str, more: &str) -> String {
    let mut placed = String::new();
    let mut data = String::new();
    let mut at = TEXT_AT;
    let mut rest = body;
    while let Some((before, after)) = rest.split_once('{') {
        let (text, after) = after.split_once('}').unwrap();
        write!(placed, "{before}(i32.const {at}) (i32.const {})", text.len()).unwrap();
        write!(data, "(data (i32.const {at}) {text:?})").unwrap();
        at += text.len();
        rest = after;
    }
    assert!(at < 16 << 10, "texts reach into the buffers");
    placed += rest;
    if placed.contains("$oops") {
        // The quick compiler refuses every module with a tag.
        data += "(tag $oops)";
    }
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $truncate (param i32 i64) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_symlink"
                (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (table 1 funcref)
            {data} {more}
            (func $forever (call $forever) (call $forever))
            ;; Ends with a code that no test expects.
            (func $must (param i32) (if (i32.eqz (local.get 0)) (then (call $exit (i32.const 99)))))
            (func $ok (param i32) (call $must (i32.eqz (local.get 0))))
            ;; Writes a buffer to a descriptor.
            (func $write (param $fd i32) (param $at i32) (param $len i32)
                (i32.store (i32.const 0) (local.get $at))
                (i32.store (i32.const 4) (local.get $len))
                (call $ok (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
            ;; Copies what is left of a descriptor to standard output.
            (func $copy (param $fd i32)
                (loop $more
                    (i32.store (i32.const 0) (i32.const 32768))
                    (i32.store (i32.const 4) (i32.const 16384))
                    (call $ok (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (if (i32.load (i32.const 8)) (then
                        (call $write (i32.const 1) (i32.const 32768) (i32.load (i32.const 8)))
                        (br $more)))))
            ;; Opens a path and gives the error number; the descriptor is then at address 16.
            (func $open (param $dir i32) (param $path i32) (param $len i32) (param $flags i32) (param $rights i64)
                (result i32)
                (call $path_open (local.get $dir) (i32.const 1) (local.get $path) (local.get $len)
                    (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 16)))
            (func (export "_start") (local $i i32) {placed}))"#
    )
}

/// Rights to read, and to write.
const READ: u32 = 2;
const WRITE: u32 = 64;
/// Right to set a file's size.
const RESIZE: u32 = 1 << 22;

pub(crate) fn say(text: &str) -> String {
    format!("(call $write (i32.const 1) {{{text}}})")
}

pub(crate) fn write_file(dir: u32, path: &str, content: &str) -> String {
    format!(
        "(call $ok (call $open (i32.const {dir}) {{{path}}} (i32.const 1) (i64.const {WRITE})))
         (call $write (i32.load (i32.const 16)) {{{content}}})"
    )
}

pub(crate) fn print_file(dir: u32, path: &str) -> String {
    format!(
        "(call $ok (call $open (i32.const {dir}) {{{path}}} (i32.const 0) (i64.const {READ})))
         (call $copy (i32.load (i32.const 16)))"
    )
}

pub(crate) fn must_not_open(dir: u32, path: &str) -> String {
    format!(
        "(call $must (call $open (i32.const {dir}) {{{path}}} (i32.const 0) (i64.const {READ})))"
    )
}

pub(crate) fn must_not_create(dir: u32, path: &str) -> String {
    format!(
        "(call $must (call $open (i32.const {dir}) {{{path}}} (i32.const 1) (i64.const {WRITE})))"
    )
}

/// Makes a link, or fails to: only what it leads to matters.
pub(crate) fn symlink(target: &str, link: &str) -> String {
    format!("(drop (call $path_symlink {{{target}}} (i32.const 3) {{{link}}}))")
}

fn open_new(path: &str) -> String {
    let rights = WRITE | RESIZE;
    format!("(call $ok (call $open (i32.const 3) {{{path}}} (i32.const 1) (i64.const {rights})))")
}

const WRITE_WITHOUT_END: &str =
    "(loop $l (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 65536)) (br $l))";

pub(crate) fn fill_disk(path: &str) -> String {
    format!("{}{WRITE_WITHOUT_END}", open_new(path))
}

/// Fills the disk through a file that has no name any more.
pub(crate) fn fill_disk_deleted(path: &str) -> String {
    format!(
        "{}(call $ok (call $unlink (i32.const 3) {{{path}}})){WRITE_WITHOUT_END}",
        open_new(path)
    )
}

/// Makes a file of 1 TiB that takes no space, and then computes.
pub(crate) fn make_hole(path: &str) -> String {
    format!(
        "{}(call $ok (call $truncate (i32.load (i32.const 16)) (i64.const 0x100_0000_0000))) (loop $l (br $l))",
        open_new(path)
    )
}

pub(crate) fn grow_until_refused(then: &str) -> String {
    format!("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) {then}")
}

pub(crate) const PRINT_ARGS_AND_ENV: &str = "
    (call $ok (call $args_sizes (i32.const 16) (i32.const 20)))
    (call $ok (call $args (i32.const 16384) (i32.const 32768)))
    (call $write (i32.const 1) (i32.const 32768) (i32.load (i32.const 20)))
    (call $ok (call $env_sizes (i32.const 16) (i32.const 20)))
    (call $ok (call $env (i32.const 16384) (i32.const 32768)))
    (call $write (i32.const 1) (i32.const 32768) (i32.load (i32.const 20)))";

pub(crate) const CAT: &str = "(call $copy (i32.const 0))";

/// Waits on the monotonic clock: a subscription has its clock at 16, its time at 24.
pub(crate) const SLEEP_FOR_AN_HOUR: &str = "
    (i32.store (i32.const 112) (i32.const 0))
    (i32.store (i32.const 120) (i32.const 1))
    (i64.store (i32.const 128) (i64.const 3600000000000))
    (drop (call $poll (i32.const 104) (i32.const 200) (i32.const 1) (i32.const 16)))";

/// Waits for 50 ms and for an hour at once, and is told of the first; then for a descriptor, which is ready.
pub(crate) const SLEEP_A_LITTLE: &str = "
    (i32.store (i32.const 120) (i32.const 1))
    (i64.store (i32.const 128) (i64.const 3600000000000))
    (i64.store (i32.const 152) (i64.const 77))
    (i32.store (i32.const 168) (i32.const 1))
    (i64.store (i32.const 176) (i64.const 50000000))
    (call $ok (call $poll (i32.const 104) (i32.const 200) (i32.const 2) (i32.const 16)))
    (call $must (i32.eq (i32.load (i32.const 16)) (i32.const 1)))
    (call $must (i64.eq (i64.load (i32.const 200)) (i64.const 77)))
    (i32.store8 (i32.const 112) (i32.const 2))
    (call $ok (call $poll (i32.const 104) (i32.const 200) (i32.const 2) (i32.const 16)))
    (call $must (i32.eq (i32.load8_u (i32.const 210)) (i32.const 2)))
    (call $must (call $poll (i32.const 104) (i32.const 65530) (i32.const 2) (i32.const 16)))
    (call $must (call $poll (i32.const 65530) (i32.const 200) (i32.const 2) (i32.const 16)))
    (call $must (call $poll (i32.const 104) (i32.const 200) (i32.const 0) (i32.const 16)))";

pub(crate) const OPEN_WITHOUT_END: &str = "
    (loop $l
        (call $ok (call $open (i32.const 3) {file} (i32.const 1) (i64.const 2)))
        (br $l))";

pub(crate) const CATCH_AN_EXCEPTION: &str =
    "(block $caught (try_table (catch $oops $caught) (throw $oops)) unreachable)";

pub(crate) const COUNT_TO_A_MILLION: &str = "
    (loop $l
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 1000000))))";
