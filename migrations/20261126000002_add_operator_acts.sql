-- The operators' log: each act that changed something, written in the transaction of the act itself.
-- New only: a binary that does not know this table runs beside one that does, and its acts are not in it.
insert into schema_compatibility values (20261126000002, 20261123000001);

create table operator_acts (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default clock_timestamp(),
    who     text not null,                -- the token's `sub`; on the command line --by, or user@host
    role    text,                         -- the token's; null on the command line, where the database's rights decide
    via     text not null check (via in ('cli', 'api', 'console')),
    act     text not null,                -- 'pause', 'dead-retry', 'replay-create', ...: the command's words
    subject text not null,                -- on what, for people: 'relay', 'replay 0193...', 'dead letters 7, 8'
    detail  jsonb not null default '{}',  -- the same for programs, with the numbers: {"count": 2, "ids": [7, 8]}
    reason  text                          -- as it was given; null where none is asked for
);
comment on table operator_acts is 'The operators'' log: one row for each act that changed something. Nothing of it is deleted.';
comment on column operator_acts.role is 'null on the command line';
comment on column operator_acts.detail is 'what was acted on, and the numbers, for programs';
create trigger operator_acts_append_only before update or delete on operator_acts
    for each row execute function refuse_change_of_log();
