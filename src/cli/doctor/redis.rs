//! Redis: a cache. Everything is right without it, but slower.

use redis::{AsyncConnectionConfig, Client, RedisError};
use secrecy::ExposeSecret;

use super::{CALL_TIMEOUT, Finding, is_local};
use crate::{config, jobs::cache::is_refused_login};

pub(super) async fn check(config: &config::Redis) -> Vec<Finding> {
    match read_info(config).await {
        Ok(info) => {
            let mut findings = vec![Finding::ok(
                "redis.reachable",
                format!("version {}", field(&info, "redis_version").unwrap_or("unknown")),
            )];
            findings.push(check_role(&info));
            findings.push(check_memory(&info));
            findings.push(check_tls(config.url.expose_secret()));
            findings
        }
        Err(error) => {
            let tls = config.url.expose_secret().starts_with("rediss:");
            vec![explain(&error, tls)]
        }
    }
}

async fn read_info(config: &config::Redis) -> Result<String, RedisError> {
    let client = Client::open(config.url.expose_secret())?;
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CALL_TIMEOUT))
        .set_response_timeout(Some(CALL_TIMEOUT));
    let mut conn = client.get_multiplexed_async_connection_with_config(&limits).await?;
    redis::cmd("INFO").query_async(&mut conn).await
}

/// `tls`: redis.url asks for it.
fn explain(error: &RedisError, tls: bool) -> Finding {
    const CHECK: &str = "redis.reachable";
    let said = error.to_string();
    if is_refused_login(error) {
        return Finding::unreachable(
            CHECK,
            format!("Redis refuses the login: {said}"),
            "check user and password of redis.url; jobs are accepted without it, status comes from PostgreSQL",
        );
    }
    let advice = if error.is_connection_refusal() {
        "start it, or check redis.url; jobs are accepted without it, status comes from PostgreSQL"
    } else if tls {
        "redis.url says rediss://: is it TLS that listens there, with a certificate that this machine trusts?"
    } else {
        "check redis.url; a server that is frozen, or that speaks TLS (rediss://), does so too; jobs are accepted \
         without it, status comes from PostgreSQL"
    };
    Finding::unreachable(CHECK, format!("Redis cannot be reached: {said}"), advice)
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn check_role(info: &str) -> Finding {
    match field(info, "role") {
        Some("master") => Finding::ok("redis.role", "takes writes"),
        Some(role) => Finding::fail(
            "redis.role",
            format!("the server is a {role}: it refuses writes, so nothing is cached"),
            "let redis.url name the primary",
        ),
        None => Finding::warn(
            "redis.role",
            "the server does not say what it is",
            "allow INFO to this user",
        ),
    }
}

fn check_memory(info: &str) -> Finding {
    const CHECK: &str = "redis.memory";
    let maxmemory: i64 = field(info, "maxmemory").and_then(|v| v.parse().ok()).unwrap_or(0);
    let policy = field(info, "maxmemory_policy").unwrap_or("noeviction");
    let found = match maxmemory {
        0 => format!("no limit, policy {policy}"),
        limit => format!("limit {}, policy {policy}", super::bytes(limit)),
    };
    if maxmemory > 0 && policy == "noeviction" {
        return Finding::warn(
            CHECK,
            format!("{found}: when it is full it refuses writes, and nothing is cached until keys expire"),
            "set maxmemory-policy to volatile-ttl or allkeys-lru: every key of ours may go at any time",
        );
    }
    Finding::ok(CHECK, found)
}

fn check_tls(url: &str) -> Finding {
    const CHECK: &str = "redis.tls";
    let host = url::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned));
    let host = host.unwrap_or_default();
    if url.starts_with("rediss:") {
        Finding::ok(CHECK, "encrypted")
    } else if is_local(&host) {
        Finding::ok(CHECK, "not encrypted, on this machine")
    } else {
        Finding::warn(
            CHECK,
            format!("the connection to {host} is not encrypted: jobs and the password can be read on the way"),
            "let Redis listen with TLS, and write rediss:// in redis.url",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn a_replica_and_a_full_server_that_evicts_nothing_are_named() {
        let info = |role: &str, max: &str, policy: &str| {
            format!("# Replication\r\nrole:{role}\r\nmaxmemory:{max}\r\nmaxmemory_policy:{policy}\r\n")
        };
        assert_eq!(check_role(&info("master", "0", "noeviction")).status, Status::Ok);
        assert_eq!(check_role(&info("slave", "0", "noeviction")).status, Status::Fail);
        assert_eq!(check_memory(&info("master", "0", "noeviction")).status, Status::Ok);
        assert_eq!(
            check_memory(&info("master", "1048576", "noeviction")).status,
            Status::Warn
        );
        assert_eq!(
            check_memory(&info("master", "1048576", "volatile-ttl")).status,
            Status::Ok
        );
    }
}
