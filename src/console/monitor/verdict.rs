//! The one sentence on top: what is going on, decided from one look.

use std::time::Duration;

use super::{Look, Rates};

/// The oldest message may wait so long before anybody has to wonder.
const UNREMARKABLE: f64 = 5.0;
/// A forecast beyond this says nothing.
const FURTHEST: Duration = Duration::from_hours(7 * 24);

/// What is going on. The first that fits, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Nothing was looked at yet, or old messages wait and it is not seen yet whether they move.
    Starting,
    /// PostgreSQL does not answer: nothing is accepted, and what is shown is old.
    DatabaseAway,
    /// An operator has paused the relay.
    Paused,
    /// No replica leads: nothing is published.
    NoLeader,
    /// Messages wait, and Kafka does not answer or does not acknowledge.
    KafkaAway,
    /// Messages wait, they are old, and none of them moves.
    Stuck,
    /// Messages wait, and become fewer.
    Draining,
    /// Messages wait, are old, and do not become fewer.
    Growing,
    /// Nothing old waits, and the last audit found records missing that Kafka had acknowledged.
    Missing,
    /// Nothing old waits, and Kafka does not answer this replica.
    KafkaUnseen,
    /// Nothing old waits, and dead letters do.
    DeadLetters,
    /// All is well.
    Flowing,
}

/// How much it should trouble somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing to do.
    Good,
    /// Something goes on.
    Busy,
    /// To be looked at.
    Warn,
    /// Somebody has to act.
    Bad,
}

impl Verdict {
    /// Decides.
    pub fn of(look: Option<&Look>) -> Self {
        let Some(look) = look else { return Self::Starting };
        let (Some(seen), Ok(())) = (&look.seen, &look.database.answer) else {
            return Self::DatabaseAway;
        };
        let waits = seen.overview.pending > 0;
        let old = waits && seen.overview.oldest_pending_age_seconds > UNREMARKABLE;
        let (shrinks, moves) = look
            .rates
            .map_or((false, false), |r| (r.shrinking > 0.0, r.outgoing > 0.0));
        if seen.pause.is_some() {
            Self::Paused
        } else if seen.overview.leader.is_none() {
            Self::NoLeader
        } else if (waits && look.breaker_open) || (old && !moves && look.kafka.answer.is_err()) {
            Self::KafkaAway
        } else if old && look.rates.is_none() {
            Self::Starting
        } else if old && moves && shrinks {
            Self::Draining
        } else if old && moves {
            Self::Growing
        } else if old {
            Self::Stuck
        } else if seen.audit.as_ref().is_some_and(|audit| audit.counts.missing > 0) {
            Self::Missing
        } else if look.kafka.answer.is_err() {
            Self::KafkaUnseen
        } else if seen.overview.dead > 0 {
            Self::DeadLetters
        } else {
            Self::Flowing
        }
    }

    /// Of its colour, which never stands alone.
    pub fn tone(self) -> Tone {
        match self {
            Self::Flowing => Tone::Good,
            Self::Starting | Self::Draining => Tone::Busy,
            Self::Paused | Self::Growing | Self::DeadLetters | Self::KafkaUnseen => Tone::Warn,
            Self::DatabaseAway | Self::NoLeader | Self::KafkaAway | Self::Stuck | Self::Missing => Tone::Bad,
        }
    }

    /// Whether what waits is being sent at all.
    fn sends(self) -> bool {
        matches!(
            self,
            Self::Draining | Self::Growing | Self::Missing | Self::DeadLetters | Self::Flowing | Self::KafkaUnseen
        )
    }
}

/// When what waits will be gone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Forecast {
    /// Nothing waits.
    Nothing,
    /// In about this time, if it goes on as in the last ten seconds.
    In(Duration),
    /// It does not become less.
    NotShrinking,
    /// Nothing is being sent; the verdict says why.
    Halted,
    /// Not enough was seen yet.
    Unknown,
}

impl Forecast {
    /// For a chart; `None`: nobody knows, or never.
    pub fn seconds(self) -> Option<f64> {
        match self {
            Self::Nothing => Some(0.0),
            Self::In(time) => Some(time.as_secs_f64()),
            Self::NotShrinking | Self::Halted | Self::Unknown => None,
        }
    }
}

/// What waits, divided by how fast it becomes less.
pub fn forecast(verdict: Verdict, pending: i64, rates: Option<Rates>) -> Forecast {
    if !verdict.sends() {
        return match (verdict, pending) {
            (Verdict::Starting | Verdict::DatabaseAway, _) => Forecast::Unknown,
            (_, 0) => Forecast::Nothing,
            _ => Forecast::Halted,
        };
    }
    if pending == 0 {
        return Forecast::Nothing;
    }
    let Some(rates) = rates else { return Forecast::Unknown };
    if rates.shrinking > 0.0 {
        return match Duration::try_from_secs_f64(pending as f64 / rates.shrinking) {
            Ok(time) if time <= FURTHEST => Forecast::In(time),
            _ => Forecast::NotShrinking,
        };
    }
    // A steady flow: whatever waits at this moment is replaced by what is new.
    if rates.outgoing > 0.0 {
        let time = Duration::from_secs_f64(pending as f64 / rates.outgoing);
        if time.as_secs_f64() <= UNREMARKABLE {
            return Forecast::In(time);
        }
    }
    Forecast::NotShrinking
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;

    use super::*;
    use crate::{
        console::monitor::{Reach, Seen},
        outbox::{
            audits::{Audit, Counts},
            control::Pause,
            overview::Overview,
        },
    };

    fn reach(answer: Result<(), &str>) -> Reach {
        Reach {
            answer: answer.map_err(str::to_owned),
            since: Utc::now(),
        }
    }

    /// A look at a service that has nothing to do.
    fn idle() -> (Seen, Look) {
        let seen = Seen {
            overview: Overview {
                pending: 0,
                oldest_pending_age_seconds: 0.0,
                published: 10,
                dead: 0,
                dead_retried: 0,
                dead_discarded: 0,
                dead_resolved_exact: true,
                missing: 0,
                leader: Some("one".to_owned()),
                lease_until: None,
                checkpoint: Some(1),
                fence: Some(1),
            },
            newest_id: 10,
            pause: None,
            latency: None,
            dead: Vec::new(),
            replays: Vec::new(),
            audit: None,
        };
        let look = Look {
            at: Utc::now(),
            seen: None,
            database: reach(Ok(())),
            kafka: reach(Ok(())),
            redis: reach(Ok(())),
            leading_here: true,
            breaker_open: false,
            rates: Some(Rates {
                incoming: 0.0,
                outgoing: 0.0,
                shrinking: 0.0,
            }),
        };
        (seen, look)
    }

    fn verdict(change: impl FnOnce(&mut Seen, &mut Look)) -> Verdict {
        let (mut seen, mut look) = idle();
        change(&mut seen, &mut look);
        look.seen = Some(Arc::new(seen));
        Verdict::of(Some(&look))
    }

    fn audit(missing: i64) -> Audit {
        let counts = Counts {
            missing,
            ..Counts::default()
        };
        Audit {
            id: uuid::Uuid::nil(),
            requested_by: "who".to_owned(),
            started_at: Utc::now(),
            finished_at: Utc::now(),
            from: None,
            to: None,
            topic: "topic".to_owned(),
            cluster_id: None,
            counts,
        }
    }

    fn waiting(seen: &mut Seen, age: f64) {
        seen.overview.pending = 100;
        seen.overview.oldest_pending_age_seconds = age;
    }

    fn moving(look: &mut Look, outgoing: f64, shrinking: f64) {
        look.rates = Some(Rates {
            incoming: outgoing - shrinking,
            outgoing,
            shrinking,
        });
    }

    #[test]
    fn what_troubles_most_is_said_first() {
        assert_eq!(Verdict::of(None), Verdict::Starting);
        assert_eq!(verdict(|_, _| ()), Verdict::Flowing);
        assert_eq!(verdict(|seen, _| waiting(seen, 1.0)), Verdict::Flowing);
        assert_eq!(verdict(|seen, _| seen.overview.dead = 1), Verdict::DeadLetters);
        assert_eq!(verdict(|_, look| look.kafka = reach(Err("no"))), Verdict::KafkaUnseen);
        let audited = |missing: i64, dead: i64| {
            verdict(|seen, _| {
                seen.overview.dead = dead;
                seen.audit = Some(audit(missing));
            })
        };
        assert_eq!(audited(0, 0), Verdict::Flowing);
        assert_eq!(audited(1, 1), Verdict::Missing);
        assert_eq!(verdict(|seen, _| waiting(seen, 60.0)), Verdict::Stuck);
        assert_eq!(
            verdict(|seen, look| {
                waiting(seen, 60.0);
                look.rates = None;
            }),
            Verdict::Starting
        );
        assert_eq!(
            verdict(|seen, look| {
                waiting(seen, 60.0);
                look.kafka = reach(Err("no"));
            }),
            Verdict::KafkaAway
        );
        let open = |waits: bool, dead: i64| {
            verdict(|seen, look| {
                look.breaker_open = true;
                seen.overview.pending = i64::from(waits);
                seen.overview.dead = dead;
            })
        };
        assert_eq!(open(true, 1), Verdict::KafkaAway);
        // After a refusal it stays open until the next message is taken: nobody waits for that one.
        assert_eq!(open(false, 1), Verdict::DeadLetters);
        assert_eq!(
            verdict(|seen, look| {
                waiting(seen, 60.0);
                moving(look, 50.0, 40.0);
            }),
            Verdict::Draining
        );
        assert_eq!(
            verdict(|seen, look| {
                waiting(seen, 60.0);
                moving(look, 50.0, -1.0);
            }),
            Verdict::Growing
        );
        assert_eq!(
            verdict(|seen, look| {
                waiting(seen, 60.0);
                seen.overview.leader = None;
                look.kafka = reach(Err("no"));
            }),
            Verdict::NoLeader
        );
        assert_eq!(
            verdict(|seen, look| {
                seen.pause = Some(Pause {
                    reason: "why".to_owned(),
                    by: "who".to_owned(),
                    since: Utc::now(),
                });
                seen.overview.leader = None;
                look.breaker_open = true;
            }),
            Verdict::Paused
        );
        assert_eq!(
            verdict(|_, look| look.database = reach(Err("no"))),
            Verdict::DatabaseAway
        );
    }

    #[test]
    fn the_forecast_divides_what_waits_by_how_fast_it_becomes_less() {
        let rates = |outgoing: f64, shrinking: f64| {
            Some(Rates {
                incoming: outgoing - shrinking,
                outgoing,
                shrinking,
            })
        };
        let secs = |s| Forecast::In(Duration::from_secs(s));
        for (verdict, pending, rates, expected) in [
            (Verdict::Draining, 1000, rates(120.0, 100.0), secs(10)),
            (Verdict::Flowing, 0, rates(5.0, 0.0), Forecast::Nothing),
            (Verdict::Flowing, 10, rates(5.0, 0.0), secs(2)),
            (Verdict::Growing, 1000, rates(5.0, -3.0), Forecast::NotShrinking),
            (Verdict::Draining, i64::MAX, rates(1.0, 1e-9), Forecast::NotShrinking),
            (Verdict::Draining, 1000, None, Forecast::Unknown),
            (Verdict::Paused, 1000, rates(0.0, 0.0), Forecast::Halted),
            (Verdict::KafkaAway, 0, rates(0.0, 0.0), Forecast::Nothing),
            (Verdict::DatabaseAway, 0, None, Forecast::Unknown),
        ] {
            assert_eq!(
                forecast(verdict, pending, rates),
                expected,
                "{verdict:?} {pending} {rates:?}"
            );
        }
    }
}
