-- What a replica knew only as long as it lived. A binary that does not know these columns runs beside one that does.
insert into schema_compatibility values (20261128000002, 20261123000001);

alter table installation
    add column timeline     int,             -- null: no leader has begun since this column was added
    add column record_limit bigint check (record_limit > 0); -- null: the broker has not been asked, or does not tell
comment on column installation.timeline is
    'PostgreSQL''s timeline as a leader last saw it: another one is a standby that was promoted, or a backup restored; null: no leader has begun yet';
comment on column installation.record_limit is
    'the largest record batch in bytes that `topic` takes, as a leader last saw it, for replicas that start while Kafka is away; null: not known';
