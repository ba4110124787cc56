-- The same rows in one statement, which is the whole transaction: one round trip a request.
\set n random(1, :drafts)
\set tick :tick + 1
\set hi ((:ms + :tick) << 16) + 28672 + random(0, 4095)
\set job random(0, 4611686018427387903)
\set event random(0, 4611686018427387903)
with draft as (
    select id, user_id, title, prize, brand_color, logo_url, store_info, selected_recommendation_id
    from event_drafts where id = lpad(to_hex(:n::bigint), 32, '0')::uuid and selected_recommendation_id is not null
), new_job as (
    insert into textbook_jobs (id, user_id, event_draft_id, created_at)
    select (lpad(to_hex(:hi::bigint), 16, '0') || 'a' || lpad(to_hex(:job::bigint), 15, '0'))::uuid, user_id, id, now() from draft
    returning id, event_draft_id
)
insert into textbook_outbox (event_id, job_id, key, event_time, created_at, payload)
select (lpad(to_hex(:hi::bigint), 16, '0') || 'b' || lpad(to_hex(:event::bigint), 15, '0'))::uuid, id, event_draft_id, now(), now(),
       :payload::bytea
from new_job;
