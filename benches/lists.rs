//! LISTS: how long operators wait for each list of the console, the admin API, the command line and psql, of a
//! [`long_log`] that is five times the backlog long. A list that looked at as many rows as one page may, and says so, is
//! named as bounded.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use image_job_dispatcher::config::Delivery;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use crate::{
    long_log::{self, LongLog},
    report::{Report, Wanted},
    settings::{Settings, root},
    stack::{Database, SECRET, Service, Stack, dispatcher},
};

/// How often each list is asked for.
const ASKED: usize = 11;
/// At most, whatever is asked for.
const WANTED: Wanted = Wanted::Milliseconds(100.0);

/// The admin API: each list, with each filter. Words in capitals are named by [`Names`].
const API: &[&str] = &[
    "overview",
    "messages",
    "messages?limit=1000",
    "messages?after=LAST_PAGE",
    "messages?state=pending",
    "messages?state=pending&after=LAST_PAGE",
    "messages?state=pending&draft=NOBODY",
    "messages?state=published",
    "messages?state=published&after=LAST_PAGE",
    "messages?state=published&draft=NOBODY",
    "messages?state=dead",
    "messages?state=dead&after=LAST_PAGE",
    "messages?state=dead&draft=NOBODY",
    "messages?state=dead&user=NOBODY",
    "messages?error_class=message-too-large",
    "messages?error_class=record-refused",
    "messages?error_class=nothing",
    "messages?job=JOB",
    "messages?job=OLDEST_JOB",
    "messages?job=NOBODY",
    "messages?draft=DRAFT",
    "messages?draft=OLDEST_DRAFT",
    "messages?draft=NOBODY",
    "messages?user=USER",
    "messages?user=OLDEST_USER",
    "messages?user=NOBODY",
    "messages?user=NOBODY&state=published",
    "messages?from=MINUTE&to=A_MINUTE_LATER",
    "messages?from=MINUTE&to=A_MINUTE_LATER&draft=NOBODY",
    "messages?from=MINUTE",
    "messages?to=MINUTE",
    "messages?to=LONG_AGO",
    "messages?replay=REPLAY",
    "messages?replay=REPLAY&after=LAST_PAGE",
    "messages/ID",
    "messages/JOB",
    "messages/OLDEST_JOB",
    "messages/NEWEST",
    "dead-letters",
    "dead-letters?limit=1000",
    "dead-letters?after=LAST_PAGE",
    "dead-letters?resolved=true",
    "dead-letters?class=message-too-large",
    "dead-letters?class=record-refused",
    "dead-letters?class=nothing",
    "dead-letters?class=nothing&resolved=true",
    "dead-letters/groups",
    "replays",
    "replays?after=OLDEST_REPLAY",
    "replays/REPLAY",
    "audits",
    "audits/AUDIT",
    "acts",
    "acts?after=LAST_PAGE",
    "acts?act=accept-identity",
    "acts?act=retain",
    "acts?who=gone@ops",
    "acts?who=nobody",
    "pause",
];

/// The console: each page that shows rows.
const PAGES: &[&str] = &[
    "",
    "outbox",
    "outbox?state=pending",
    "outbox?state=published",
    "outbox?state=dead",
    "outbox?draft=OLDEST_DRAFT",
    "outbox?user=OLDEST_USER",
    "outbox?from=MINUTE&to=A_MINUTE_LATER",
    "outbox?replay=REPLAY",
    "outbox/ID",
    "dead",
    "dead?class=record-refused",
    "dead?resolved=1",
    "replays",
    "replays/REPLAY",
    "replays/new",
    "audits",
    "audits/AUDIT",
    "control",
    "log",
    "settings",
];

/// The command line: each command that lists, its start included.
const COMMANDS: &[&str] = &[
    "outbox list",
    "outbox list --limit 1000",
    "outbox list --after LAST_PAGE",
    "outbox list --state pending",
    "outbox list --state published",
    "outbox list --state dead",
    "outbox list --error-class record-refused",
    "outbox list --job JOB",
    "outbox list --draft OLDEST_DRAFT",
    "outbox list --user OLDEST_USER",
    "outbox list --from MINUTE --to A_MINUTE_LATER",
    "outbox list --replay REPLAY",
    "outbox show JOB",
    "outbox stats",
    "dead list",
    "dead list --group",
    "dead list --class record-refused",
    "dead list --resolved",
    "dead list --resolved --class nothing",
    "replay list",
    "replay list --after REPLAY",
    "replay show REPLAY",
    "audit list",
    "audit show AUDIT",
    "acts",
    "acts --act retain",
];

/// psql: the views. The questions of docs/operate.md come to them.
const VIEWS: &[&str] = &[
    "select * from outbox_overview",
    "select * from outbox_status where id = ID",
    "select * from outbox_status order by id desc limit 50",
    "select * from result_dead_letters order by received_at desc limit 50",
];

/// Measures all of them.
pub async fn measure(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    // Rows that are found are part of a line's name: nothing of another run may stay beside it.
    report.figures.retain(|figure| figure.goal != "LISTS");
    let count = settings.backlog * 5;
    let (database, topic) = (stack.database().await?, stack.topic().await?);
    let log = long_log::fill(&database, count).await?;
    let mut connection = database.connect().await?;
    let stored: i64 = sqlx::query_scalar(
        "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits
         where inhparent in ('jobs'::regclass, 'outbox_messages'::regclass, 'outbox_checkpoints'::regclass)",
    )
    .fetch_one(&mut connection)
    .await?;
    report.fact(
        "stored for a job: rows, indexes, receipts",
        "B",
        vec![stored as f64 / count as f64],
    );
    let names = Names::of(&log, &mut connection).await?;
    let mut service = stack.service(&database, &topic, "api", Delivery::AtLeastOnce)?;
    service.ready().await?;

    let mut show = |shown: &str, found: &str, took: Vec<f64>| {
        let found = if found.is_empty() {
            String::new()
        } else {
            format!(" ({found})")
        };
        report.figure(
            "LISTS",
            &format!("`{shown}`{found}, of {count} messages"),
            WANTED,
            took,
            "",
        );
    };
    let operator = Client::new(&service)?;
    for asked in API {
        let path = format!("/admin/api/{asked}");
        let (found, took) = operator.ask(&names.fill(&path)).await.with_context(|| path.clone())?;
        show(&format!("GET {path}"), &found, took);
    }
    for asked in PAGES {
        let path = format!("/{asked}");
        let (_, took) = operator.ask(&names.fill(&path)).await.with_context(|| path.clone())?;
        show(&format!("GET {path}"), "", took);
    }
    for asked in COMMANDS {
        show(
            &format!("dispatcher {asked}"),
            "",
            command(&database, &names.fill(asked))?,
        );
    }
    for asked in VIEWS {
        show(asked, "", query(&mut connection, &names.fill(asked)).await?);
    }
    for (question, asked) in questions()? {
        show(&question, "in psql", query(&mut connection, &names.fill(&asked)).await?);
    }
    service.stop().await?;
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    report.write(&settings.out)
}

/// What the words in capitals stand for, the longer before those that they contain.
struct Names(Vec<(&'static str, String)>);

impl Names {
    async fn of(log: &LongLog, connection: &mut PgConnection) -> Result<Self> {
        let minute: DateTime<Utc> = sqlx::query_scalar("select created_at from outbox_messages where id = $1")
            .bind(log.usual.id)
            .fetch_one(&mut *connection)
            .await?;
        let oldest: Uuid = sqlx::query_scalar("select id from outbox_replays order by id offset 10 limit 1")
            .fetch_one(connection)
            .await?;
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        Ok(Self(vec![
            ("OLDEST_DRAFT", log.lonely.draft.to_string()),
            ("OLDEST_USER", log.lonely.user.to_string()),
            ("OLDEST_JOB", log.lonely.job.to_string()),
            ("OLDEST_REPLAY", oldest.to_string()),
            ("DRAFT", log.usual.draft.to_string()),
            ("USER", log.usual.user.to_string()),
            ("JOB", log.usual.job.to_string()),
            ("NOBODY", Uuid::nil().to_string()),
            ("LAST_PAGE", "40".to_owned()),
            ("A_MINUTE_LATER", time(minute + TimeDelta::minutes(1))),
            ("MINUTE", time(minute)),
            ("LONG_AGO", time(minute - TimeDelta::days(30))),
            ("REPLAY", log.replay.to_string()),
            ("AUDIT", log.audit.to_string()),
            ("NEWEST", log.newest.to_string()),
            ("ID", log.usual.id.to_string()),
            // As the questions of docs/operate.md write them.
            ("018f...", log.usual.job.to_string()),
            ("4711", log.usual.id.to_string()),
        ]))
    }

    fn fill(&self, text: &str) -> String {
        let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        self.0.iter().fold(text.to_owned(), fill)
    }
}

/// An operator with a browser or a script.
struct Client {
    http: reqwest::Client,
    at: String,
    token: String,
}

impl Client {
    fn new(service: &Service) -> Result<Self> {
        let claims = json!({"sub": Uuid::nil(), "role": "viewer", "exp": Utc::now().timestamp() + 24 * 3600});
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        Ok(Self {
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
            at: format!("http://{}", service.admin),
            token: jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?,
        })
    }

    /// What was found, in words, and the milliseconds of each request.
    async fn ask(&self, path: &str) -> Result<(String, Vec<f64>)> {
        let (mut found, mut took) = (String::new(), Vec::new());
        for _ in 0..ASKED {
            let began = Instant::now();
            let request = self.http.get(format!("{}{path}", self.at)).bearer_auth(&self.token);
            let answer = request.send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            took.push(began.elapsed().as_secs_f64() * 1000.0);
            ensure!(status.is_success(), "{path}: {status} {text}");
            found = serde_json::from_str(&text).map_or_else(|_| String::new(), |json| describe(&json));
        }
        Ok((found, took))
    }
}

fn describe(answer: &Value) -> String {
    let Some(rows) = answer["rows"].as_array() else {
        return String::new();
    };
    let bounded = if answer["bounded"] == true { ", bounded" } else { "" };
    format!("{} rows{bounded}", rows.len())
}

/// Milliseconds of each call of a command.
fn command(database: &Database, arguments: &str) -> Result<Vec<f64>> {
    let ask = || {
        let began = Instant::now();
        let output = dispatcher(&[("DATABASE__URL", database.url.clone())].into())
            .args(arguments.split(' '))
            .output()?;
        if !output.status.success() {
            bail!("dispatcher {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    };
    (0..ASKED).map(|_| ask()).collect()
}

/// Milliseconds of each run of a query.
async fn query(connection: &mut PgConnection, sql: &str) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        connection
            .fetch_all(AssertSqlSafe(sql))
            .await
            .with_context(|| sql.to_owned())?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}

/// The questions of docs/operate.md, each with its SQL.
fn questions() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(root().join("docs/operate.md"))?;
    let (_, section) = text
        .split_once("\n## Ten questions, in SQL\n")
        .context("the questions of docs/operate.md")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut parts = section.split("```");
    let mut questions = Vec::new();
    while let (Some(before), Some(sql)) = (parts.next(), parts.next()) {
        let before = before.trim();
        let paragraph = before.rsplit("\n\n").next().unwrap_or_default();
        let question = paragraph.split_inclusive('?').next().unwrap_or_default();
        let sql = sql.strip_prefix("sql\n").context("a block that is no SQL")?;
        questions.push((question.replace('\n', " "), sql.trim().trim_end_matches(';').to_owned()));
    }
    ensure!(
        questions.len() == 10,
        "{} questions where there are ten",
        questions.len()
    );
    Ok(questions)
}
