//! Ending, as preview 1 guests do it.
//!
//! This replaces wasmtime-wasi's `proc_exit`, which takes every code from 126 on for a crash. Programs end with such codes
//! on all other platforms, so they are codes here, too: of a larger number the lowest eight bits, as in a process.

use wasmtime::Linker;
use wasmtime_wasi::I32Exit;

use super::guest::Guest;

/// Puts the function in the place of wasmtime-wasi's.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |code: u32| -> wasmtime::Result<()> { Err(I32Exit((code & 0xff).cast_signed()).into()) },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
