use std::collections::BTreeSet;

use image_job_dispatcher::dev_stack::{Home, Postgres, RedisServer};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{Ran, insert_messages, run, settle};
use crate::support::{PATIENCE, Stage, document, eventually, stage::empty_database};

/// The line of a check.
fn line<'a>(rows: &'a Value, check: &str) -> &'a Value {
    rows.as_array()
        .expect("an array")
        .iter()
        .find(|row| row["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {rows}"))
}

/// The check has this status, and says this in what was found or in the advice.
fn said(ran: &Ran, check: &str, status: &str, word: &str) {
    let rows = ran.any_json();
    let line = line(&rows, check);
    assert_eq!(line["status"], status, "{line}");
    assert!(line.to_string().contains(word), "{word} in {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_installation_has_nothing_wrong() {
    let stage = Stage::new().await;
    let _app = stage.app().await;
    let ran = eventually("doctor finds nothing wrong", PATIENCE, async || {
        let ran = run(&stage, &["doctor"]).await;
        // That nobody leads yet is a warning only.
        if ran.code == 0 && line(&ran.any_json(), "outbox.leader")["status"] == "ok" {
            Ok(ran)
        } else {
            Err(format!("{ran:?}"))
        }
    })
    .await;
    said(&ran, "outbox.leader", "ok", "replica-1 leads");
    for check in [
        "schema.version",
        "schema.sequence",
        "schema.partitions",
        "redis.role",
        "kafka.identity",
    ] {
        said(&ran, check, "ok", "");
    }
    said(&ran, "kafka.topic", "ok", "6 partitions");

    let explained = checks_of_the_document();
    for row in ran.rows() {
        let check = row["check"]
            .as_str()
            .expect("a name")
            .replace("kafka.result_", "kafka.");
        assert!(
            explained.contains(&check) || check == "kafka.topic",
            "docs/operate.md does not explain {check}"
        );
    }
}

/// The checks in the table of docs/operate.md; `.version` goes on with what the one before it begins with.
fn checks_of_the_document() -> BTreeSet<String> {
    let text = document::read("docs/operate.md");
    let (_, table) = text.split_once("## What `doctor` checks").expect("a section");
    let mut checks = BTreeSet::new();
    let mut room = String::new();
    for cell in table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next())
    {
        for name in cell.split(['`', ',', ' ']).filter(|word| word.contains('.')) {
            let full = match name.strip_prefix('.') {
                Some(rest) => format!("{room}.{rest}"),
                None => name.to_owned(),
            };
            full.split('.').next().expect("a room").clone_into(&mut room);
            checks.insert(full);
        }
    }
    checks
}

/// A way to break something, how `doctor` calls it, and the way back.
struct Damage {
    done: &'static str,
    check: &'static str,
    status: &'static str,
    /// In what was found, or in the advice.
    word: &'static str,
    undone: &'static str,
}

const DAMAGES: &[Damage] = &[
    Damage {
        done: "alter sequence outbox_messages_id_seq cache 5",
        check: "schema.sequence",
        status: "fail",
        word: "cache 1",
        undone: "alter sequence outbox_messages_id_seq cache 1",
    },
    Damage {
        done: "alter table event_drafts rename prize to price",
        check: "schema.event_drafts",
        status: "fail",
        word: "prize",
        undone: "alter table event_drafts rename price to prize",
    },
    Damage {
        done: "insert into schema_compatibility values (99990101000001, 99990101000001)",
        check: "schema.version",
        status: "fail",
        word: "install the newer version",
        undone: "delete from schema_compatibility where version = 99990101000001",
    },
    Damage {
        // Tomorrow's partition of jobs is not where it is looked for.
        done: "do $$ begin
                   execute to_char(now() at time zone 'utc' + interval '1 day', '\"alter table jobs_\"YYYYMMDD\" rename to mislaid\"');
               end $$",
        check: "schema.partitions",
        status: "warn",
        word: "dispatcher migrate",
        undone: "do $$ begin
                     execute to_char(now() at time zone 'utc' + interval '1 day', '\"alter table mislaid rename to jobs_\"YYYYMMDD');
                 end $$",
    },
    Damage {
        done: "create table jobs_20200101 (like jobs)",
        check: "schema.leftovers",
        status: "warn",
        word: "drop table jobs_20200101",
        undone: "drop table jobs_20200101",
    },
    Damage {
        done: "do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$",
        check: "postgresql.durability",
        status: "fail",
        word: "synchronous_commit to on",
        undone: "do $$ begin execute format('alter database %I reset synchronous_commit', current_database()); end $$",
    },
    Damage {
        done: "do $$ begin
                   execute format('alter database %I set default_transaction_read_only = on', current_database());
               end $$",
        check: "postgresql.writable",
        status: "fail",
        word: "the primary",
        undone: "do $$ begin
                     execute format('alter database %I reset default_transaction_read_only', current_database());
                 end $$",
    },
    Damage {
        done: "update outbox_control set paused = true, reason = 'a test', by = 'kim', since = now()",
        check: "outbox.pause",
        status: "warn",
        word: "by kim: a test",
        undone: "update outbox_control set paused = false, reason = null, by = null, since = null",
    },
    Damage {
        done: "insert into outbox_dead_letters (outbox_id, error_class, error) values (1, 'invalid-record', 'refused')",
        check: "outbox.dead_letters",
        status: "warn",
        word: "dead list --group",
        undone: "update outbox_dead_letters set resolution = 'discarded', resolved_at = now()",
    },
    Damage {
        done: "update installation set topic = 'jobs', cluster_id = 'another'",
        check: "kafka.identity",
        status: "fail",
        word: "accept-identity",
        undone: "update installation set topic = null, cluster_id = null",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_database_is_named_with_what_to_do_and_gone_when_it_is_mended() {
    let stage = Stage::new().await;
    let ids = insert_messages(&stage.pool, 5, &[uuid::Uuid::new_v4()], uuid::Uuid::new_v4()).await;
    let (mut open, mut prepared, mut hand) = (stage.connect().await, stage.connect().await, stage.connect().await);
    let gid = format!("forgotten-{}", uuid::Uuid::new_v4());
    sqlx::raw_sql("begin; select txid_current()")
        .execute(&mut open)
        .await
        .expect("an open transaction");
    for statement in [
        "begin",
        "select txid_current()",
        &format!("prepare transaction '{gid}'"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut prepared)
            .await
            .expect("a prepared transaction");
    }
    for damage in DAMAGES {
        sqlx::raw_sql(damage.done).execute(&mut hand).await.expect(damage.done);
    }
    let doctor = ["doctor", "--long-transaction", "1ms"];
    let ran = run(&stage, &doctor).await;
    ran.failed(5, "schema.sequence");
    for damage in DAMAGES {
        said(&ran, damage.check, damage.status, damage.word);
    }
    said(&ran, "outbox.leader", "fail", "5 messages wait");
    said(&ran, "outbox.backlog", "fail", "see the other lines");
    let of_transactions: Vec<_> = ran
        .any_json()
        .as_array()
        .expect("an array")
        .iter()
        .filter(|line| line["check"] == "postgresql.transactions" && line["status"] == "warn")
        .map(ToString::to_string)
        .collect();
    assert!(
        of_transactions.iter().any(|line| line.contains("idle in transaction")),
        "{of_transactions:?}"
    );
    assert!(
        of_transactions.iter().any(|line| line.contains(&gid)),
        "{of_transactions:?}"
    );

    for damage in DAMAGES.iter().rev() {
        sqlx::raw_sql(damage.undone)
            .execute(&mut hand)
            .await
            .expect(damage.undone);
    }
    sqlx::raw_sql("rollback").execute(&mut open).await.expect("it ends");
    sqlx::raw_sql(AssertSqlSafe(format!("rollback prepared '{gid}'")))
        .execute(&mut prepared)
        .await
        .expect("it ends");
    settle(&stage.pool, &ids).await;
    let ran = run(&stage, &["doctor"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for damage in DAMAGES {
        said(&ran, damage.check, "ok", "");
    }
    said(&ran, "postgresql.transactions", "ok", "longer than 1m");
    said(&ran, "outbox.backlog", "ok", "0 messages wait");
    // Nobody was started; with nothing to do that is no error.
    said(&ran, "outbox.leader", "warn", "nothing waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_topic_is_named_and_gone_when_it_is_mended() {
    let wrong = [
        ("min.insync.replicas", "2"),
        ("max.message.bytes", "5000"),
        ("retention.ms", "60000"),
        ("cleanup.policy", "compact"),
        ("unclean.leader.election.enable", "true"),
    ];
    let stage = Stage::with_topic(&wrong).await;
    stage.set_topic(&stage.result_topic, &wrong).await;
    let checks = |kind: &str| {
        ["min_insync_replicas", "retention", "cleanup_policy", "unclean_election"]
            .map(|name| format!("kafka.{kind}{name}"))
    };
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(5, "kafka.min_insync_replicas");
    for kind in ["", "result_"] {
        let [min_isr, retention, cleanup, unclean] = checks(kind);
        said(&ran, &min_isr, "fail", "nothing can be written");
        said(&ran, &retention, "warn", "kept for 1m");
        said(&ran, &cleanup, "warn", "only the last one stays");
        said(&ran, &unclean, "warn", "lose what Kafka acknowledged");
    }
    said(&ran, "kafka.max_message_bytes", "warn", "refused with 413");

    stage.set_topic(&stage.topic, &[]).await;
    stage.set_topic(&stage.result_topic, &[]).await;
    let ran = run(&stage, &["doctor"]).await;
    for kind in ["", "result_"] {
        let [min_isr, retention, cleanup, unclean] = checks(kind);
        said(&ran, &min_isr, "ok", "1 of 1");
        said(&ran, &retention, "ok", "7days");
        let rows = ran.any_json();
        let left = rows
            .as_array()
            .expect("an array")
            .iter()
            .find(|row| row["check"] == cleanup || row["check"] == unclean);
        assert_eq!(left, None);
    }
    said(&ran, "kafka.max_message_bytes", "ok", "the topic takes");

    let missing = stage
        .set("kafka.topic", "no-such-topic")
        .set("kafka.result_topic", "no-such-result-topic");
    let ran = run(&missing, &["doctor"]).await;
    ran.failed(5, "kafka.topic");
    said(&ran, "kafka.topic", "fail", "--create --topic no-such-topic");
    said(&ran, "kafka.result_topic", "fail", "jobs get no final status");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_do_what_the_service_does_is_named_with_what_it_lacks() {
    let stage = Stage::new().await;
    let name = format!("weak_{}", uuid::Uuid::new_v4().simple());
    let by_owner = async |statement: String| {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&stage.pool)
            .await
            .expect("a statement")
    };
    by_owner(format!(
        "create role {name} login password 'barley'; grant select on jobs to {name}"
    ))
    .await;
    let (_, place) = stage.database_url.rsplit_once('@').expect("a password");
    let url = format!("postgres://{name}:barley@{place}");
    let weak = [("database.url", &*url)];
    let doctor = async || {
        let output = stage.run_with(&["doctor", "--output", "json"], &weak).await;
        Ran {
            code: output.status.code().expect("it was not killed"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    };
    let ran = doctor().await;
    ran.failed(5, "schema.permissions");
    for lacked in [
        "insert on jobs",
        "delete on idempotency_keys",
        "ownership of outbox_checkpoints",
        "usage on the sequence",
        "create on the schema",
    ] {
        said(&ran, "schema.permissions", "fail", lacked);
    }
    let rows = ran.any_json();
    assert!(
        !line(&rows, "schema.permissions")
            .to_string()
            .contains("select on jobs,"),
        "{rows}"
    );
    said(&ran, "schema.version", "fail", "cannot be checked");
    said(&ran, "postgresql.statistics", "warn", "grant pg_read_all_stats");

    let owner: String = sqlx::query_scalar("select current_user::text")
        .fetch_one(&stage.pool)
        .await
        .expect("a name");
    by_owner(format!("grant {owner}, pg_read_all_stats to {name}")).await;
    let ran = doctor().await;
    for check in [
        "schema.permissions",
        "schema.version",
        "schema.event_drafts",
        "postgresql.statistics",
    ] {
        said(&ran, check, "ok", "");
    }
    assert_eq!(ran.code, 0, "{ran:?}");
    by_owner(format!(
        "revoke {owner}, pg_read_all_stats from {name}; drop owned by {name}; drop role {name}"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_another_machine_without_tls_is_named_and_on_this_one_is_not() {
    let stage = Stage::new().await;
    // An address of this machine that is not known to be one.
    let elsewhere = |url: &str| url.replacen("127.0.0.1", "127.1", 1);
    let redis = elsewhere(&stage.servers().redis.url());
    let brokers = elsewhere(&stage.servers().kafka.bootstrap());
    let far = [
        ("database.url", &*elsewhere(&stage.database_url)),
        ("redis.url", &redis),
        ("kafka.brokers", &brokers),
    ]
    .map(|(key, value)| format!("{key}={value}"));
    let mut arguments = vec!["doctor"];
    for set in &far {
        arguments.extend(["--set", set]);
    }
    let ran = run(&stage, &arguments).await;
    for check in ["postgresql.tls", "redis.tls", "kafka.tls"] {
        said(&ran, check, "warn", "127.1 is not encrypted");
    }
    let ran = run(&stage, &["doctor"]).await;
    for check in ["postgresql.tls", "redis.tls", "kafka.tls"] {
        said(&ran, check, "ok", "on this machine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_server_is_named_and_gone_when_it_is_mended() {
    let stage = Stage::new().await;
    let home = Home::temporary().expect("a home");
    // Not the archive_command: what is given to a server's command line cannot be mended by `alter system`.
    let settings = [("archive_mode", "on"), ("max_connections", "12")];
    let (postgres, redis) = tokio::join!(Postgres::start(&home, &settings), RedisServer::start(&home));
    let (postgres, redis) = (postgres.expect("PostgreSQL starts"), redis.expect("Redis starts"));
    let stage = stage
        .set("database.url", &postgres.url("postgres"))
        .set("redis.url", &redis.url());
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut cache = client.get_multiplexed_async_connection().await.expect("Redis");
    let mut to_redis = async |words: &[&str]| {
        let said: redis::RedisResult<()> = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut cache).await;
        said.expect("OK");
    };
    let mut hand = PgConnection::connect(&postgres.url("postgres"))
        .await
        .expect("a connection");
    let mut type_in = async |statements: &[&str]| {
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))
                .execute(&mut hand)
                .await
                .expect(statement);
        }
    };
    to_redis(&["CONFIG", "SET", "maxmemory", "10mb"]).await;
    to_redis(&["REPLICAOF", "127.0.0.1", "1"]).await;
    // What waits for a standby waits for ever from then on; none of these commits anything.
    type_in(&[
        "select pg_create_physical_replication_slot('gone', true)",
        "alter system set archive_command = 'false'",
        "create table t (); select pg_switch_wal()",
        "alter system set synchronous_standby_names = 'ghost'",
        "select pg_reload_conf()",
    ])
    .await;
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(
            PgConnection::connect(&postgres.url("postgres"))
                .await
                .expect("a connection"),
        );
    }
    let found = [
        ("postgresql.durability", "fail", "no job is answered"),
        (
            "postgresql.replication_slots",
            "warn",
            "pg_drop_replication_slot('gone')",
        ),
        ("postgresql.archiver", "warn", "archive_command"),
        ("postgresql.wal", "warn", "min_wal_size to 1GB"),
        ("postgresql.connections", "warn", "11 of 12"),
        ("redis.role", "fail", "is a slave"),
        ("redis.memory", "warn", "volatile-ttl"),
    ];
    eventually("doctor names all of it", PATIENCE, async || {
        let ran = run(&stage, &["doctor"]).await;
        let rows = ran.any_json();
        match found
            .iter()
            .find(|(check, status, _)| line(&rows, check)["status"] != *status)
        {
            None => {
                for (check, status, word) in found {
                    said(&ran, check, status, word);
                }
                Ok(())
            }
            Some((check, _, _)) => Err(line(&rows, check).to_string()),
        }
    })
    .await;

    drop(others);
    to_redis(&["REPLICAOF", "NO", "ONE"]).await;
    to_redis(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]).await;
    type_in(&[
        "alter system reset synchronous_standby_names",
        "alter system set archive_command = 'true'",
        "alter system set min_wal_size = '1GB'",
        "alter system set max_wal_size = '4GB'",
        "select pg_reload_conf()",
        "select pg_drop_replication_slot('gone')",
        // What wakes the archiver, which tries again in a minute else.
        "create table mended (); select pg_switch_wal()",
    ])
    .await;
    let ran = eventually("doctor finds it mended", PATIENCE, async || {
        let ran = run(&stage, &["doctor"]).await;
        let rows = ran.any_json();
        let left = found.iter().map(|(check, _, _)| line(&rows, check));
        match left.clone().find(|line| line["status"] != "ok") {
            None => Ok(ran),
            Some(line) => Err(line.to_string()),
        }
    })
    .await;
    // Whether it is enough is this machine's affair.
    for check in ["postgresql.disk", "machine.disk"] {
        let rows = ran.any_json();
        assert!(line(&rows, check).to_string().contains("are free"), "{rows}");
    }
    said(&ran, "postgresql.clock", "ok", "between this machine and PostgreSQL");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_not_being_reached_has_its_own_advice() {
    let stage = Stage::new().await;
    let (_, place) = stage.database_url.rsplit_once('@').expect("a password");
    let wrong = format!("postgres://nobody:wrong@{place}");
    let stage = stage
        .set("database.url", &wrong)
        .set("redis.url", "redis://127.0.0.1:1")
        .set("kafka.brokers", "127.0.0.1:1");
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(3, "cannot be reached");
    said(&ran, "postgresql.reachable", "unreachable", "user and password");
    said(&ran, "redis.reachable", "unreachable", "check redis.url");
    said(&ran, "kafka.reachable", "unreachable", "check kafka.brokers");

    // TLS where there is none, at each of them.
    let stage = Stage::new().await;
    let redis = stage.servers().redis.url().replacen("redis://", "rediss://", 1);
    let database = format!("{}?sslmode=require", stage.database_url);
    let stage = stage
        .set("database.url", &database)
        .set("redis.url", &redis)
        .set("kafka.properties.security_protocol", "SSL");
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(3, "cannot be reached");
    said(&ran, "postgresql.reachable", "unreachable", "sslmode");
    said(&ran, "redis.reachable", "unreachable", "rediss://");
    said(&ran, "kafka.reachable", "unreachable", "speaks no TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_says_migrate() {
    let stage = Stage::new().await.set("database.url", &empty_database().await);
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(5, "schema.version");
    said(&ran, "schema.version", "fail", "dispatcher migrate");
}
