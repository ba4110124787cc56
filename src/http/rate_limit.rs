//! Requests a second a user, in this process alone: with N replicas behind a balancer a user gets up to
//! N times as many.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock as _};
use uuid::Uuid;

use super::{catalogue::Code, problem::Problem};

/// Off, or so many requests a second for each user; a burst may have as many.
#[derive(Debug)]
pub struct RateLimit(Option<Limiter>);

#[derive(Debug)]
struct Limiter {
    users: DefaultKeyedRateLimiter<Uuid>,
    checks: AtomicU32,
}

/// Users who have been quiet are forgotten each time that so many requests were counted: what is kept is
/// bounded by this and by the users of the last second.
const CHECKS_BETWEEN_CLEANINGS: u32 = 4096;

impl RateLimit {
    /// `http.rate_limit`; `None` and 0 turn it off.
    pub fn new(requests_per_second: Option<u32>) -> Self {
        Self(requests_per_second.and_then(NonZeroU32::new).map(|rate| Limiter {
            users: DefaultKeyedRateLimiter::keyed(Quota::per_second(rate)),
            checks: 0.into(),
        }))
    }

    /// Counts one request.
    pub fn check(&self, user_id: Uuid) -> Result<(), Problem> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        if limiter.checks.fetch_add(1, Ordering::Relaxed) % CHECKS_BETWEEN_CLEANINGS == CHECKS_BETWEEN_CLEANINGS - 1 {
            limiter.users.retain_recent();
        }
        limiter.users.check_key(&user_id).map_err(|refused| {
            let wait = refused.wait_time_from(limiter.users.clock().now());
            // Whole seconds, rounded up: earlier would be refused again.
            Problem::new(Code::RateLimited).retry_after(wait.as_millis().div_ceil(1000).max(1) as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_stopped_after_the_burst_and_others_are_not() {
        let limit = RateLimit::new(Some(2));
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(limit.check(one).is_ok());
        assert!(limit.check(one).is_ok());
        assert_eq!(limit.check(one).unwrap_err().code(), Code::RateLimited);
        assert!(limit.check(other).is_ok());
    }

    #[test]
    fn quiet_users_are_forgotten() {
        let limit = RateLimit::new(Some(1_000_000));
        for user in 0..3 * u128::from(CHECKS_BETWEEN_CLEANINGS) {
            assert!(limit.check(Uuid::from_u128(user)).is_ok());
        }
        assert!(limit.0.unwrap().users.len() <= 2 * CHECKS_BETWEEN_CLEANINGS as usize);
    }

    #[test]
    fn it_is_off_unless_it_is_configured() {
        for off in [None, Some(0)] {
            let limit = RateLimit::new(off);
            assert!((0..10_000).all(|_| limit.check(Uuid::nil()).is_ok()));
        }
    }
}
