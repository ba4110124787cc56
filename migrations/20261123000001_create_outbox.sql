-- The first schema: drafts (read only), jobs, the outbox and its checkpoint log.
-- PostgreSQL 15 or newer. Nothing here is created with `partition of`: that takes ACCESS EXCLUSIVE
-- on the parent, and one open report would stop all accepting. Partitions are made by
-- src/outbox/partitions.rs, which `migrate` also calls.

-- Belongs to the Event Service, which normally has made it already. We only read it.
create table if not exists event_drafts (
    id                         uuid primary key,
    user_id                    uuid not null,
    title                      text not null,
    prize                      text,
    brand_color                text,
    logo_url                   text,
    store_info                 jsonb,
    selected_recommendation_id uuid, -- null: the owner has not selected an AI recommendation yet
    created_at                 timestamptz not null default now(),
    updated_at                 timestamptz not null default now()
);

-- What the schema allows. A binary refuses to serve only when `oldest_compatible` of the newest row
-- is above the newest migration that the binary knows; so version N-1 and N run side by side.
create table schema_compatibility (
    version           bigint primary key, -- the migration's own number
    oldest_compatible bigint not null     -- the oldest migration number whose binary still runs here
);
insert into schema_compatibility values (20261123000001, 20261123000001);

-- One row: who this installation is, and which log it writes to. Another cluster or topic behind the
-- same address is refused until an operator accepts it (`resume --accept-identity`).
create table installation (
    singleton       boolean primary key default true check (singleton),
    installation_id uuid not null default gen_random_uuid(), -- part of the transactional.id
    topic           text,  -- null until a leader has first seen the broker
    cluster_id      text   -- Kafka's cluster id, as the broker told it
);
insert into installation default values;

-- Guards the logs: a row of them, once written, is never changed. Whole partitions are dropped.
create function refuse_change_of_log() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
        using hint = 'old partitions are dropped whole, by `dispatcher retain`';
end $$;

-- The smallest UUIDv7 of an instant: a partition's bound.
create function uuid7_floor(at timestamptz) returns uuid language sql immutable strict parallel safe as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- An accepted job. Immutable; what becomes of it is in job_results.
create table jobs (
    id             uuid primary key,      -- UUIDv7 of created_at, made in the program
    user_id        uuid not null,         -- the owner: `sub` of the token
    event_draft_id uuid not null,         -- also the Kafka key
    outbox_id      bigint not null,       -- its first message in outbox_messages
    created_at     timestamptz not null   -- PostgreSQL's clock, one instant for a batch
) partition by range (id);
create trigger jobs_append_only before update or delete on jobs
    for each row execute function refuse_change_of_log();

-- What the Content Service answered: one row for each job and status; the job's status is the furthest.
create table job_results (
    job_id      uuid not null,
    status      text not null check (status in ('PROCESSING', 'COMPLETED', 'FAILED')),
    images      jsonb,  -- [{"style": "SIMPLE"|"FANCY"|"TRENDY", "url": "..."}], with COMPLETED
    error       text,   -- the reason, with FAILED
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (job_id, status)
) partition by range (job_id);
create unique index job_results_one_final on job_results (job_id) where status in ('COMPLETED', 'FAILED');
create trigger job_results_append_only before update or delete on job_results
    for each row execute function refuse_change_of_log();

-- Idempotency-Key of the IETF draft. Deleted in batches after `idempotency.retention`.
create table idempotency_keys (
    user_id    uuid not null,
    key        text not null,           -- 1 to 255 characters, unquoted
    draft_id   uuid not null,           -- the fingerprint: the request has no body
    job_id     uuid not null,           -- the answer
    created_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (user_id, key)
);
create index idempotency_keys_created_at on idempotency_keys using brin (created_at) with (autosummarize = on);

-- The log. No row is updated or deleted; there is no claim column and no attempts counter.
-- Its sequence is used by nothing else, and its cache is 1: the relay's treatment of holes rests on it.
create table outbox_messages (
    id          bigint generated always as identity primary key, -- the order of publishing
    event_id    uuid not null,          -- ce_id: the same for a job's message, its retries and replays
    job_id      uuid not null,
    key         uuid not null,          -- eventDraftId; the Kafka key is its text
    event_time  timestamptz not null,   -- ce_time: when the job was accepted
    created_at  timestamptz not null,   -- when this row was written
    replay_of   bigint,                 -- the row that this one repeats
    replay_id   uuid,                   -- the operation that wrote this row
    traceparent text,                   -- W3C Trace Context of the request, when it was well-formed
    payload     bytea not null          -- the exact bytes of the Kafka value
) partition by range (id);
create index outbox_messages_replay_of on outbox_messages (replay_of) where replay_of is not null;
create index outbox_messages_created_at on outbox_messages using brin (created_at) with (autosummarize = on);
create trigger outbox_messages_append_only before update or delete on outbox_messages
    for each row execute function refuse_change_of_log();

-- The relay's position, its lease and the receipts, as a log. `seq` is a compare-and-swap: a leader
-- inserts last + 1, and a conflict, or a missing partition, means that it no longer leads.
create table outbox_checkpoints (
    seq                bigint primary key,
    fence              bigint not null,       -- grows by one with each take-over
    leader             text not null,         -- the replica's name, a slash, a UUID of this start
    lease_until        timestamptz not null,  -- by PostgreSQL's clock
    delivery           text not null,         -- relay.delivery of the writer
    created_at         timestamptz not null default clock_timestamp(),
    settled            int8multirange not null default '{}', -- ids that this row says are published or dead
    closed             int8multirange not null default '{}', -- ids that belong to no row: rolled back
    next_offsets       bigint[] not null,     -- per partition: where the tail read of a next leader begins
    receipt_ids        bigint[] not null default '{}',       -- the receipts, ascending by id:
    receipt_partitions int[] not null default '{}',          --   where each of them is in the topic
    receipt_offsets    bigint[] not null default '{}',
    base_passed        int8multirange,        -- in a base row: all that was settled or closed up to here
    base_closed        int8multirange         -- in a base row: the closed among them
) partition by range (seq);
create index outbox_checkpoints_settled on outbox_checkpoints using gist (settled) where not isempty(settled);
create index outbox_checkpoints_base on outbox_checkpoints (seq) where base_passed is not null;
create trigger outbox_checkpoints_append_only before update or delete on outbox_checkpoints
    for each row execute function refuse_change_of_log();

-- Messages that Kafka, or our own size check, refuses for good. The row stays settled for ever; a retry
-- is a replay: a new row in the outbox.
create table outbox_dead_letters (
    outbox_id   bigint primary key,
    error_class text not null,            -- groups them: 'message-too-large', 'invalid-record'
    error       text not null,            -- what the broker or the check said
    died_at     timestamptz not null default clock_timestamp(),
    resolution  text check (resolution in ('retried', 'discarded')), -- null: an operator has to decide
    resolved_at timestamptz,
    resolved_by text,
    reason      text,
    check ((resolution is null) = (resolved_at is null))
);
create index outbox_dead_letters_unresolved on outbox_dead_letters (outbox_id) where resolution is null;

-- Replays: recorded operations. Progress is written in the transaction that inserts the rows.
create table outbox_replays (
    id           uuid primary key,          -- UUIDv7; the header `replay-id`
    operation_id text not null unique,      -- the same one starts nothing twice
    filter       jsonb not null,            -- what was asked for, as the command line said it
    reason       text not null,
    requested_by text not null,
    created_at   timestamptz not null default clock_timestamp(),
    lower_bound  bigint not null,           -- only ids in lower_bound..=upper_bound, frozen at creation
    upper_bound  bigint not null,
    within       int8multirange not null,   -- of those, the ids that were settled (or named) at creation: a row
                                            --   that commits later under a lower id is not part of it
    cursor       bigint not null,           -- the last original id that was looked at
    matched      bigint not null,           -- counted at creation
    replayed     bigint not null default 0,
    rate         int not null check (rate > 0), -- messages a second
    due_at       timestamptz not null default clock_timestamp(), -- when the next message is due: paces without drift
    state        text not null default 'running' check (state in ('running', 'paused', 'cancelled', 'done')),
    changed_at   timestamptz not null default clock_timestamp()
);
create index outbox_replays_running on outbox_replays (created_at) where state = 'running';

-- One row: pause of the whole relay. Read by the statement that reads the outbox.
create table outbox_control (
    singleton boolean primary key default true check (singleton),
    paused    boolean not null default false,
    reason    text,
    by        text,
    since     timestamptz
);
insert into outbox_control default values;

-- The position: everything settled or closed (`passed`), the closed among it, and both at one snapshot.
create function outbox_position(out passed int8multirange, out closed int8multirange) language sql stable as $$
    with base as (
        select seq, base_passed, base_closed from outbox_checkpoints
        where base_passed is not null order by seq desc limit 1
    ), later as (
        select c.settled, c.closed from outbox_checkpoints c, base
        where c.seq > base.seq and not (isempty(c.settled) and isempty(c.closed))
    ), settled as (
        select coalesce(range_agg(settled), '{}') as ids from later
    ), closed as (
        select coalesce(range_agg(closed), '{}') as ids from later
    )
    select base.base_passed + settled.ids + closed.ids,
           -- A row that showed up under a closed id was sent all the same: settled wins.
           (base.base_closed + closed.ids) - settled.ids
    from base, settled, closed
$$;

-- Ids that are published or dead. Write `id <@ (select outbox_settled())`: as a subquery it is computed once.
create function outbox_settled() returns int8multirange language sql stable as $$
    select p.passed - p.closed from outbox_position() p
$$;

create view outbox_status as
select m.id, m.event_id, m.job_id, i.topic, m.key::text as key,
       case when d.outbox_id is not null then 'dead'
            when m.id <@ (select outbox_settled()) then 'published'
            else 'pending' end as state,
       m.created_at, r.published_at, r.partition, r."offset", m.replay_of, m.replay_id, d.error
from outbox_messages m
cross join installation i
left join outbox_dead_letters d on d.outbox_id = m.id
left join lateral (
    select c.created_at as published_at,
           c.receipt_partitions[array_position(c.receipt_ids, m.id)] as partition,
           c.receipt_offsets[array_position(c.receipt_ids, m.id)] as "offset"
    from outbox_checkpoints c
    where c.settled @> m.id and not isempty(c.settled) and d.outbox_id is null
    order by c.seq desc limit 1
) r on true;
comment on view outbox_status is 'One row for each message: where it stands. state is pending, published or dead.';
comment on column outbox_status.partition is 'null while pending or dead, and when a record was found published without its receipt';

create view outbox_overview as
with position as materialized (
    select * from outbox_position()
), top as materialized (
    select coalesce(max(id), 0) as id from outbox_messages
), waiting as (
    select r from top, position, unnest(int8multirange(int8range(1, top.id + 1)) - position.passed) r
)
select (select coalesce(sum(upper(r) - lower(r)), 0) from waiting)::bigint as pending,
       coalesce((select extract(epoch from clock_timestamp() - min(m.created_at)) from waiting, lateral (
           select created_at from outbox_messages where id >= lower(r) and id < upper(r) order by id limit 1
       ) m), 0)::float8 as oldest_pending_age_seconds,
       ((select coalesce(sum(upper(r) - lower(r)), 0) from position, unnest(position.passed - position.closed) r)
           - (select count(*) from outbox_dead_letters))::bigint as published,
       (select count(*) from outbox_dead_letters where resolution is null) as dead,
       (select paused from outbox_control) as paused,
       (select case when lease_until > clock_timestamp() then regexp_replace(leader, '/[^/]*$', '') end
        from outbox_checkpoints order by seq desc limit 1) as leader;
comment on view outbox_overview is 'One row: what waits, how old the oldest is, what was published, what is dead, who leads.';
comment on column outbox_overview.pending is 'ids up to the newest that are neither settled nor closed; holes of open transactions are included';
comment on column outbox_overview.dead is 'dead letters that were neither retried nor discarded';
