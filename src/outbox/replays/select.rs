//! Which messages a replay repeats, and what an operator should know before it starts.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::wanted::{Selection, Window};
use crate::outbox::audits::read_missing_ids;

/// The choice, frozen: what commits later is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// The lowest id.
    pub lower: i64,
    /// The highest id.
    pub upper: i64,
    /// The text of an `int8multirange`: the ids that may be chosen, between the two.
    pub within: String,
}

/// What a replay would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Messages, exactly.
    pub count: i64,
    /// Different keys among them.
    pub keys: i64,
    /// When the first was written.
    pub oldest: Option<DateTime<Utc>>,
    /// When the last was written.
    pub newest: Option<DateTime<Utc>>,
    /// How many are dead letters; they will be marked as retried.
    pub dead: i64,
    /// What `create_replay` records.
    pub frozen: Frozen,
}

/// A [`Summary`] with a sample and what may surprise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The numbers.
    pub summary: Summary,
    /// The first few outbox ids.
    pub sample: Vec<i64>,
    /// What may surprise.
    pub warnings: Vec<Warning>,
}

/// A [`Preview`] as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Previewed {
    /// Messages, exactly.
    pub count: i64,
    /// Different keys among them.
    pub keys: i64,
    /// When the first was written.
    pub oldest: Option<DateTime<Utc>>,
    /// When the last was written.
    pub newest: Option<DateTime<Utc>>,
    /// How many are dead letters; they will be marked as retried.
    pub dead: i64,
    /// The lowest outbox id.
    pub lower_bound: i64,
    /// The highest outbox id.
    pub upper_bound: i64,
    /// The first few outbox ids.
    pub sample: Vec<i64>,
    /// What may surprise.
    pub warnings: Vec<Warning>,
}

impl From<Preview> for Previewed {
    fn from(preview: Preview) -> Self {
        let summary = preview.summary;
        Self {
            count: summary.count,
            keys: summary.keys,
            oldest: summary.oldest,
            newest: summary.newest,
            dead: summary.dead,
            lower_bound: summary.frozen.lower,
            upper_bound: summary.frozen.upper,
            sample: preview.sample,
            warnings: preview.warnings,
        }
    }
}

/// What may surprise somebody who starts the replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub enum Warning {
    /// Later messages of the same key exist: consumers see the older content after the newer.
    LaterMessages {
        /// Keys with such messages.
        keys: i64,
        /// No message above this outbox id was looked at; null: all were.
        looked_up_to: Option<i64>,
    },
    /// The event draft was edited after the message was written: the replay sends the old content.
    NewerDraft {
        /// Drafts.
        drafts: i64,
    },
    /// The message has not been sent yet: it will be sent twice.
    StillPending {
        /// Messages.
        messages: i64,
    },
}

/// Why nothing can be selected.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The database.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// Jobs that were named and do not exist.
    #[error("no such job: {}", list(.0))]
    NoSuchJob(Vec<Uuid>),
    /// Messages that were named and do not exist, or were dropped by retention.
    #[error("no such message in the outbox: {}", list(.0))]
    NoSuchMessage(Vec<i64>),
    /// The audit was forgotten, or never was.
    #[error("no such audit: {0}")]
    NoSuchAudit(Uuid),
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// Rows of the sample.
const SAMPLE: i64 = 5;

/// Later messages of the same keys are looked for among so many ids above the lowest chosen one: there is no
/// index by key, and a warning is not worth reading the whole log.
const LATER_IDS: i64 = 1_000_000;

/// The rows of a choice: `$1` within, `$2..$5` the window, `$6` only dead ones, `$7` of a class, `$8` replays
/// too. `named`: few ids, found by the index; `settled`: whatever is in the set, read through.
macro_rules! chosen {
    (named, $and:literal) => {
        chosen!(
            @ "m.id in (select n.id from unnest($1::text::int8multirange) r, generate_series(lower(r), upper(r) - 1) n (id))",
            $and
        )
    };
    // As a subquery, the set is parsed once; as an expression, once for each row.
    (settled, $and:literal) => {
        chosen!(@ "m.id <@ (select $1::text::int8multirange)", $and)
    };
    (@ $within:literal, $and:literal) => {
        concat!(
            "select m.id, m.key, m.created_at, m.event_time, d.outbox_id is not null as dead
             from outbox_messages m
             left join outbox_dead_letters d on d.outbox_id = m.id and d.resolution is null
             where ",
            $within,
            "
               and ($2::timestamptz is null or m.created_at >= $2)
               and ($3::timestamptz is null or m.created_at < $3)
               and ($4::uuid is null or m.key = $4)
               and ($5::uuid is null
                    or exists (select from jobs j where j.id = m.job_id and j.user_id = $5))
               and (not $6::boolean or d.outbox_id is not null)
               and ($7::text is null or d.error_class = $7)
               and ($8::boolean or m.replay_of is null) ",
            $and
        )
    };
}
pub(super) use chosen;

/// A [`Selection`] as the parameters of [`chosen!`].
pub(super) struct Params<'a> {
    pub window: Window,
    pub dead_only: bool,
    pub class: Option<&'a str>,
    pub replays_too: bool,
}

impl Selection {
    /// Whether a replay of it sends only what is an unresolved dead letter at that moment.
    pub fn dead_only(&self) -> bool {
        matches!(self, Self::Dead { .. })
    }

    pub(super) fn params(&self) -> Params<'_> {
        match self {
            Self::Name { .. } | Self::Missing { .. } => Params {
                window: Window::default(),
                dead_only: false,
                class: None,
                replays_too: true,
            },
            Self::Window(window) => Params {
                window: window.clone(),
                dead_only: false,
                class: None,
                replays_too: false,
            },
            // A retry that died as well is a dead letter like any other.
            Self::Dead { class, window, .. } => Params {
                window: window.clone(),
                dead_only: true,
                class: class.as_deref(),
                replays_too: true,
            },
        }
    }
}

#[derive(sqlx::FromRow)]
struct Counted {
    count: i64,
    keys: i64,
    oldest: Option<DateTime<Utc>>,
    newest: Option<DateTime<Utc>>,
    dead: i64,
    lower: i64,
    upper: i64,
    within: String,
}

macro_rules! count {
    ($how:tt) => {
        concat!(
            "with chosen as (",
            chosen!($how, ""),
            "), counted as (
                 select count(*) as count, count(distinct key) as keys, min(created_at) as oldest,
                        max(created_at) as newest, count(*) filter (where dead) as dead,
                        coalesce(min(id), 1) as lower, coalesce(max(id), 0) as upper
                 from chosen
             )
             select counted.*,
                    ($1::text::int8multirange * int8multirange(int8range(lower, upper + 1)))::text as within
             from counted"
        )
    };
}

/// Freezes a choice and counts it; an empty one has the count 0.
pub async fn summarize(conn: &mut PgConnection, selection: &Selection) -> Result<Summary, SelectError> {
    let candidates = candidates(conn, selection).await?;
    let p = selection.params();
    let query = match selection {
        Selection::Name { .. } => count!(named),
        Selection::Window(_) | Selection::Dead { .. } | Selection::Missing { .. } => count!(settled),
    };
    let c: Counted = sqlx::query_as(query)
        .persistent(false)
        .bind(&candidates)
        .bind(p.window.from)
        .bind(p.window.to)
        .bind(p.window.key)
        .bind(p.window.user)
        .bind(p.dead_only)
        .bind(p.class)
        .bind(p.replays_too)
        .fetch_one(conn)
        .await?;
    Ok(Summary {
        count: c.count,
        keys: c.keys,
        oldest: c.oldest,
        newest: c.newest,
        dead: c.dead,
        frozen: Frozen {
            lower: c.lower,
            upper: c.upper,
            within: c.within,
        },
    })
}

/// The ids that a choice may come from, as the text of an `int8multirange`.
async fn candidates(conn: &mut PgConnection, selection: &Selection) -> Result<String, SelectError> {
    let named = match selection {
        Selection::Name { jobs, ids } => {
            let mut all = ids.clone();
            all.extend(read_first_messages(conn, jobs).await?);
            Some(all)
        }
        Selection::Dead { ids, .. } if !ids.is_empty() => Some(ids.clone()),
        Selection::Dead { .. } | Selection::Window(_) => None,
        Selection::Missing { audit } => {
            let missing = read_missing_ids(conn, *audit).await?;
            return missing.ok_or(SelectError::NoSuchAudit(*audit));
        }
    };
    let Some(ids) = named else {
        // Settled means committed: no row shows up later in this set.
        let passed: Option<String> = sqlx::query_scalar("select passed::text from outbox_position()")
            .fetch_one(conn)
            .await?;
        return Ok(passed.unwrap_or_else(|| "{}".to_owned()));
    };
    let missing: Vec<i64> = sqlx::query_scalar(
        "select id from unnest($1::bigint[]) id
         where not exists (select from outbox_messages m where m.id = id.id) order by id",
    )
    .bind(&ids)
    .fetch_all(&mut *conn)
    .await?;
    if !missing.is_empty() {
        return Err(SelectError::NoSuchMessage(missing));
    }
    Ok(
        sqlx::query_scalar(
            "select coalesce(range_agg(int8range(id, id + 1)), '{}')::text from unnest($1::bigint[]) id",
        )
        .bind(&ids)
        .fetch_one(conn)
        .await?,
    )
}

async fn read_first_messages(conn: &mut PgConnection, jobs: &[Uuid]) -> Result<Vec<i64>, SelectError> {
    let found: Vec<(Uuid, i64)> = sqlx::query_as("select id, outbox_id from jobs where id = any($1)")
        .bind(jobs)
        .fetch_all(conn)
        .await?;
    let missing: Vec<Uuid> = jobs
        .iter()
        .filter(|job| !found.iter().any(|(id, _)| id == *job))
        .copied()
        .collect();
    if missing.is_empty() {
        Ok(found.into_iter().map(|(_, outbox_id)| outbox_id).collect())
    } else {
        Err(SelectError::NoSuchJob(missing))
    }
}

#[derive(sqlx::FromRow)]
struct Looked {
    sample: Vec<i64>,
    pending: i64,
    newer_drafts: i64,
    later_keys: i64,
    newest_id: i64,
}

macro_rules! look {
    ($how:tt) => {
        concat!(
            "with chosen as materialized (",
            chosen!($how, ""),
            "), keys as (
                 select key, max(id) as last, max(event_time) as event_time from chosen group by key
             )
             select coalesce((select array_agg(id order by id) from (select id from chosen order by id limit $9) s),
                             '{}') as sample,
                    (select count(*) from chosen
                     where not id <@ (select coalesce(passed, '{}') from outbox_position())) as pending,
                    (select count(*) from keys join event_drafts d on d.id = keys.key
                     where d.updated_at > keys.event_time) as newer_drafts,
                    (select count(distinct keys.key) from outbox_messages m join keys on keys.key = m.key
                     where m.id > keys.last and m.id > $10 and m.id <= $11 and m.replay_of is null) as later_keys,
                    coalesce((select max(id) from outbox_messages), 0) as newest_id"
        )
    };
}

/// Freezes and counts a choice, and looks for what may surprise.
pub async fn preview_replay(conn: &mut PgConnection, selection: &Selection) -> Result<Preview, SelectError> {
    let summary = summarize(conn, selection).await?;
    let p = selection.params();
    let look_to = summary.frozen.lower.saturating_add(LATER_IDS);
    let query = match selection {
        Selection::Name { .. } => look!(named),
        Selection::Window(_) | Selection::Dead { .. } | Selection::Missing { .. } => look!(settled),
    };
    let looked: Looked = sqlx::query_as(query)
        .persistent(false)
        .bind(&summary.frozen.within)
        .bind(p.window.from)
        .bind(p.window.to)
        .bind(p.window.key)
        .bind(p.window.user)
        .bind(p.dead_only)
        .bind(p.class)
        .bind(p.replays_too)
        .bind(SAMPLE)
        .bind(summary.frozen.lower)
        .bind(look_to)
        .fetch_one(conn)
        .await?;

    let mut warnings = Vec::new();
    let stopped = (looked.newest_id > look_to).then_some(look_to);
    if looked.later_keys > 0 || stopped.is_some() {
        warnings.push(Warning::LaterMessages {
            keys: looked.later_keys,
            looked_up_to: stopped,
        });
    }
    if looked.newer_drafts > 0 {
        warnings.push(Warning::NewerDraft {
            drafts: looked.newer_drafts,
        });
    }
    if looked.pending > 0 {
        warnings.push(Warning::StillPending {
            messages: looked.pending,
        });
    }
    Ok(Preview {
        summary,
        sample: looked.sample,
        warnings,
    })
}
