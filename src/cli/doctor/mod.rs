//! `dispatcher doctor`: is everything that the promise rests on as it has to be? One line a check: what was
//! found, what it means, what to do. It changes nothing.

mod disk;
mod durability;
mod kafka;
mod log;
mod permissions;
mod postgres;
mod redis;
mod topics;
mod transactions;

use std::time::Duration;

use serde::Serialize;

use super::{CliError, Context, output};

/// One dependency's checks end after so long, whatever hangs.
const BUDGET: Duration = Duration::from_secs(20);
/// One answer of a dependency.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it has to be.
    Ok,
    /// It works, and will cost something one day.
    Warn,
    /// Wrong: jobs are refused, wait, or can be lost.
    Fail,
    /// Nobody answers, or nobody is let in.
    Unreachable,
}

/// What one check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    /// What was found, and what it means.
    found: String,
    /// What to do; null when nothing is to be done.
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(Status::Warn, check, found, advice)
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(Status::Fail, check, found, advice)
    }

    fn unreachable(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(Status::Unreachable, check, found, advice)
    }

    fn bad(status: Status, check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            status,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Check PostgreSQL, Redis, Kafka and the outbox; change nothing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Report transactions that are open for longer
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    long_transaction: Duration,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let (mut findings, redis, kafka) = tokio::join!(
        bounded("postgresql", postgres::check(context, args.long_transaction)),
        bounded("redis", redis::check(&context.config.redis)),
        bounded("kafka", kafka::check(context)),
    );
    findings.extend(redis);
    findings.extend(kafka);
    findings.push(disk::check_own());
    output::rows(context.output, &["status", "check", "found", "advice"], &findings)?;
    verdict(&findings)
}

async fn bounded(check: &'static str, findings: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    tokio::time::timeout(BUDGET, findings).await.unwrap_or_else(|_| {
        vec![Finding::unreachable(
            check,
            format!("did not answer everything within {} s", BUDGET.as_secs()),
            "it is overloaded or frozen, or the network loses what is sent: look at its own log",
        )]
    })
}

/// A dependency that cannot be reached is said before what is wrong with the others.
fn verdict(findings: &[Finding]) -> Result<(), CliError> {
    let of = |status: Status| {
        findings
            .iter()
            .filter(|f| f.status == status)
            .map(|f| f.check)
            .collect::<Vec<_>>()
    };
    let (unreachable, failed) = (of(Status::Unreachable), of(Status::Fail));
    if !unreachable.is_empty() {
        return Err(CliError::Unreachable(format!(
            "cannot be reached: {}",
            unreachable.join(", ")
        )));
    }
    if !failed.is_empty() {
        return Err(CliError::FoundWrong(format!("wrong: {}", failed.join(", "))));
    }
    Ok(())
}

/// Whether what is said to `host` stays on this machine: then nobody can read along.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.is_empty()
        || host == "localhost"
        || host.starts_with('/') // a Unix socket
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A number of bytes as people write it.
fn bytes(n: i64) -> String {
    match n {
        n if n >= 1 << 30 => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        n if n >= 1 << 20 => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
        n => format!("{n} bytes"),
    }
}

/// Whole seconds as people write them.
fn duration(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0.0) as u64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_on_this_machine_is_known() {
        for host in ["127.0.0.1", "::1", "[::1]", "localhost", "/run/postgresql", ""] {
            assert!(is_local(host), "{host}");
        }
        for host in ["0.0.0.0", "10.0.0.1", "db.example", "localhost.example"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn what_cannot_be_reached_counts_more_than_what_is_wrong_and_a_warning_is_no_error() {
        let ok = || Finding::ok("a", "");
        let warn = || Finding::warn("b", "", "");
        let fail = || Finding::fail("c", "", "");
        let unreachable = || Finding::unreachable("d", "", "");
        assert!(verdict(&[ok(), warn()]).is_ok());
        assert_eq!(verdict(&[ok(), fail(), warn()]).unwrap_err().code(), 5);
        assert_eq!(verdict(&[fail(), unreachable()]).unwrap_err().code(), 3);
    }
}
