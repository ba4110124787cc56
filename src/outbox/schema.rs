//! The schema: bringing it up to date, and whether this program can work with what is there.

use sqlx::{
    PgConnection,
    error::DatabaseError,
    migrate::{MigrateError, Migrator},
};

use super::{checkpoints, partitions};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// There is none.
    #[error("the database has no outbox yet: run `dispatcher migrate`")]
    Missing,
    /// It is older than this program.
    #[error("the schema is at version {0}, and this program needs {1}: run `dispatcher migrate`")]
    TooOld(i64, i64),
    /// It is so much newer that this program would do damage.
    #[error("the schema is made for version {0} of this program or newer, and this is {1}: deploy a newer program")]
    TooNew(i64, i64),
    /// The sequence hands out ids in advance: holes would be closed that are still to be filled.
    #[error(
        "the cache of sequence outbox_messages_id_seq is {0} and must be 1: alter sequence outbox_messages_id_seq cache 1"
    )]
    SequenceCache(i64),
    /// The server is too old.
    #[error("PostgreSQL {0} is too old: 15 or newer is needed")]
    ServerTooOld(i32),
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
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
    if server < 15 {
        return Err(SchemaError::ServerTooOld(server));
    }
    let there: bool = sqlx::query_scalar("select to_regclass('schema_compatibility') is not null")
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        return Err(SchemaError::Missing);
    }
    let newest: Option<(i64, i64)> =
        sqlx::query_as("select version, oldest_compatible from schema_compatibility order by version desc limit 1")
            .fetch_optional(&mut *conn)
            .await?;
    match newest {
        None => return Err(SchemaError::Missing),
        Some((at, _)) if at < version() => return Err(SchemaError::TooOld(at, version())),
        Some((_, oldest)) if oldest > version() => return Err(SchemaError::TooNew(oldest, version())),
        Some(_) => {}
    }
    let cache: i64 =
        sqlx::query_scalar("select seqcache from pg_sequence where seqrelid = 'outbox_messages_id_seq'::regclass")
            .fetch_one(conn)
            .await?;
    if cache != 1 {
        return Err(SchemaError::SequenceCache(cache));
    }
    Ok(())
}
