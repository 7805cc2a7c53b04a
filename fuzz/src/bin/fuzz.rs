//! libFuzzer's way in: the target is named by `COUNTERSIGN_FUZZ_TARGET`, and leaves its good input in the directory
//! `COUNTERSIGN_FUZZ_CORPUS` before the search begins. See `cargo xtask fuzz`.
#![no_main]
#![allow(clippy::expect_used, clippy::panic, reason = "a fuzzer breaks by panicking")]

use std::path::PathBuf;
use std::sync::LazyLock;

use countersign_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let wanted = std::env::var("COUNTERSIGN_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let found = TARGETS.iter().find(|target| target.name == wanted);
    found.unwrap_or_else(|| panic!("no target {wanted:?}: use one of {names:?}"))
});

/// Keys are new in each process, so good input is as well.
fn write_seeds() {
    let Some(corpus) = std::env::var_os("COUNTERSIGN_FUZZ_CORPUS").map(PathBuf::from) else { return };
    for (number, seed) in TARGET.seeds.iter().enumerate() {
        std::fs::write(corpus.join(format!("good-{number}")), seed).expect("the corpus can be written");
    }
}

fuzz_target!(init: write_seeds(), |data: &[u8]| TARGET.run(data));
