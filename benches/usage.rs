//! What a measurement uses: CPU time and resident memory as the operating system tells them, from /proc, and WAL.

use std::{
    collections::BTreeSet,
    fs,
    ops::{Add, Sub},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Clock ticks a second in /proc: `USER_HZ`, which is 100 on every Linux architecture but Alpha.
const TICKS: f64 = 100.0;
/// Attempts to read all processes while none ends.
const SCANS: usize = 200;

/// CPU seconds, user and system, of each process that takes part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// `dispatcher serve`; of a baseline, the process that stands in its place.
    pub service: f64,
    /// The postmaster and all its children, those that ended too.
    pub postgres: f64,
    pub redis: f64,
    pub kafka: f64,
    /// What asks: this process, or pgbench.
    pub client: f64,
    /// What else the machine did meanwhile: nothing, where a figure is to be believed.
    pub elsewhere: f64,
}

impl Cpu {
    /// Seconds since each process started; `client` is this process and the children that it has waited for.
    pub fn now() -> Result<Self> {
        let me = std::process::id();
        let all = consistent_processes()?;
        let mut cpu = Self::default();
        for process in &all {
            if process.id == me {
                cpu.client += process.own + process.waited_for;
            }
            if process.parent != me {
                continue;
            }
            match process.name.as_str() {
                "postgres" => {
                    let children = all.iter().filter(|child| child.parent == process.id);
                    let children: f64 = children.map(|child| child.own + child.waited_for).sum();
                    cpu.postgres += process.own + process.waited_for + children;
                }
                "redis-server" | "valkey-server" => cpu.redis += process.own,
                "java" => cpu.kafka += process.own,
                "dispatcher" => cpu.service += process.own,
                _ => {}
            }
        }
        cpu.elsewhere = busy()? - cpu.total();
        Ok(cpu)
    }

    /// Of `jobs` jobs, for each thousand of them.
    #[must_use]
    pub fn per_thousand(self, jobs: f64) -> Self {
        self.scaled(1000.0 / jobs)
    }

    #[must_use]
    pub fn scaled(self, by: f64) -> Self {
        Self {
            service: self.service * by,
            postgres: self.postgres * by,
            redis: self.redis * by,
            kafka: self.kafka * by,
            client: self.client * by,
            elsewhere: self.elsewhere * by,
        }
    }

    /// Of all that take part.
    pub fn total(self) -> f64 {
        self.service + self.postgres + self.redis + self.kafka + self.client
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + other.scaled(-1.0)
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            service: self.service + other.service,
            postgres: self.postgres + other.postgres,
            redis: self.redis + other.redis,
            kafka: self.kafka + other.kafka,
            client: self.client + other.client,
            elsewhere: self.elsewhere + other.elsewhere,
        }
    }
}

/// What was used up to an instant.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    cpu: Cpu,
    /// Bytes of WAL written so far.
    wal: f64,
    at: Instant,
}

impl Mark {
    /// Now; what PostgreSQL has written is asked by the caller.
    pub fn now(wal: f64) -> Result<Self> {
        Ok(Self {
            cpu: Cpu::now()?,
            wal,
            at: Instant::now(),
        })
    }

    /// From an earlier mark to this one.
    pub fn since(self, earlier: Self) -> Used {
        Used {
            cpu: self.cpu - earlier.cpu,
            wal: self.wal - earlier.wal,
            seconds: (self.at - earlier.at).as_secs_f64(),
        }
    }
}

/// What was used between two marks.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    pub cpu: Cpu,
    pub wal: f64,
    pub seconds: f64,
}

impl Used {
    /// The work of this process counts as the service's: it is the relay that is compared.
    #[must_use]
    pub fn client_is_service(self) -> Self {
        let cpu = Cpu {
            service: self.cpu.service + self.cpu.client,
            client: 0.0,
            ..self.cpu
        };
        Self { cpu, ..self }
    }
}

/// Seconds that the machine's processors were not idle, all of them together.
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let ticks: Vec<f64> = line
        .context("no line cpu in /proc/stat")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; what follows is in user and nice already.
    let idle = |field: usize| field == 3 || field == 4;
    let busy = ticks.iter().take(8).enumerate().filter(|(field, _)| !idle(*field));
    Ok(busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS)
}

struct Process {
    id: u32,
    parent: u32,
    name: String,
    /// CPU seconds.
    own: f64,
    /// CPU seconds of children that ended.
    waited_for: f64,
}

/// All processes, read while none of those that count ended: one that ends between its parent's turn and its own
/// would be in neither's time, and PostgreSQL's backends end just when a measurement does.
fn consistent_processes() -> Result<Vec<Process>> {
    let me = std::process::id();
    let descendants = |all: &[Process]| -> BTreeSet<u32> {
        let ours = |parent: u32| all.iter().any(|process| process.id == parent && process.parent == me);
        let counts = all
            .iter()
            .filter(|process| process.parent == me || ours(process.parent));
        counts.map(|process| process.id).collect()
    };
    for _ in 0..SCANS {
        let (before, all, after) = (processes()?, processes()?, processes()?);
        if descendants(&before).is_subset(&descendants(&after)) {
            return Ok(all);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("processes end all the time: their CPU time cannot be read")
}

fn processes() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("CPU time is read from /proc, which is Linux's")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Gone meanwhile: then its parent has its time.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat"))
            && let Some(process) = parse_stat(id, &stat)
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// proc(5): `pid (name) state ppid ... utime stime cutime cstime`, the 14th to the 17th field.
fn parse_stat(id: u32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let seconds = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / TICKS);
    Some(Process {
        id,
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        own: seconds(11)? + seconds(12)?,
        waited_for: seconds(13)? + seconds(14)?,
    })
}

/// CPU seconds of one process, without its children.
pub fn own(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    Ok(parse_stat(pid, &stat).context("/proc/PID/stat cannot be read")?.own)
}

/// The largest resident set that a process has had, in bytes.
pub fn peak_resident(pid: u32) -> Result<f64> {
    status(pid, "VmHWM:")
}

/// The resident set of a process, in bytes.
pub fn resident(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {name} in /proc"))? * 1024.0)
}
