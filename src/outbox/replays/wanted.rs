//! What an operator asks to replay: one shape for the command line, the admin API and the console's form.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::outbox::instant;

/// What an operator asks to replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Selection {
    /// Named one by one: jobs (their first message) and outbox ids. Only these may be replays themselves.
    Name {
        /// Jobs.
        jobs: Vec<Uuid>,
        /// Outbox ids.
        ids: Vec<i64>,
    },
    /// Originals that were settled when the replay was created; what is pending is on its way anyway.
    Window(Window),
    /// Dead letters that nobody has resolved.
    Dead {
        /// Only these; empty: all.
        ids: Vec<i64>,
        /// Only of this class.
        class: Option<String>,
        /// Only of these messages.
        window: Window,
    },
    /// Exactly what an audit found missing, replays included.
    Missing {
        /// Which audit.
        audit: Uuid,
    },
}

/// Each field narrows; all empty means everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Window {
    /// Written at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Written before this time.
    pub to: Option<DateTime<Utc>>,
    /// Of this event draft: the Kafka key.
    pub key: Option<Uuid>,
    /// Of jobs of this user.
    pub user: Option<Uuid>,
}

/// What an operator writes down, on the command line, as JSON or in a form: names (`jobs`, `ids`), or an `audit`, or any
/// of the others, each of which narrows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// The first messages of these jobs.
    pub jobs: Vec<Uuid>,
    /// These messages, which may be replays themselves.
    pub ids: Vec<i64>,
    /// Messages written at this time or later.
    #[serde(default, deserialize_with = "instant::optional")]
    pub from: Option<DateTime<Utc>>,
    /// Messages written before this time.
    #[serde(default, deserialize_with = "instant::optional")]
    pub to: Option<DateTime<Utc>>,
    /// Messages with this Kafka key, which is an event draft's id.
    pub key: Option<Uuid>,
    /// The same by its other name.
    pub draft: Option<Uuid>,
    /// Messages of this user's jobs.
    pub user: Option<Uuid>,
    /// Unresolved dead letters of this class.
    pub dead_group: Option<String>,
    /// Exactly what this audit found missing in the topic. It is sent once.
    pub audit: Option<Uuid>,
}

impl Wanted {
    /// Which selection that is.
    ///
    /// # Errors
    /// Nothing, or what contradicts itself; why.
    pub fn selection(&self) -> Result<Selection, String> {
        let window = Window {
            from: self.from,
            to: self.to,
            key: self.key.or(self.draft),
            user: self.user,
        };
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err(format!("from {from} is not before to {to}"));
        }
        if self.key.zip(self.draft).is_some_and(|(key, draft)| key != draft) {
            return Err("key and draft are one thing, and name two: give one of them".to_owned());
        }
        if self.dead_group.as_ref().is_some_and(|class| class.contains('\0')) {
            return Err("dead_group has a NUL character".to_owned());
        }
        let narrowed = window != Window::default() || self.dead_group.is_some();
        let named = !self.jobs.is_empty() || !self.ids.is_empty();
        if let Some(audit) = self.audit {
            return if named || narrowed {
                Err("audit goes with nothing else".to_owned())
            } else {
                Ok(Selection::Missing { audit })
            };
        }
        match (!named, narrowed) {
            (true, false) => Err("it names nothing: to replay everything, give from".to_owned()),
            (false, true) => Err("jobs and ids go with nothing else".to_owned()),
            (false, false) => Ok(Selection::Name {
                jobs: self.jobs.clone(),
                ids: self.ids.clone(),
            }),
            (true, true) => Ok(match &self.dead_group {
                Some(class) => Selection::Dead {
                    ids: Vec::new(),
                    class: Some(class.clone()),
                    window,
                },
                None => Selection::Window(window),
            }),
        }
    }
}

impl Selection {
    /// The name under which a replay of it is recorded, of which the same one starts nothing twice: the given one, if
    /// any. What an audit found missing has a name of its own, so that it is sent once, whoever asks and however often.
    ///
    /// # Errors
    /// Another name for what an audit found missing; what to do.
    pub fn operation_id(&self, given: Option<String>) -> Result<Option<String>, String> {
        let Self::Missing { audit } = self else {
            return Ok(given);
        };
        let own = format!("missing-{audit}");
        match given {
            Some(other) if other != own => Err(format!(
                "what an audit found missing is sent once, as the operation {own}: give no other operation id, or audit \
                 again"
            )),
            _ => Ok(Some(own)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_goes_with_nothing_else_and_names_its_replay() {
        let audit = Uuid::from_u128(7);
        let of_audit = || Wanted {
            audit: Some(audit),
            ..Wanted::default()
        };
        let selection = of_audit().selection().unwrap();
        assert_eq!(selection, Selection::Missing { audit });
        let changes: [fn(&mut Wanted); 8] = [
            |w| w.ids = vec![1],
            |w| w.jobs = vec![Uuid::nil()],
            |w| w.from = Some(DateTime::UNIX_EPOCH),
            |w| w.to = Some(DateTime::UNIX_EPOCH),
            |w| w.key = Some(Uuid::nil()),
            |w| w.draft = Some(Uuid::nil()),
            |w| w.user = Some(Uuid::nil()),
            |w| w.dead_group = Some("outage".to_owned()),
        ];
        for change in changes {
            let mut wanted = of_audit();
            change(&mut wanted);
            assert!(wanted.selection().unwrap_err().contains("nothing else"), "{wanted:?}");
        }

        let own = format!("missing-{audit}");
        for given in [None, Some(own.clone())] {
            assert_eq!(selection.operation_id(given), Ok(Some(own.clone())));
        }
        assert!(
            selection
                .operation_id(Some("again".to_owned()))
                .unwrap_err()
                .contains(&own)
        );
        let other = Selection::Window(Window::default());
        assert_eq!(other.operation_id(Some("mine".to_owned())), Ok(Some("mine".to_owned())));
        assert_eq!(other.operation_id(None), Ok(None));
    }
}
