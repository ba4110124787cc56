//! What the user of `database.url` may do: each statement of the service needs its right.

use sqlx::PgConnection;

use super::Finding;

/// Tables, and what is done with them, in the words of `grant`.
const RIGHTS: [(&str, &str); 14] = [
    ("jobs", "select,insert"),
    ("job_results", "select,insert"),
    ("idempotency_keys", "select,insert,delete"),
    ("outbox_messages", "select,insert"),
    ("outbox_checkpoints", "select,insert"),
    ("outbox_dead_letters", "select,insert,update"),
    ("outbox_replays", "select,insert,update"),
    ("outbox_control", "select,update"),
    ("installation", "select,update"),
    ("result_dead_letters", "select,insert,delete"),
    ("outbox_audits", "select,insert,delete"),
    ("outbox_audit_findings", "select,insert"),
    ("operator_acts", "select,insert"),
    ("schema_compatibility", "select"),
];
/// Tables whose partitions come and go: only an owner attaches and drops them.
const PARTITIONED: [&str; 4] = ["jobs", "job_results", "outbox_messages", "outbox_checkpoints"];

/// `event_drafts` has a check of its own.
pub(super) async fn check(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    const CHECK: &str = "schema.permissions";
    let (tables, rights): (Vec<_>, Vec<_>) = RIGHTS.iter().copied().unzip();
    // A table that is missing is no question of rights: `to_regclass` is null then, and so is the answer.
    let missing: Vec<String> = sqlx::query_scalar(
        "select format('%s on %s', verb, name)
         from unnest($1::text[], $2::text[]) t (name, verbs), unnest(string_to_array(verbs, ',')) verb
         where not has_table_privilege(to_regclass(name), verb)
         union all
         select format('ownership of %s', c.relname) from pg_class c
         where c.oid in (select to_regclass(name) from unnest($3::text[]) name) and not pg_has_role(c.relowner, 'usage')
         union all
         select 'usage on the sequence outbox_messages_id_seq'
         where not has_sequence_privilege(to_regclass('outbox_messages_id_seq'), 'usage')
         union all
         select format('create on the schema %s', current_schema())
         where not has_schema_privilege(current_schema(), 'create')",
    )
    .bind(tables)
    .bind(rights)
    .bind(PARTITIONED.as_slice())
    .fetch_all(&mut *conn)
    .await?;
    let user: String = sqlx::query_scalar("select current_user::text").fetch_one(conn).await?;
    Ok(vec![if missing.is_empty() {
        Finding::ok(CHECK, format!("{user} may do all that the service does"))
    } else {
        Finding::fail(
            CHECK,
            format!(
                "{user} lacks {}: jobs are refused, wait, or partitions are not made",
                missing.join(", ")
            ),
            format!("run the service as the user who ran `dispatcher migrate`, or make {user} a member of that role"),
        )
    }])
}
