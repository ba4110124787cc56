//! Room. PostgreSQL does not say how much its disk has left; where it runs on this machine, the file system does.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use sqlx::PgConnection;

use super::{Finding, bytes, is_local};
use crate::cli::Context;

/// Below so much of the disk, something has to be done soon.
const LITTLE_PERCENT: u64 = 10;

pub(super) async fn check_postgres(conn: &mut PgConnection, context: &Context) -> sqlx::Result<Vec<Finding>> {
    // The directory is told to superusers and members of pg_read_all_settings only.
    let (database, directory): (i64, Option<String>) = sqlx::query_as(
        "select pg_database_size(current_database()),
                (select setting from pg_settings where name = 'data_directory')",
    )
    .fetch_one(conn)
    .await?;
    let here = directory.filter(|_| is_local(&context.database_host()));
    let room = here.as_deref().and_then(|directory| Room::of(Path::new(directory)));
    let database = format!("the database has {}", bytes(database));
    Ok(vec![match room {
        Some(room) => room.judge(
            "postgresql.disk",
            &database,
            "give it space, or see `dispatcher retain --dry-run`: once it is full no job is accepted",
        ),
        None => Finding::ok(
            "postgresql.disk",
            format!("{database}; what is free can be seen on its own machine only"),
        ),
    }])
}

/// The program writes no files; but whoever takes its log does, and a full disk ends that.
pub(super) fn check_own() -> Finding {
    const CHECK: &str = "machine.disk";
    match Room::of(Path::new(".")) {
        Some(room) => room.judge(
            CHECK,
            "where this program runs",
            "give it space: logs are lost when it is full",
        ),
        None => Finding::ok(CHECK, "cannot be seen"),
    }
}

/// Of a file system, in bytes.
#[derive(Debug, Clone, Copy)]
struct Room {
    free: u64,
    total: u64,
}

impl Room {
    fn of(path: &Path) -> Option<Self> {
        let said = statvfs(path).ok()?;
        let of = |blocks: u64| blocks.saturating_mul(said.fragment_size());
        Some(Self {
            free: of(said.blocks_available()),
            total: of(said.blocks()),
        })
        .filter(|room| room.total > 0)
    }

    fn judge(self, check: &'static str, what: &str, advice: &str) -> Finding {
        let found = format!(
            "{what}; {} of {} are free",
            bytes(self.free as i64),
            bytes(self.total as i64)
        );
        if self.free < self.total / 100 * LITTLE_PERCENT {
            return Finding::warn(check, found, advice);
        }
        Finding::ok(check, found)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn a_disk_that_is_nearly_full_is_named_and_this_one_is_measured() {
        let judge = |free, total| Room { free, total }.judge("x", "y", "z").status;
        assert_eq!(judge(9 << 30, 100 << 30), Status::Warn);
        assert_eq!(judge(11 << 30, 100 << 30), Status::Ok);
        let room = Room::of(Path::new(".")).unwrap();
        assert!(room.free <= room.total, "{room:?}");
        assert!(Room::of(Path::new("/no/such/directory")).is_none());
    }
}
