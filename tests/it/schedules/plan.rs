//! What happens when: drawn from a seed, and nothing but a seed.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::proxy::{Flow, Weather};

/// Faults begin within so long of the load's beginning.
const SPAN_MS: u64 = 2_500;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub exactly_once: bool,
    pub replicas: usize,
    pub lease: Duration,
    /// `relay.window`.
    pub window: usize,
    /// In the order of their beginning.
    pub events: Vec<Event>,
}

/// A fault or an act, and when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Duration,
    pub act: Act,
}

/// Each ends by itself: what it broke is whole again then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL; another one starts in its place, now and then with a failpoint.
    KillReplica {
        replica: usize,
        down: Duration,
        then: Option<Failpoint>,
    },
    /// SIGSTOP, SIGCONT.
    FreezeReplica { replica: usize, lasts: Duration },
    /// SIGTERM; another one starts once it has ended.
    StopReplica { replica: usize },
    /// SIGKILL to a server.
    KillServer { server: Server, down: Duration },
    /// A clean stop of a server.
    StopServer { server: Server, down: Duration },
    /// SIGSTOP, SIGCONT of a server.
    FreezeServer { server: Server, lasts: Duration },
    /// `pg_terminate_backend` of every connection of the service.
    TerminateBackends,
    /// A link is slow, or stopped in one direction or both.
    Link {
        replica: usize,
        server: Server,
        weather: Weather,
        lasts: Duration,
    },
    /// A link's connections end.
    HangUp { replica: usize, server: Server },
    /// A reply is cut in its middle.
    CutReply {
        replica: usize,
        server: Server,
        after_bytes: u32,
    },
    /// `dispatcher pause`, later `dispatcher resume`.
    Pause { lasts: Duration },
    /// `dispatcher replay create` of a few messages.
    Replay { messages: usize },
}

/// What a replica does at a place in its code, see `src/failpoint.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failpoint {
    pub point: &'static str,
    /// Passes before it.
    pub after: u32,
    /// `return(crash)`, `return(error)` or `sleep(ms)`.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Postgres,
    Redis,
    Kafka,
}

/// What only one act at a time is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Replica(usize),
    Server(Server),
    Backends,
    Link(usize, Server),
    Pause,
    Replays,
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let replicas = rng.random_range(1..=2);
        let mut events: Vec<Event> = (0..rng.random_range(2..=5))
            .map(|_| Event {
                at: Duration::from_millis(rng.random_range(100..SPAN_MS)),
                act: Act::draw(&mut rng, replicas),
            })
            .collect();
        events.sort_by_key(|event| event.at);
        Self {
            seed,
            exactly_once: rng.random_bool(0.4),
            replicas,
            lease: Duration::from_millis(rng.random_range(1_000..2_500)),
            window: [16, 64, 256, 16_384][rng.random_range(0..4)],
            events,
        }
    }

    /// The events of each target, which are done one after the other.
    pub fn by_target(&self) -> BTreeMap<Target, Vec<Event>> {
        let mut all: BTreeMap<Target, Vec<Event>> = BTreeMap::new();
        for event in &self.events {
            all.entry(event.act.target()).or_default().push(event.clone());
        }
        all
    }

    /// How much longer the faults can make anything take.
    pub fn disturbance(&self) -> Duration {
        self.events.iter().map(|event| event.act.lasts()).sum()
    }

    /// In a line of progress.
    pub fn title(&self) -> String {
        let mode = if self.exactly_once {
            "exactly once"
        } else {
            "at least once"
        };
        format!("{mode}, {} replicas, {} faults,", self.replicas, self.events.len())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} lease {:?}, window {}", self.title(), self.lease, self.window)?;
        for Event { at, act } in &self.events {
            writeln!(f, "  {:>5} ms  {act:?}", at.as_millis())?;
        }
        Ok(())
    }
}

impl Act {
    fn draw(rng: &mut StdRng, replicas: usize) -> Self {
        let replica = rng.random_range(0..replicas);
        let lasts = Duration::from_millis(rng.random_range(50..1_500));
        // Kafka takes seconds to start: it is killed and stopped less often than the others.
        let server = [
            Server::Postgres,
            Server::Postgres,
            Server::Redis,
            Server::Redis,
            Server::Kafka,
        ][rng.random_range(0..5)];
        let linked = [Server::Postgres, Server::Kafka, Server::Redis][rng.random_range(0..3)];
        match rng.random_range(0..100) {
            0..16 => {
                let then = rng.random_bool(0.6).then(|| Failpoint::draw(rng));
                let down = lasts / 2;
                Self::KillReplica { replica, down, then }
            }
            16..28 => Self::FreezeReplica {
                replica,
                lasts: lasts * 2,
            },
            28..38 => Self::StopReplica { replica },
            38..44 => Self::KillServer {
                server,
                down: lasts / 2,
            },
            44..47 => Self::StopServer {
                server,
                down: lasts / 2,
            },
            47..56 => Self::FreezeServer { server: linked, lasts },
            56..63 => Self::TerminateBackends,
            63..77 => {
                // Now and then longer than every time-out.
                let lasts = if rng.random_bool(0.03) {
                    Duration::from_secs(11)
                } else {
                    lasts
                };
                let weather = weather(rng);
                Self::Link {
                    replica,
                    server: linked,
                    weather,
                    lasts,
                }
            }
            77..82 => Self::HangUp {
                replica,
                server: linked,
            },
            82..90 => {
                let after_bytes = rng.random_range(0..2_000);
                Self::CutReply {
                    replica,
                    server: linked,
                    after_bytes,
                }
            }
            90..95 => Self::Pause { lasts },
            _ => Self::Replay {
                messages: rng.random_range(1..20),
            },
        }
    }

    pub fn target(&self) -> Target {
        match *self {
            Self::KillReplica { replica, .. } | Self::FreezeReplica { replica, .. } | Self::StopReplica { replica } => {
                Target::Replica(replica)
            }
            Self::KillServer { server, .. } | Self::StopServer { server, .. } | Self::FreezeServer { server, .. } => {
                Target::Server(server)
            }
            Self::TerminateBackends => Target::Backends,
            Self::Link { replica, server, .. }
            | Self::HangUp { replica, server }
            | Self::CutReply { replica, server, .. } => Target::Link(replica, server),
            Self::Pause { .. } => Target::Pause,
            Self::Replay { .. } => Target::Replays,
        }
    }

    fn lasts(&self) -> Duration {
        match *self {
            Self::KillReplica { down: lasts, .. }
            | Self::FreezeReplica { lasts, .. }
            | Self::KillServer { down: lasts, .. }
            | Self::StopServer { down: lasts, .. }
            | Self::FreezeServer { lasts, .. }
            | Self::Link { lasts, .. } => lasts,
            Self::StopReplica { .. }
            | Self::TerminateBackends
            | Self::HangUp { .. }
            | Self::CutReply { .. }
            | Self::Pause { .. }
            | Self::Replay { .. } => Duration::ZERO,
        }
    }
}

impl Failpoint {
    fn draw(rng: &mut StdRng) -> Self {
        let points = crate::crash_points::POINTS;
        let what = match rng.random_range(0..3) {
            0 => "return(crash)".to_owned(),
            1 => "return(error)".to_owned(),
            _ => format!("sleep({})", rng.random_range(50..1_500)),
        };
        Self {
            point: points[rng.random_range(0..points.len())].0,
            after: [0, 1, 5, 50][rng.random_range(0..4)],
            what,
        }
    }
}

impl fmt::Display for Failpoint {
    /// For the environment: once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { point, after, what } = self;
        write!(f, "{point}={after}*off->1*{what}")
    }
}

fn weather(rng: &mut StdRng) -> Weather {
    let flow = match rng.random_range(0..4) {
        0 => Flow::Delayed(Duration::from_millis(rng.random_range(5..300))),
        1 => Flow::Slow(rng.random_range(1_000..50_000)),
        _ => Flow::Stopped,
    };
    match rng.random_range(0..3) {
        0 => Weather {
            up: flow,
            down: Flow::Free,
        },
        1 => Weather {
            up: Flow::Free,
            down: flow,
        },
        _ => Weather { up: flow, down: flow },
    }
}

mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_draws_one_plan_and_another_one_another() {
        assert_eq!(Plan::draw(7), Plan::draw(7));
        let plans: HashSet<String> = (0..100).map(|seed| Plan::draw(seed).to_string()).collect();
        assert_eq!(plans.len(), 100);
    }

    #[test]
    fn a_thousand_seeds_draw_every_act_on_every_target() {
        let mut acts = HashSet::new();
        let mut targets = HashSet::new();
        for event in (0..1000).flat_map(|seed| Plan::draw(seed).events) {
            acts.insert(std::mem::discriminant(&event.act));
            targets.insert(format!("{:?}", event.act.target()));
        }
        assert_eq!(acts.len(), 12);
        // Two replicas, three servers, six links, backends, pause, replays.
        assert_eq!(targets.len(), 14, "{targets:?}");
    }
}
