//! A topic that has lost what it acknowledged: deleted and made again under its name, in the same cluster. Publishing
//! halts, accepting goes on, and an operator has the last word.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    App, PATIENCE, Stage, drafts, eventually, token_for,
    topics::{delete_records_below, make_again},
};

async fn json(stage: &Stage, command: &[&str]) -> Value {
    let output = stage.run(&[command, &["--output", "json"]].concat()).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn halted(stage: &Stage) -> Value {
    eventually("publishing halts, and stats say it", PATIENCE, async || {
        let stats = json(stage, &["outbox", "stats"]).await;
        if stats["halted"].is_null() {
            Err(stats)
        } else {
            Ok(stats["halted"].clone())
        }
    })
    .await
}

async fn settled(stage: &Stage, count: i64) {
    eventually(&format!("{count} are published"), PATIENCE, async || {
        let stats = json(stage, &["outbox", "stats"]).await;
        if stats["published"] == count && stats["pending"] == 0 {
            Ok(())
        } else {
            Err(stats)
        }
    })
    .await;
}

struct Someone {
    draft: Uuid,
    token: String,
}

impl Someone {
    async fn new(stage: &Stage) -> Self {
        let user = Uuid::new_v4();
        Self {
            draft: drafts::insert(&stage.pool, &drafts::complete(user)).await,
            token: token_for(user),
        }
    }

    async fn accepted(&self, app: &App, count: usize) {
        for _ in 0..count {
            app.accept(self.draft, &self.token).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_topic_that_was_made_again_halts_until_an_operator_accepts_it() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    let app = stage.app().await;
    someone.accepted(&app, 10).await;
    settled(&stage, 10).await;
    app.term_and_wait().await;
    make_again(&stage).await;

    let app = stage.app().await;
    someone.accepted(&app, 1).await;
    let halt = halted(&stage).await;
    let reason = halt["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("ends at offset 0") && reason.contains("below 10 was") && reason.contains("--accept-identity"),
        "{halt}"
    );
    assert!(app.log().contains("ends at offset 0"), "{}", app.log());
    let findings = json(&stage, &["doctor"]).await;
    let finding = findings
        .as_array()
        .expect("findings")
        .iter()
        .find(|f| f["check"] == "kafka.identity");
    let finding = finding.expect("doctor looks at the identity");
    assert_eq!(finding["status"], "fail", "{finding}");
    assert!(
        finding["found"]
            .as_str()
            .expect("text")
            .contains("publishing halts since"),
        "{finding}"
    );

    // Whoever starts next halts as well, and jobs are accepted.
    app.kill();
    let app = stage.app().await;
    someone.accepted(&app, 1).await;
    assert_eq!(halted(&stage).await["since"], halt["since"], "it is the same halt");
    assert_eq!(stage.records_now().await.len(), 0);

    let accepted = json(&stage, &["resume", "--accept-identity", "--yes"]).await;
    assert_eq!(accepted["was_halted"]["reason"], reason);
    stage.records(2).await;
    settled(&stage, 12).await;
    assert_eq!(json(&stage, &["outbox", "stats"]).await["halted"], Value::Null);

    // The new log is the one to compare with now: the next start does not halt.
    app.kill();
    let app = stage.app().await;
    someone.accepted(&app, 1).await;
    settled(&stage, 13).await;
    assert_eq!(stage.records_now().await.len(), 3);
    assert_eq!(json(&stage, &["audit"]).await["missing"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_topic_is_made_again_halts_at_the_first_acknowledgement_below_what_it_recorded() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    let app = stage.app().await;
    someone.accepted(&app, 10).await;
    settled(&stage, 10).await;
    make_again(&stage).await;
    // It does not know yet. Enough of them that the new log soon ends above the recorded next offset.
    let halt = eventually("it halts", PATIENCE, async || {
        someone.accepted(&app, 20).await;
        let stats = json(&stage, &["outbox", "stats"]).await;
        if stats["halted"].is_null() {
            Err(stats)
        } else {
            Ok(stats["halted"].clone())
        }
    })
    .await;
    let reason = halt["reason"].as_str().expect("a reason");
    assert!(reason.contains("below 10 was acknowledged"), "{reason}");
    let before = stage.records_now().await.len();
    someone.accepted(&app, 5).await;
    assert_eq!(stage.records_now().await.len(), before, "nothing is published any more");

    json(&stage, &["resume", "--accept-identity", "--yes"]).await;
    let accepted: i64 = sqlx::query_scalar("select count(*) from jobs")
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
    settled(&stage, accepted).await;
    let audit = json(&stage, &["audit"]).await;
    assert_eq!(
        (&audit["missing"], &audit["repeated"], &audit["foreign"]),
        (&json!(10), &json!(0), &json!(0)),
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_beginning_was_deleted_is_the_same_log() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    let app = stage.app().await;
    someone.accepted(&app, 10).await;
    settled(&stage, 10).await;
    let partition = stage.records(10).await[0].partition;
    // As retention does: nothing is left, and the offsets go on.
    delete_records_below(&stage, partition, 10).await;
    someone.accepted(&app, 1).await;
    settled(&stage, 11).await;
    app.kill();
    let app = stage.app().await;
    someone.accepted(&app, 1).await;
    settled(&stage, 12).await;
    assert_eq!(json(&stage, &["outbox", "stats"]).await["halted"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_leads_whose_next_offset_lies_below_what_retention_has_left() {
    let stage = Stage::new().await.set("relay.delivery", "exactly-once");
    let someone = Someone::new(&stage).await;
    let app = stage.app().await;
    // Of one draft, and so in one partition.
    someone.accepted(&app, 3).await;
    settled(&stage, 3).await;
    let partition = stage.records(3).await[0].partition;
    assert!(app.term_and_wait().await.success());
    let next: i64 = sqlx::query_scalar("select next_offsets[$1 + 1] from outbox_checkpoints order by seq desc limit 1")
        .bind(partition)
        .fetch_one(&stage.pool)
        .await
        .expect("a next offset");
    // The marker of the last commit lies behind the last record.
    let end = stage.end_of_log().await;
    assert!(next < end, "{next}, and the log ends at {end}");
    delete_records_below(&stage, partition, end).await;
    let app = stage.app().await;
    someone.accepted(&app, 1).await;
    settled(&stage, 4).await;
    assert_eq!(json(&stage, &["outbox", "stats"]).await["halted"], Value::Null);
}
