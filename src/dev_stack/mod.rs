//! Real PostgreSQL, Redis and Apache Kafka on this machine, without Docker: for `start-dev`, for the tests and
//! for the benchmarks.
//!
//! Each server is a child process in a group of its own, so that Ctrl-C at the terminal does not reach it. Its
//! data is in a [`Home`], its port is nobody else's, and it dies with this process, however that ends. Tests
//! stop, kill, freeze and restart servers through the same types. Nothing here touches a server that it did
//! not start.

mod home;
mod kafka;
mod kafka_libs;
mod kafka_mock;
mod postgres;
mod process;
mod redis;

pub use home::{Home, free_port};
pub use kafka::{Beside, KafkaBroker, Security, create_topic};
pub use kafka_libs::KafkaLibs;
pub use kafka_mock::MockBroker;
pub use postgres::Postgres;
pub use process::{end_with_this_process, forget_ended};
pub use redis::RedisServer;

use std::path::{Path, PathBuf};

/// The first of `names` that is on `PATH`.
fn find_on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names.iter().find_map(|name| {
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|file| is_program(file))
    })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
