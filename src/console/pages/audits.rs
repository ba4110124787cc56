//! Audits: the list, and one with what it found. They are made by `dispatcher audit`; what is missing is sent again
//! from here, by way of the form of a replay.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    badge,
    chrome::{Chrome, Section, page},
    format::{self, Time},
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        api::{self, failed, last_of_full},
        auth::Operator,
        monitor::verdict::Tone,
        request::Filter,
    },
    http::{catalogue::Code, problem::Problem},
    outbox::{
        audits::{Audit, Audited, Finding, JudgedAudit, Kind, list_audits},
        replays::{Selection, find_operation},
    },
};

/// Rows of a page.
const LIMIT: i64 = 50;
/// Findings of each kind that are shown; the admin API has the first thousand.
const SHOWN: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Before this audit.
    after: Option<Uuid>,
}

#[derive(Template)]
#[template(path = "audits.html")]
struct List {
    c: Chrome,
    rows: Vec<Row>,
    older: Option<Uuid>,
}

struct Row {
    id: Uuid,
    at: Time,
    badge: String,
    missing: String,
    repeated: String,
    foreign: String,
    range: String,
    by: String,
}

/// `GET /audits`.
pub(super) async fn list(
    State(console): State<ConsoleState>,
    operator: Operator,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, "/audits");
    let t = c.t;
    let mut conn = console.conn().await?;
    let audits = list_audits(&mut conn, query.after, LIMIT).await.map_err(failed)?;
    drop(conn);
    let list = List {
        older: last_of_full(&audits, LIMIT).map(|audit| audit.id),
        rows: audits
            .into_iter()
            .map(|audit| Row::of(t, &JudgedAudit::of(audit, console.config.relay.delivery)))
            .collect(),
        c: c.titled(Section::Audits, t.a_title()),
    };
    page(&list)
}

impl Row {
    fn of(t: Lang, judged: &JudgedAudit) -> Self {
        let (audit, counts) = (&judged.audit, &judged.audit.counts);
        Self {
            id: audit.id,
            at: format::time(audit.started_at),
            badge: of_audit(t, judged),
            missing: format::number(counts.missing),
            repeated: format::number(counts.repeated),
            foreign: format::number(counts.foreign),
            range: range(t, audit),
            by: audit.requested_by.clone(),
        }
    }
}

fn of_audit(t: Lang, judged: &JudgedAudit) -> String {
    if judged.clean {
        badge::badge(Tone::Good, t.a_clean())
    } else {
        badge::badge(Tone::Bad, t.a_wrong())
    }
}

/// Of which messages: by when they were written.
fn range(t: Lang, audit: &Audit) -> String {
    let human = |at| format::time(at).human;
    match (audit.from.map(human), audit.to.map(human)) {
        (None, None) => t.a_whole().to_owned(),
        (from, to) => format!("{} – {}", from.unwrap_or_default(), to.unwrap_or_default()),
    }
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Show {
    c: Chrome,
    id: Uuid,
    badge: String,
    facts: Vec<(&'static str, String)>,
    /// What is wrong first.
    counts: [(String, &'static str); 9],
    kinds: Vec<Findings>,
    sending: Sending,
}

/// What is missing, sent again.
enum Sending {
    /// Nothing is missing.
    Nothing,
    /// By the form at this address.
    MayBe(String),
    /// It was: the replay's address.
    Sent(String),
}

/// Of one kind.
struct Findings {
    anchor: &'static str,
    title: String,
    rows: Vec<Found>,
    /// Empty: all are shown.
    more: String,
}

struct Found {
    id: Option<i64>,
    place: String,
    event: String,
}

/// `GET /audits/{id}`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, &format!("/audits/{id}"));
    let t = c.t;
    let missing = || Problem::new(Code::NotFound).detail(t.a_forgotten());
    let id: Uuid = id.parse().map_err(|_| missing())?;
    let mut conn = console.conn().await?;
    let Audited { judged, findings } = api::audits::read(&console, &mut conn, id).await?.ok_or_else(missing)?;
    let (audit, counts) = (&judged.audit, &judged.audit.counts);
    let sending = if counts.missing == 0 {
        Sending::Nothing
    } else {
        let own = Selection::Missing { audit: id }.operation_id(None).ok().flatten();
        match find_operation(&mut conn, &own.unwrap_or_default())
            .await
            .map_err(failed)?
        {
            Some(replay) => Sending::Sent(format!("/replays/{}", replay.id)),
            None => Sending::MayBe(format!("/replays/new?preview=1&audit={id}#dry-run")),
        }
    };
    drop(conn);
    let show = Show {
        id,
        badge: of_audit(t, &judged),
        facts: vec![
            (t.a_made(), format::time(audit.started_at).human),
            (t.a_finished(), format::time(audit.finished_at).human),
            (t.a_range(), range(t, audit)),
            (t.o_topic(), audit.topic.clone()),
            (
                t.a_cluster(),
                audit.cluster_id.clone().unwrap_or_else(|| t.unknown().to_owned()),
            ),
            (t.r_by(), audit.requested_by.clone()),
        ],
        counts: [
            (counts.missing, t.a_of_missing()),
            (counts.repeated, t.a_of_repeated()),
            (counts.foreign, t.a_of_foreign()),
            (counts.receipts, t.a_of_receipts()),
            (counts.records, t.a_of_records()),
            (counts.in_place, t.a_of_in_place()),
            (counts.made_good, t.a_of_made_good()),
            (counts.expired, t.a_of_expired()),
            (counts.forgotten, t.a_of_forgotten()),
        ]
        .map(|(number, what)| (format::number(number), what)),
        kinds: [
            (Kind::Missing, t.a_missing(), counts.missing),
            (Kind::Repeated, t.a_repeated(), counts.repeated),
            (Kind::Foreign, t.a_foreign(), counts.foreign),
        ]
        .into_iter()
        .filter(|(.., count)| *count > 0)
        .map(|(kind, name, count)| Findings::of(t, kind, name, count, &findings))
        .collect(),
        sending,
        c: c.titled(Section::Audits, t.a_one()),
    };
    page(&show)
}

impl Findings {
    fn of(t: Lang, kind: Kind, name: &str, count: i64, all: &[Finding]) -> Self {
        let found = all.iter().filter(|finding| finding.kind == kind);
        let rows: Vec<Found> = found
            .take(SHOWN)
            .map(|finding| Found {
                id: finding.outbox_id,
                place: format!("{} / {}", finding.partition, format::number(finding.offset)),
                event: finding.event_id.map_or_else(String::new, |id| id.to_string()),
            })
            .collect();
        Self {
            anchor: kind.as_str(),
            title: format!("{name}: {}", format::number(count)),
            more: if count > rows.len() as i64 {
                t.a_more(&format::number(rows.len() as i64))
            } else {
                String::new()
            },
            rows,
        }
    }
}
