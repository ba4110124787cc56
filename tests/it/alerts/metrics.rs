use std::collections::BTreeSet;

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, document, drafts, eventually, token_for};

/// What our metrics begin with.
const PREFIXES: [&str; 5] = ["outbox_", "job_", "intake_", "redis_", "http_"];

/// All words of a text that are names of metrics by their first part.
fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// The names of the series of an answer, as PromQL knows them.
fn series_in(answer: &str) -> BTreeSet<String> {
    let series = answer.lines().filter(|line| !line.starts_with('#'));
    series
        .map(|line| line.split(['{', ' ']).next().expect("a name").to_owned())
        .collect()
}

/// The metrics that docs/operate.md explains.
fn explained() -> BTreeSet<String> {
    let table = document::read("docs/operate.md");
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next());
    rows.filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// A service that has answered a request.
async fn busy_app(stage: &Stage) -> App {
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    app.accept(draft, &token_for(user)).await;
    stage.records(1).await;
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_rules_the_dashboard_and_the_document_is_in_a_real_answer_and_explained() {
    let stage = Stage::new().await;
    let app = busy_app(&stage).await;
    let answer = app.metrics().await;
    let there = series_in(&answer);

    let rules = names_in(&document::read("ops/prometheus/rules.yml"));
    let tried = names_in(&document::read("ops/prometheus/rules.test.yml"));
    assert!(
        rules.len() >= 12 && tried.is_superset(&rules),
        "{rules:?}, tried: {tried:?}"
    );
    let dashboard: serde_json::Value =
        serde_json::from_str(&document::read("ops/grafana/dashboard.json")).expect("the dashboard is JSON");
    let mut drawn = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            drawn.extend(names_in(target["expr"].as_str().expect("an expression")));
        }
    }
    assert!(drawn.len() >= 20, "{drawn:?}");
    for (whose, names) in [("rules", &rules), ("rules' tests", &tried), ("dashboard", &drawn)] {
        let missing: Vec<_> = names.difference(&there).collect();
        assert!(missing.is_empty(), "{whose}: {missing:?} not in {there:?}");
    }

    // A histogram is explained by its own name.
    let base = |name: &str| {
        let suffixes = ["_bucket", "_count", "_sum"];
        let cut = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
        cut.unwrap_or(name).to_owned()
    };
    let shown: BTreeSet<_> = there.iter().map(|name| base(name)).collect();
    assert_eq!(
        shown,
        explained(),
        "left: in /metrics; right: in the table of docs/operate.md"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_there_before_their_first_event_and_no_label_can_grow_without_bound() {
    let stage = Stage::new().await;
    let app = busy_app(&stage).await;
    let answer = app.metrics().await;
    for series in [
        "job_accepts_total{outcome=\"unavailable\"} 0",
        "outbox_publish_failures_total{error_class=\"outage\"} 0",
        "job_results_total{outcome=\"malformed\"} 0",
        "job_failures_total 0",
        "outbox_producer_rebuilds_total 0",
    ] {
        assert!(answer.lines().any(|line| line == series), "{series} in {answer}");
    }
    let mut labels = BTreeSet::new();
    for line in answer.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('{').unwrap_or((line, ""));
        let inside = rest.rsplit_once('}').map_or("", |(inside, _)| inside);
        for (label, _) in inside.split("\",").filter_map(|label| label.split_once('=')) {
            // A route is a pattern, and there are a dozen.
            if !(name.starts_with("http_request_duration_seconds") && ["route", "status"].contains(&label)) {
                labels.insert(label.to_owned());
            }
        }
    }
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["error_class", "le", "outcome"]);
}

/// Waits until the age of the oldest transaction is as `expected` says.
async fn oldest_transaction(app: &App, what: &str, expected: impl Fn(f64) -> bool) {
    eventually(what, PATIENCE, async || {
        let age = app.metric("outbox_oldest_transaction_age_seconds").await;
        if expected(age) { Ok(()) } else { Err(age) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_oldest_transaction_is_shown_while_it_is_open_also_when_it_is_prepared() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let mut slow = stage.connect().await;
    let gid = format!("forgotten-{}", Uuid::new_v4());
    let mut type_in = async |statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut slow)
            .await
            .expect("a statement");
    };
    type_in("begin; select txid_current()".to_owned()).await;
    oldest_transaction(&app, "an open transaction is seen", |age| age > 1.0).await;
    type_in("rollback".to_owned()).await;
    oldest_transaction(&app, "it is seen no longer", |age| age < 1.0).await;

    type_in("begin; select txid_current()".to_owned()).await;
    type_in(format!("prepare transaction '{gid}'")).await;
    oldest_transaction(&app, "a prepared transaction is seen", |age| age > 1.0).await;
    type_in(format!("rollback prepared '{gid}'")).await;
    oldest_transaction(&app, "it is seen no longer", |age| age < 1.0).await;
}

/// Transactions that PostgreSQL has counted in a database, and when, in seconds; asked from another database, so that
/// the question is not among them.
async fn transactions(beside: &mut PgConnection, database: &str) -> (f64, i64) {
    sqlx::query_as(
        "select extract(epoch from clock_timestamp())::float8, xact_commit + xact_rollback
         from pg_stat_database where datname = $1",
    )
    .bind(database)
    .fetch_one(beside)
    .await
    .expect("statistics")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_feeds_its_gauges_with_one_statement_a_second() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    eventually("it leads", PATIENCE, async || {
        let leads = app.metric("outbox_leading").await;
        if leads > 0.0 { Ok(()) } else { Err(leads) }
    })
    .await;
    let (server, database) = stage.database_url.rsplit_once('/').expect("a path");
    let mut beside = PgConnection::connect(&format!("{server}/postgres"))
        .await
        .expect("the server");
    let mut from = transactions(&mut beside, database).await;
    let rate = eventually("ten idle seconds", 2 * PATIENCE, async || {
        let to = transactions(&mut beside, database).await;
        let (seconds, count) = (to.0 - from.0, to.1 - from.1);
        if seconds < 10.0 {
            return Err(format!("{count} transactions in {seconds} s"));
        }
        from = to;
        // A statement more or less lies at the edges, and what the start asked comes late.
        if count as f64 <= seconds + 1.0 {
            Ok(count as f64 / seconds)
        } else {
            Err(format!("{count} transactions in {seconds} s"))
        }
    })
    .await;
    assert!(rate > 0.5, "{rate} statements a second: that is not all");
    println!("an idle leader: {rate:.2} statements a second");
}
