//! The integration tests: one binary, so that all of them share one broker, one Redis and one PostgreSQL.
//! Each test has its own database and topics; servers that a test stops or kills are its own. See [`support`].

mod support;

mod admin_api;
mod alerts;
mod console;
mod content_worker;
mod contract_http;
mod crash_points;
mod dev_stack;
mod exactly_once;
mod faults;
mod holes;
mod hostile_clients;
mod house;
mod intake;
mod job_events;
mod kept_out;
mod kills;
mod lost_log;
mod one_job;
mod operate;
mod outage;
mod overload;
mod poison;
mod replicas;
mod results;
mod schedules;
mod start_dev;
mod terms;
mod whole_story;
