-- The group role of people who look, and never touch: all that the questions of docs/operate.md and the runbooks
-- read. Run it by hand, in the dispatcher's database, as somebody who may make roles and owns the tables; again
-- after an upgrade, for tables that are new. It is the whole list: what is not granted here is taken away.
--
--   psql "$DATABASE_URL" -f ops/postgresql/viewer.sql
--
-- `dispatcher migrate` does not do this. A role belongs to the whole server and not to one database, several
-- installations may share it, and the service's own user should not be able to make roles.
--
-- Then one login for each person, with bounds: a transaction that somebody has forgotten stops vacuum.
--
--   create role anna login password '...' in role dispatcher_viewer;
--   alter role anna set statement_timeout = '30s';
--   alter role anna set idle_in_transaction_session_timeout = '1min';
--
-- Left out on purpose, because they hold what users wrote: outbox_messages.payload, event_drafts,
-- idempotency_keys, and key and value of result_dead_letters. Nor is it a member of pg_read_all_stats, which shows
-- everybody's statements: whoever hunts a long transaction is granted that one by name.
do $$
begin
    create role dispatcher_viewer nologin;
exception when duplicate_object or unique_violation then
    null; -- it is there, from an earlier run or from another installation on this server
end $$;

do $$
begin
    execute format('revoke all on all tables in schema %I from dispatcher_viewer', current_schema());
    execute format('grant usage on schema %I to dispatcher_viewer', current_schema());
end $$;

grant select on outbox_status, outbox_overview to dispatcher_viewer;

-- The functions in the views read these as whoever asks.
grant select on outbox_checkpoints to dispatcher_viewer;
grant select (id, event_id, job_id, key, event_time, created_at, replay_of, replay_id, traceparent)
    on outbox_messages to dispatcher_viewer;

grant select on jobs, job_results to dispatcher_viewer;
grant select on outbox_dead_letters, outbox_replays, outbox_control, installation, schema_compatibility, operator_acts,
    outbox_audits, outbox_audit_findings to dispatcher_viewer;
grant select (topic, partition, "offset", reason, error, received_at) on result_dead_letters to dispatcher_viewer;
