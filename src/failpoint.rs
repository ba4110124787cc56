//! Failpoints: places where a test has the program crash, fail or stand still. A build that is not for tests has
//! none (`tests/it/house.rs` holds that): the tests turn on the feature of `fail` that makes them real.
//!
//! `FAILPOINTS="relay.checkpoint.after=3*off->return(crash)"` in the environment: at the fourth pass, as by SIGKILL.
//! `return(error)` fails where the place has an error to fail with, and crashes elsewhere; `sleep(1500)`,
//! in milliseconds, stands still, and a thread of the runtime with it. `tests/it/crash_points.rs` lists them all.

/// One place: its name and, if it can fail, with what: `lost` is a lost connection to the database.
macro_rules! failpoint {
    ($name:literal) => {
        let crash = || fail::fail_point!($name, |_| std::process::abort());
        crash();
    };
    ($name:literal, lost) => {
        failpoint!($name, $crate::failpoint::lost())
    };
    ($name:literal, $error:expr) => {
        fail::fail_point!($name, |what: Option<String>| {
            if what.as_deref() != Some("error") {
                std::process::abort();
            }
            Err($error.into())
        })
    };
}

/// As when the connection breaks while an answer is awaited.
pub fn lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())
}

/// Reads the variable FAILPOINTS, in builds that have any; they are cleared when the value is dropped.
pub fn from_environment() -> Option<fail::FailScenario<'static>> {
    fail::has_failpoints().then(fail::FailScenario::setup)
}
