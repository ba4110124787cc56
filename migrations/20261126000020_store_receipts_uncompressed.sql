-- Receipts are stored as they are. A checkpoint under load carries thousands of them, far more than fits into a row, so
-- PostgreSQL compressed each array before it put it aside: more than half of the processor time that relaying cost it,
-- for 15 bytes of WAL a message. Rows that are there stay as they are; both read the same.
insert into schema_compatibility values (20261126000020, 20261123000001);

-- Takes the table for a moment; an open report makes this give up, and `migrate` can be run again.
set local lock_timeout = '5s';
alter table outbox_checkpoints
    alter column receipt_ids set storage external,
    alter column receipt_partitions set storage external,
    alter column receipt_offsets set storage external;
