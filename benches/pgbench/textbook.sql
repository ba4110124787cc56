-- The textbook handler: one transaction a request, each statement a round trip. The draft is read and its fields
-- brought to the client, as a handler does that checks them; then the job and its message are written.
-- The ids are UUIDv7 made in the client, as the service makes them: `hi` is the time in ms, the version and
-- random bits; PostgreSQL only turns them into a uuid. The value has the bytes of the service's.
\set n random(1, :drafts)
\set tick :tick + 1
\set hi ((:ms + :tick) << 16) + 28672 + random(0, 4095)
\set job random(0, 4611686018427387903)
\set event random(0, 4611686018427387903)
begin;
select id, user_id, title, prize, brand_color, logo_url, store_info, selected_recommendation_id
from event_drafts where id = lpad(to_hex(:n::bigint), 32, '0')::uuid \gset draft_
insert into textbook_jobs (id, user_id, event_draft_id, created_at)
values ((lpad(to_hex(:hi::bigint), 16, '0') || 'a' || lpad(to_hex(:job::bigint), 15, '0'))::uuid, :draft_user_id::uuid,
        :draft_id::uuid, now());
insert into textbook_outbox (event_id, job_id, key, event_time, created_at, payload)
values ((lpad(to_hex(:hi::bigint), 16, '0') || 'b' || lpad(to_hex(:event::bigint), 15, '0'))::uuid,
        (lpad(to_hex(:hi::bigint), 16, '0') || 'a' || lpad(to_hex(:job::bigint), 15, '0'))::uuid, :draft_id::uuid, now(), now(),
        :payload::bytea);
commit;
