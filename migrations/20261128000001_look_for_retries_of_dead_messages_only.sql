-- Who reads a job's state needs no partition of the outbox unless its message is dead. New only: a binary that does not know
-- this runs beside one that does.
insert into schema_compatibility values (20261128000001, 20261123000001);

-- A function, because a statement opens and locks every partition of a table that it names, also where it never comes to
-- look into it: a read of one job took 4 ms behind 600 partitions.
create function outbox_newest_retry(dead bigint) returns bigint language plpgsql stable strict as $$
begin
    return greatest((select retry_id from outbox_dead_letters where outbox_id = dead),
                    (select max(id) from outbox_messages where replay_of = dead));
end $$;
comment on function outbox_newest_retry(bigint) is
    'the newest message that sends a dead one again; null: none does';
