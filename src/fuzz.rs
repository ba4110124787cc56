//! Bytes that others write, and what has to hold of every one of them.
//!
//! One target for each parser of foreign bytes. A target takes any bytes, in the form in which they arrive, and panics
//! when a promise is broken: not only that nothing panics, but that what is accepted is what was written. They stand
//! in the file `fuzz.rs` of their room, where they see what is private, and are in no build but the tests' and the
//! fuzzer's (feature `fuzzing`). `cargo test --lib fuzz` tries each on the kept corpus and on changed copies of it;
//! `make fuzz` gives each ten minutes of libFuzzer.

#[cfg(test)]
mod tests;

/// What is fuzzed.
pub struct Target {
    /// Also of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Panics when the bytes break a promise.
    pub check: fn(&[u8]),
}

/// All of them, from the outside in.
pub const TARGETS: &[Target] = &[
    target("token", crate::http::auth::fuzz::token),
    target("claims", crate::http::auth::fuzz::claims),
    target("key-set", crate::http::auth::fuzz::key_set),
    target("idempotency-key", crate::http::fuzz::idempotency_key),
    target("path-id", crate::http::fuzz::path_id),
    target("headers", crate::http::fuzz::headers),
    target("query", crate::console::fuzz::query),
    target("act", crate::console::fuzz::act),
    target("log-in", crate::console::fuzz::log_in),
    target("filters", crate::cli::fuzz::filters),
    target("selection", crate::outbox::fuzz::selection),
    target("multirange", crate::outbox::fuzz::multirange),
    target("draft", crate::jobs::fuzz::draft),
    target("cached-job", crate::jobs::fuzz::cached_job),
    target("result", crate::jobs::results::fuzz::result),
    target("topic-record", crate::publish::fuzz::record),
    target("request", crate::content::fuzz::request),
    target("logo-address", crate::content::logo::fuzz::address),
    target("logo", crate::content::logo::fuzz::file),
    target("config-file", crate::config::fuzz::file),
    target("config-environment", crate::config::fuzz::environment),
];

const fn target(name: &'static str, check: fn(&[u8])) -> Target {
    Target { name, check }
}
