-- A job may stay for longer than its message. New only: a binary that does not know this runs beside one that does.
insert into schema_compatibility values (20261127000001, 20261123000001);

-- Short, for whoever leads renews its lease by a statement that reads this table.
set local lock_timeout = '1s';

-- What became of a dead letter that was sent again could be told only while the new message's row was there.
alter table outbox_dead_letters
    add column retry_id bigint;          -- the message that sent it again; null: none did, or before this column was
comment on column outbox_dead_letters.retry_id is
    'the message that sent it again: outbox_status.id; null: nobody has, or a replica of a version before 20261127000001';
update outbox_dead_letters d
set retry_id = (select max(retry.id) from outbox_messages retry
                where retry.replay_of = coalesce(m.replay_of, m.id) and retry.id > m.id)
from outbox_messages m where m.id = d.outbox_id and d.resolution = 'retried';

-- A class, and what was decided, without reading all letters. They are rare, so it costs accepting and relaying nothing.
create index outbox_dead_letters_class_all on outbox_dead_letters (error_class, outbox_id);
create index outbox_dead_letters_resolution on outbox_dead_letters (resolution) where resolution is not null;

-- What the audits leave open, for people and for an alert.
create function outbox_standing_audit() returns setof outbox_audits language sql stable as $$
    select * from outbox_audits
    where id >= coalesce((select id from outbox_audits where written_from is null and written_to is null
                          order by id desc limit 1), '00000000-0000-0000-0000-000000000000')
    order by missing desc, id desc limit 1
$$;
comment on function outbox_standing_audit() is
    'the audit that counts: the newest of the whole topic, or the later one of a range that found more missing; no row: none was made';
create function outbox_missing() returns bigint language sql stable as $$
    select coalesce((select missing from outbox_standing_audit()), 0)
$$;
comment on function outbox_missing() is 'messages whose records the audit that counts found missing from the topic';
