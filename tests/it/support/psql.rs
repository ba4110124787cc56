//! SQL as people type it.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

/// The rows of a query, as JSON.
pub async fn ask(conn: &mut PgConnection, query: &str) -> sqlx::Result<Vec<Value>> {
    let query = query.trim_end().trim_end_matches(';');
    let rows: Value = sqlx::query_scalar(AssertSqlSafe(format!(
        "select coalesce(json_agg(q), '[]') from ({query}) q"
    )))
    .fetch_one(conn)
    .await?;
    Ok(rows.as_array().expect("an array").clone())
}

/// Runs statements one after the other, as `psql` does, and gives the rows of all queries among them.
pub async fn type_in(conn: &mut PgConnection, statements: &str) -> sqlx::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for statement in statements.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
        if statement.starts_with("select") {
            rows.extend(ask(conn, statement).await?);
        } else {
            conn.execute(AssertSqlSafe(statement.to_owned())).await?;
        }
    }
    Ok(rows)
}
