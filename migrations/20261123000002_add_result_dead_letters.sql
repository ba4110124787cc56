-- Records of the result topic that could not be applied: kept out of the way, so that they stop nobody.
-- New only: a binary that does not know this table runs beside one that does.
insert into schema_compatibility values (20261123000002, 20261123000001);

create table result_dead_letters (
    topic       text not null,
    partition   int not null,
    "offset"    bigint not null,
    reason      text not null check (reason in ('malformed', 'unknown-job')),
    error       text not null,            -- in words
    key         bytea,                    -- as in the record
    value       bytea,                    -- as in the record
    received_at timestamptz not null default clock_timestamp(),
    -- A record that is consumed twice is put aside once.
    constraint result_dead_letters_pkey primary key (topic, partition, "offset")
);
create index result_dead_letters_received_at on result_dead_letters (received_at);
