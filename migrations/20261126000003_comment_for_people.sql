-- For people with `psql`: what every table, view, column and function is, where `\d+` shows it. Says what the
-- first migrations say in their own comments, which nobody on call reads. Nothing else changes.
insert into schema_compatibility values (20261126000003, 20261123000001);

comment on table schema_compatibility is
    'one row a migration; `serve` refuses a schema whose oldest_compatible is above the newest migration it knows';
comment on column schema_compatibility.version is 'the migration''s own number';
comment on column schema_compatibility.oldest_compatible is 'the oldest migration whose program still runs on this schema';

comment on table installation is 'one row: which Kafka log this outbox is published to';
comment on column installation.singleton is 'true: there is one row';
comment on column installation.installation_id is 'made by `migrate`; part of the transactional.id';
comment on column installation.topic is 'kafka.topic as a leader first saw it; null: none has yet, or `resume --accept-identity`';
comment on column installation.cluster_id is 'Kafka''s cluster id as a leader first saw it; null as above';

comment on column installation.halt_reason is 'why publishing halts although Kafka answers; null: it does not';
comment on column installation.halted_since is 'since when; null as above';
comment on column installation.log_lost is
    'the log ended below what was acknowledged: goes on only by `dispatcher resume --accept-identity`';

comment on table jobs is 'accepted jobs; immutable. What became of them is in job_results, of their message in outbox_status';
comment on column jobs.id is 'jobId, a UUIDv7: select a time by uuid7_floor(timestamptz)';
comment on column jobs.user_id is 'the owner: sub of the token';
comment on column jobs.event_draft_id is 'the event draft; also the Kafka key';
comment on column jobs.outbox_id is 'its first message: outbox_status.id';
comment on column jobs.created_at is 'when it was accepted, by PostgreSQL''s clock';

comment on table job_results is
    'what the Content Service answered: one row for each job and status; the job''s status is the furthest of them';
comment on column job_results.job_id is 'jobs.id';
comment on column job_results.status is 'PROCESSING, COMPLETED or FAILED; a job has one of the last two at most';
comment on column job_results.images is 'with COMPLETED: [{"style", "url"}]';
comment on column job_results.error is 'with FAILED: the reason';
comment on column job_results.recorded_at is 'when it was recorded here';

comment on table idempotency_keys is 'Idempotency-Key of requests; deleted after idempotency.retention';
comment on column idempotency_keys.user_id is 'whose key it is';
comment on column idempotency_keys.key is 'as the client sent it, unquoted';
comment on column idempotency_keys.draft_id is 'the fingerprint: the same key for another draft is refused';
comment on column idempotency_keys.job_id is 'the answer';
comment on column idempotency_keys.created_at is 'when the job was accepted';

comment on table outbox_messages is
    'the log of messages, in the order of publishing; append-only. Where each stands: outbox_status';
comment on column outbox_messages.id is 'the order of publishing; header outbox-id';
comment on column outbox_messages.event_id is 'ce_id: the same for a job''s message, its retries and replays';
comment on column outbox_messages.job_id is 'jobs.id; not indexed: go by jobs.outbox_id';
comment on column outbox_messages.key is 'the event draft''s id; the Kafka key is its text';
comment on column outbox_messages.event_time is 'ce_time: when the job was accepted';
comment on column outbox_messages.created_at is 'when this row was written';
comment on column outbox_messages.replay_of is 'the outbox id that this row repeats; null: an original';
comment on column outbox_messages.replay_id is 'outbox_replays.id; null: an original';
comment on column outbox_messages.traceparent is 'W3C Trace Context of the request, when it was well-formed';
comment on column outbox_messages.payload is 'the exact bytes of the Kafka value: personal data of the draft''s owner';

comment on table outbox_checkpoints is
    'the log of the relay: lease, position and receipts; append-only. The newest row says who leads';
comment on column outbox_checkpoints.seq is 'the newest is the greatest; a leader that cannot write the next one leads no longer';
comment on column outbox_checkpoints.fence is 'grows by one with each take-over: one term of one leader';
comment on column outbox_checkpoints.leader is 'replica.name, a slash, a UUID of that start of the process';
comment on column outbox_checkpoints.lease_until is 'until then nobody else may take over, by PostgreSQL''s clock; -infinity: never led';
comment on column outbox_checkpoints.delivery is 'relay.delivery of the writer';
comment on column outbox_checkpoints.created_at is 'when it was written; of a receipt: when the message counted as published';
comment on column outbox_checkpoints.settled is 'ids that this row says are published or dead';
comment on column outbox_checkpoints.closed is 'ids that belong to no row: their transaction was rolled back';
comment on column outbox_checkpoints.next_offsets is 'for each partition of the topic, where a next leader begins to look for unrecorded records';
comment on column outbox_checkpoints.receipt_ids is 'the receipts'' outbox ids, ascending';
comment on column outbox_checkpoints.receipt_partitions is 'where each of receipt_ids is: the partition';
comment on column outbox_checkpoints.receipt_offsets is 'where each of receipt_ids is: the offset';
comment on column outbox_checkpoints.base_passed is 'in a base row: all ids that were settled or closed up to here';
comment on column outbox_checkpoints.base_closed is 'in a base row: the closed among them';

comment on table outbox_dead_letters is
    'messages that Kafka, or the size check, refuses for good; resolved by `dispatcher dead retry` or `dead discard`';
comment on column outbox_dead_letters.outbox_id is 'outbox_messages.id';
comment on column outbox_dead_letters.error_class is 'groups them: message-too-large, invalid-record';
comment on column outbox_dead_letters.error is 'what the broker or the check said';
comment on column outbox_dead_letters.died_at is 'when it was refused';
comment on column outbox_dead_letters.resolution is 'retried or discarded; null: an operator has to decide';
comment on column outbox_dead_letters.resolved_at is 'when it was decided';
comment on column outbox_dead_letters.resolved_by is 'who decided';
comment on column outbox_dead_letters.reason is 'why';

comment on table outbox_replays is 'replays and retries: recorded operations, with their progress';
comment on column outbox_replays.id is 'outbox_messages.replay_id; the header replay-id';
comment on column outbox_replays.operation_id is 'the same one starts nothing twice';
comment on column outbox_replays.filter is 'what was asked for';
comment on column outbox_replays.reason is 'why';
comment on column outbox_replays.requested_by is 'who asked for it';
comment on column outbox_replays.created_at is 'when';
comment on column outbox_replays.lower_bound is 'no id below it is replayed';
comment on column outbox_replays.upper_bound is 'no id above it is replayed';
comment on column outbox_replays.within is 'the ids that it may replay, frozen at creation';
comment on column outbox_replays.cursor is 'the last original id that was looked at';
comment on column outbox_replays.matched is 'how many it will replay, counted at creation';
comment on column outbox_replays.replayed is 'how many it has replayed';
comment on column outbox_replays.rate is 'messages a second';
comment on column outbox_replays.due_at is 'when the next message is due';
comment on column outbox_replays.state is 'running, paused, cancelled or done';
comment on column outbox_replays.changed_at is 'when its state or progress last changed';

comment on table outbox_control is 'one row: whether an operator has paused the relay';
comment on column outbox_control.singleton is 'true: there is one row';
comment on column outbox_control.paused is 'true: nothing is handed to Kafka; jobs are accepted';
comment on column outbox_control.reason is 'why';
comment on column outbox_control.by is 'who paused it';
comment on column outbox_control.since is 'since when';

comment on table result_dead_letters is 'answers of the Content Service that could not be applied; forgotten after 30 days';
comment on column result_dead_letters.topic is 'the result topic';
comment on column result_dead_letters.partition is 'where the record is: the partition';
comment on column result_dead_letters."offset" is 'where the record is: the offset';
comment on column result_dead_letters.reason is 'malformed, or unknown-job';
comment on column result_dead_letters.error is 'what is wrong with it, in words';
comment on column result_dead_letters.key is 'the record''s key';
comment on column result_dead_letters.value is 'the record''s value, as it came';
comment on column result_dead_letters.received_at is 'when it was put aside';

comment on table outbox_audits is 'finished audits: the topic compared with the receipts; the newest hundred are kept';
comment on column outbox_audits.id is 'a UUIDv7';
comment on column outbox_audits.requested_by is 'who asked for it';
comment on column outbox_audits.started_at is 'of the snapshot whose receipts were compared';
comment on column outbox_audits.finished_at is 'when it was done';
comment on column outbox_audits.written_from is 'only messages written at this time or later; null: from the first';
comment on column outbox_audits.written_to is 'only messages written before this time; null: to the last';
comment on column outbox_audits.topic is 'the topic that was read';
comment on column outbox_audits.cluster_id is 'Kafka''s cluster id; null: the broker did not tell it';
comment on column outbox_audits.receipts is 'receipts compared';
comment on column outbox_audits.records is 'records of the topic compared';
comment on column outbox_audits.in_place is 'receipts whose record is where they say';
comment on column outbox_audits.expired is 'receipts whose record is gone, as the topic''s retention allows';
comment on column outbox_audits.made_good is 'receipts whose record is lost, and a replay is there or on its way';
comment on column outbox_audits.missing is 'receipts whose record is lost';
comment on column outbox_audits.repeated is 'records of an outbox id that has one already';
comment on column outbox_audits.foreign_records is 'records that no row of the outbox explains';
comment on column outbox_audits.forgotten is 'records whose rows retention has dropped: nothing can be said of them';
comment on column outbox_audits.missing_ids is 'what `dispatcher replay create --missing` sends';
comment on table outbox_audit_findings is 'examples of what an audit found: the first thousand of each kind';
comment on column outbox_audit_findings.audit_id is 'outbox_audits.id';
comment on column outbox_audit_findings.number is 'in the order of the kinds and of their places';
comment on column outbox_audit_findings.kind is 'missing, repeated or foreign';
comment on column outbox_audit_findings.partition is 'where the record is: the partition';
comment on column outbox_audit_findings."offset" is 'where the record is; of a missing one, where its receipt says it is';
comment on column outbox_audit_findings.outbox_id is 'as the record''s header says, or the receipt; null: it says none';
comment on column outbox_audit_findings.event_id is 'ce_id; null: the record has none';

comment on column operator_acts.id is 'in the order of writing';
comment on column operator_acts.at is 'when, by PostgreSQL''s clock';
comment on column operator_acts.who is 'the token''s sub; on the command line --by, or user@host';
comment on column operator_acts.via is 'cli, api or console';
comment on column operator_acts.act is 'the command''s words: pause, dead-retry, replay-create';
comment on column operator_acts.subject is 'on what, for people';
comment on column operator_acts.reason is 'as it was given; null where none is asked for';

comment on column outbox_status.id is 'the order of publishing; header outbox-id';
comment on column outbox_status.event_id is 'ce_id: the same for a job''s message, its retries and replays';
comment on column outbox_status.job_id is 'jobs.id; to look up one job, begin with jobs, which has its outbox_id';
comment on column outbox_status.topic is 'the topic that the outbox is published to; null: no leader has seen the broker yet';
comment on column outbox_status.key is 'the Kafka key: the event draft''s id';
comment on column outbox_status.state is 'pending, published or dead';
comment on column outbox_status.created_at is 'when the message was written; of an original: when the job was accepted';
comment on column outbox_status.published_at is 'when the receipt was recorded; null while pending or dead';
comment on column outbox_status."offset" is 'as for partition';
comment on column outbox_status.replay_of is 'the outbox id that this message repeats; null: an original';
comment on column outbox_status.replay_id is 'outbox_replays.id; null: an original';
comment on column outbox_status.error is 'of a dead message: why it was refused';

comment on column outbox_overview.oldest_pending_age_seconds is 'how long the oldest pending message has waited; 0: none waits';
comment on column outbox_overview.published is 'messages in Kafka, replays included';
comment on column outbox_overview.paused is 'an operator has paused the relay: outbox_control says who, why and since when';
comment on column outbox_overview.leader is 'the name of the replica that holds the lease; null: nobody leads';

comment on function outbox_position() is 'ids that are settled or closed (passed), and the closed among them, at one snapshot';
comment on function outbox_settled() is
    'ids that are published or dead; write id <@ (select outbox_settled()), so that it is computed once';
comment on function uuid7_floor(timestamptz) is 'the smallest UUIDv7 of an instant: jobs since then are id >= uuid7_floor(...)';
comment on function refuse_change_of_log() is 'the trigger that keeps the logs append-only';
