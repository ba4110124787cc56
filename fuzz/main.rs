//! One target of `image_job_dispatcher::fuzz` under libFuzzer: which one, says `FUZZ_TARGET`. `make fuzz` runs all.

#![no_main]

use std::sync::LazyLock;

use image_job_dispatcher::fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.check)(data));
