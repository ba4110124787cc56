-- What the textbook has: a job, and a message with a mark that the relay sets. Plain tables, which cost an insert
-- less than the service's partitioned ones; the columns are the service's, with the mark in the place of receipts.
create table textbook_jobs (
    id             uuid primary key,
    user_id        uuid not null,
    event_draft_id uuid not null,
    status         text not null default 'PENDING',
    created_at     timestamptz not null
);
create table textbook_outbox (
    id           bigint generated always as identity primary key,
    event_id     uuid not null,
    job_id       uuid not null,
    key          uuid not null,
    event_time   timestamptz not null,
    created_at   timestamptz not null,
    traceparent  text,
    payload      bytea not null,
    published_at timestamptz
);
-- The queue: only what is unpublished, in order.
create index textbook_outbox_pending on textbook_outbox (id) where published_at is null;
