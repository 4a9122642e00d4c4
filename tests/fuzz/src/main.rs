//! Feeds one target of `tests/src/fuzz` with what libFuzzer makes up. The environment names the target: `FUZZ_TARGET`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod fuzz;

fn check() -> fn(&[u8]) -> bool {
    static CHECK: OnceLock<fn(&[u8]) -> bool> = OnceLock::new();
    *CHECK.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = fuzz::targets().into_iter().find(|target| target.name == name);
        let target = found.unwrap_or_else(|| panic!("FUZZ_TARGET={name} names no target"));
        // A target that refuses all valid examples would look for nothing.
        assert!((target.seeds)().iter().any(|seed| (target.check)(seed)), "{name} refuses its seeds");
        target.check
    })
}

fuzz_target!(|bytes: &[u8]| {
    check()(bytes);
});
