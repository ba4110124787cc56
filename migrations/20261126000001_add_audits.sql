-- What audits found, and why publishing halts. New only: a binary that does not know these runs beside one that does.
insert into schema_compatibility values (20261126000001, 20261123000001);

-- One row for each finished audit: the topic compared with the receipts. Only the newest hundred are kept.
create table outbox_audits (
    id           uuid primary key,           -- UUIDv7
    requested_by text not null,
    started_at   timestamptz not null,       -- of the snapshot whose receipts were compared
    finished_at  timestamptz not null default clock_timestamp(),
    written_from timestamptz,                -- only messages written at this time or later; null: from the first
    written_to   timestamptz,                -- only messages written before this time; null: to the last
    topic        text not null,
    cluster_id   text,                       -- null: the broker did not tell it
    receipts     bigint not null,            -- receipts compared
    records      bigint not null,            -- records of the topic compared
    in_place     bigint not null,            -- receipts whose record is where they say
    expired      bigint not null,            -- receipts whose record is gone, as the topic's retention allows
    made_good    bigint not null,            -- receipts whose record is lost, and a replay is there or on its way
    missing      bigint not null,            -- receipts whose record is lost
    repeated     bigint not null,            -- records of an outbox id that has one already
    foreign_records bigint not null,          -- records that no row of the outbox explains
    forgotten    bigint not null,            -- records whose rows retention has dropped: nothing can be said of them
    missing_ids  int8multirange not null     -- what `replay create --missing` sends
);

-- Examples of what an audit found: the first thousand of each kind.
create table outbox_audit_findings (
    audit_id    uuid not null references outbox_audits on delete cascade,
    number      int not null,                -- in the order of the kinds and of their places
    kind        text not null check (kind in ('missing', 'repeated', 'foreign')),
    partition   int not null,
    "offset"    bigint not null,             -- of a missing one: where its receipt says it is
    outbox_id   bigint,                      -- as the record's header says, or the receipt; null: it says none
    event_id    uuid,                        -- ce_id; null: the record has none
    primary key (audit_id, number)
);

-- Why publishing halts although Kafka answers: shown by `outbox stats` and `doctor`.
alter table installation
    add column halt_reason  text,            -- null: it does not halt
    add column halted_since timestamptz,     -- null: as above
    add column log_lost     boolean not null default false; -- the log ended below what was acknowledged: goes on only
                                                            --   by `resume --accept-identity`
