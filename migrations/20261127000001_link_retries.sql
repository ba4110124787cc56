-- A job may stay for longer than its message. New only: a binary that does not know this runs beside one that does.
insert into schema_compatibility values (20261127000001, 20261123000001);

set local lock_timeout = '5s';

-- What became of a dead letter that was sent again could be told only while the new message's row was there.
alter table outbox_dead_letters
    add column retry_id bigint;          -- the message that sent it again; null: none did, or before this column was
comment on column outbox_dead_letters.retry_id is
    'the message that sent it again: outbox_status.id; null: nobody has, or before version 20261127000001';

-- A class, and what was decided, without reading all letters. They are rare, so it costs accepting and relaying nothing.
create index outbox_dead_letters_class_all on outbox_dead_letters (error_class, outbox_id);
create index outbox_dead_letters_resolution on outbox_dead_letters (resolution) where resolution is not null;
