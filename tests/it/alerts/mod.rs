//! Metrics, the alerts on them, and their runbooks. The rules themselves are tried by `promtool` (`make check`); here
//! their metrics are looked for in a real answer, and each runbook is followed against the fault that it is for.

mod metrics;
mod runbook;
mod runbooks;
