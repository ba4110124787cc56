//! WATERMILL, beside G4: Watermill's forwarder, a Go program, on the same rows and the same broker.
//!
//! `watermill/main.go` is all of it but the library, which Go fetches the first time. Its rows are those of the
//! textbook's backlog in the form that it wants: an envelope in JSON, with the payload in base64 and four of the
//! service's headers. It hands over one message after the other, and sorts all that waits for each batch that it reads,
//! so it is given a small backlog, which is to its advantage.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sqlx::Executor;

use crate::{
    backlog::{Kind, Topic, payload},
    drain,
    peer::Running,
    report::Sample,
    settings::root,
    stack::Stack,
    usage::own,
};

/// How many messages it drains.
pub const BACKLOG: i64 = 20_000;
/// Rows that were committed together.
const COMMITTED: i64 = 1000;
/// What was set, for the page.
pub const TUNED: &str = "20000 messages for Watermill 1.5.1 (watermill-sql 4.1.2, watermill-kafka 3.0.6): SubscribeBatchSize=1000, \
    PollInterval=10ms, RequiredAcks=WaitForAll, Idempotent=true, MaxOpenRequests=1";

/// Builds it.
pub fn build() -> Result<()> {
    let program = root().join(".dev/bench/watermill");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(root().join("benches/watermill"))
        .status()
        .context("Go builds it")?;
    ensure!(built.success(), "go build in benches/watermill: {built}");
    Ok(())
}

/// Drains a backlog.
pub async fn drain(stack: &Stack) -> Result<Sample> {
    let (database, topic) = (
        stack.database_with_backlog(Kind::Textbook, BACKLOG).await?,
        stack.topic().await?,
    );
    let program = || {
        let mut command = Command::new(root().join(".dev/bench/watermill"));
        command
            .env("DATABASE_URL", format!("{}?sslmode=disable", database.url))
            .env("BROKERS", stack.kafka.bootstrap());
        command
    };
    let made = program().arg("init").status().context("Watermill's forwarder")?;
    if !made.success() {
        bail!("Watermill's forwarder cannot make its tables: {made}");
    }
    let mut connection = database.connect().await?;
    let mut from = 0;
    while from < BACKLOG {
        sqlx::query(
            r#"insert into "watermill_outbox" (uuid, payload, metadata, transaction_id)
               select event_id::text, json_build_object(
                          'destination_topic', $1, 'uuid', event_id,
                          'payload', translate(encode(payload, 'base64'), E'\n', ''),
                          'metadata', json_build_object(
                              'ce_id', event_id, 'ce_subject', key, 'ce_time', event_time, 'outbox-id', id::text)),
                      '{}', pg_current_xact_id()
               from textbook_outbox where id > $2 and id <= $3 order by id"#,
        )
        .bind(&topic)
        .bind(from)
        .bind(from + COMMITTED)
        .execute(&mut connection)
        .await?;
        from += COMMITTED;
    }
    connection.execute("vacuum (analyze) watermill_outbox").await?;
    connection.execute("checkpoint").await?;

    let look = Topic::new(stack, &topic)?;
    let before = stack.mark().await?;
    let mut forwarder = Running::start("watermill", &mut program())?;
    drain::wait_for(&look, BACKLOG, || forwarder.check()).await?;
    let of_forwarder = own(forwarder.pid())?;
    let mut used = stack.mark().await?.since(before);
    drop(forwarder);
    used.cpu.service += of_forwarder;
    used.cpu.elsewhere -= of_forwarder;
    let sample = drain::sample(&look, (0, BACKLOG), false, used)?;
    let (value, headers) = look.one()?;
    if value != payload().as_bytes() || !headers.contains(&"ce_id".to_owned()) {
        bail!(
            "Watermill sends something else: {}, {headers:?}",
            String::from_utf8_lossy(&value)
        );
    }
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok(sample)
}
