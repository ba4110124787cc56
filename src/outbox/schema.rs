//! The schema: bringing it up to date, and whether this program can work with what is there.

use sqlx::{
    PgConnection,
    error::DatabaseError,
    migrate::{MigrateError, Migrator},
};

use super::{checkpoints, partitions};

/// The oldest major version of PostgreSQL: the schema needs multiranges and more of it.
pub const OLDEST_POSTGRESQL: i32 = 15;
/// `cache` of the sequence of ids: sessions that drew ids in advance would fill them later than anybody waits for.
pub const SEQUENCE_CACHE: i64 = 1;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It is not made for this program.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The sequence hands out ids in advance: holes would be closed that are still to be filled.
    #[error(
        "the cache of sequence outbox_messages_id_seq is {0} and must be {must}: alter sequence outbox_messages_id_seq \
         cache {must}",
        must = SEQUENCE_CACHE
    )]
    SequenceCache(i64),
    /// The server is too old.
    #[error("PostgreSQL {0} is too old: {oldest} or newer is needed", oldest = OLDEST_POSTGRESQL)]
    ServerTooOld(i32),
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a program of another version finds wrong with the migrations that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// None did.
    #[error("the database has no outbox yet: run `dispatcher migrate`")]
    Missing,
    /// The newest is older than this program, which knows the second.
    #[error("the schema is at version {0}, and this program needs {1}: run `dispatcher migrate`")]
    TooOld(i64, i64),
    /// They are for the first version and newer ones: this program, which knows the second, would do damage.
    #[error("the schema is made for version {0} of this program or newer, and this is {1}: deploy a newer program")]
    TooNew(i64, i64),
}

/// What `schema_compatibility` says of all migrations that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The newest.
    pub version: i64,
    /// The oldest migration whose program still runs here: the greatest `oldest_compatible` of them all, not that of
    /// the newest row. What one migration has taken away, no later one gives back, whatever its own row says: a line
    /// that was copied from an older file must not let old programs in again.
    pub oldest_compatible: i64,
}

/// The newest migration that this program knows.
pub fn version() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Brings the schema up to date: migrations, the first partitions, the first checkpoint. Idempotent, and
/// safe to run from many replicas at once. A schema that is newer than this program is left as it is.
pub async fn migrate(conn: &mut PgConnection, partition_rows: i64) -> anyhow::Result<()> {
    let mut migrations = sqlx::migrate!();
    // A newer program may have migrated already; whether this one can work with that, `check` says.
    migrations.set_ignore_missing(true);
    migrations.run(&mut *conn).await.map_err(explain)?;
    partitions::ensure_checkpoints(conn, 0).await?;
    checkpoints::write_first(conn).await?;
    let seq = checkpoints::newest_seq(conn).await?;
    partitions::ensure_checkpoints(conn, seq).await?;
    partitions::ensure_outbox(conn, partition_rows).await?;
    partitions::ensure_jobs(conn, chrono::Utc::now()).await?;
    Ok(())
}

/// Migrations wait for locks for seconds only, for everybody else waits behind them.
fn explain(error: MigrateError) -> anyhow::Error {
    // https://www.postgresql.org/docs/current/errcodes-appendix.html: lock_not_available
    let is_lock = |failed: &dyn DatabaseError| failed.code().is_some_and(|code| code == "55P03");
    let locked = match &error {
        MigrateError::ExecuteMigration(failed, _) => failed.as_database_error().is_some_and(is_lock),
        _ => false,
    };
    let error = anyhow::Error::from(error);
    if !locked {
        return error;
    }
    error.context(
        "another session uses what is to be changed, such as an open report (pg_stat_activity shows it): end it or wait for \
         it, and run `dispatcher migrate` again; what had been done of this step is undone",
    )
}

/// Refuses a schema that this program cannot work with.
pub async fn check(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let server: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int / 10000")
        .fetch_one(&mut *conn)
        .await?;
    if server < OLDEST_POSTGRESQL {
        return Err(SchemaError::ServerTooOld(server));
    }
    judge(read_migrated(conn).await?, version())?;
    let cache = read_sequence_cache(conn).await?;
    if cache != SEQUENCE_CACHE {
        return Err(SchemaError::SequenceCache(cache));
    }
    Ok(())
}

/// None: there is no outbox.
pub async fn read_migrated(conn: &mut PgConnection) -> sqlx::Result<Option<Migrated>> {
    let there: bool = sqlx::query_scalar("select to_regclass('schema_compatibility') is not null")
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        return Ok(None);
    }
    let (version, oldest): (Option<i64>, Option<i64>) =
        sqlx::query_as("select max(version), max(oldest_compatible) from schema_compatibility")
            .fetch_one(conn)
            .await?;
    Ok(version.zip(oldest).map(|(version, oldest_compatible)| Migrated {
        version,
        oldest_compatible,
    }))
}

/// Whether a program that knows the migrations up to `known` can work with those that ran.
pub fn judge(migrated: Option<Migrated>, known: i64) -> Result<Migrated, Misfit> {
    let migrated = migrated.ok_or(Misfit::Missing)?;
    if migrated.oldest_compatible > known {
        return Err(Misfit::TooNew(migrated.oldest_compatible, known));
    }
    if migrated.version < known {
        return Err(Misfit::TooOld(migrated.version, known));
    }
    Ok(migrated)
}

/// See [`SEQUENCE_CACHE`].
pub async fn read_sequence_cache(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select seqcache from pg_sequence where seqrelid = 'outbox_messages_id_seq'::regclass")
        .fetch_one(conn)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_works_with_its_own_schema_and_with_a_newer_one_that_has_taken_nothing_from_it() {
        assert_eq!(judge(None, 2), Err(Misfit::Missing));
        for (version, oldest_compatible, misfit) in [
            (2, 1, None),
            (2, 2, None),
            (3, 2, None),
            (3, 3, Some(Misfit::TooNew(3, 2))),
            (4, 3, Some(Misfit::TooNew(3, 2))),
            (1, 1, Some(Misfit::TooOld(1, 2))),
        ] {
            let migrated = Migrated {
                version,
                oldest_compatible,
            };
            assert_eq!(
                judge(Some(migrated), 2),
                misfit.map_or(Ok(migrated), Err),
                "{migrated:?}"
            );
        }
    }
}
