-- Where operators wait when the log is long. What is read stays the same, so a binary that does not know this runs beside
-- one that does.
insert into schema_compatibility values (20261126000030, 20261123000001);

-- Takes the view and two tables for a moment; an open report makes this give up, and `migrate` can be run again.
set local lock_timeout = '5s';

-- The receipt of a message by the index of settled ids. The planner took the newest-first order for a reason to read all
-- checkpoints from the newest on, up to the one: 60 ms a message behind 75,000 checkpoints. Nothing is ordered before the
-- few are found; and a place among thousands of receipts is looked for once. A function, because the planner believes that
-- one checkpoint in 200 has settled any id: it would have what reads the view compiled first, for a second.
create function outbox_receipt(message bigint)
    returns table (published_at timestamptz, "partition" int, "offset" bigint)
    language plpgsql stable strict rows 1 as $$
begin
    return query
    select c.created_at, c.receipt_partitions[place.n], c.receipt_offsets[place.n]
    from (select * from outbox_checkpoints where settled @> message and not isempty(settled) offset 0) c
    cross join lateral (select array_position(c.receipt_ids, message) as n offset 0) place
    where not exists (select from outbox_dead_letters d where d.outbox_id = message)
    order by c.seq desc limit 1;
end $$;
comment on function outbox_receipt(bigint) is
    'when and where a message was published; no row: it was not. partition and offset are null when it was found published without its receipt';

create or replace view outbox_status as
select m.id, m.event_id, m.job_id, i.topic, m.key::text as key,
       case when d.outbox_id is not null then 'dead'
            when m.id <@ (select outbox_settled()) then 'published'
            else 'pending' end as state,
       m.created_at, r.published_at, r.partition, r."offset", m.replay_of, m.replay_id, d.error
from outbox_messages m
cross join installation i
left join outbox_dead_letters d on d.outbox_id = m.id
left join lateral outbox_receipt(m.id) r on true;

-- Groups, and a group's letters, without reading all of them. Dead letters are rare, so it costs accepting and relaying
-- nothing.
create index outbox_dead_letters_class on outbox_dead_letters (error_class, outbox_id) where resolution is null;

-- The same of the operators' log, of which nothing is deleted.
create index operator_acts_act on operator_acts (act, id);
create index operator_acts_who on operator_acts (who, id);
