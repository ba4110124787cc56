//! Rows of `event_drafts`, as the Event Service writes them.

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// A row to be. Start from [`complete`] and change what the test is about.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: Uuid,
    pub user_id: Uuid,
    pub title: String,
    pub prize: Option<String>,
    pub brand_color: Option<String>,
    pub logo_url: Option<String>,
    pub store_info: Option<Value>,
    pub selected_recommendation_id: Option<Uuid>,
}

/// Everything that a job needs, and all optional fields.
pub fn complete(user_id: Uuid) -> Draft {
    Draft {
        id: Uuid::new_v4(),
        user_id,
        title: "Spring opening".to_owned(),
        prize: Some("A cup of coffee".to_owned()),
        brand_color: Some("#FF5733".to_owned()),
        logo_url: Some("https://example.com/logo.png".to_owned()),
        store_info: Some(json!({"name": "Café Aroma", "phone": "02-123-4567"})),
        selected_recommendation_id: Some(Uuid::new_v4()),
    }
}

/// Inserts the draft and gives its id.
pub async fn insert(pool: &PgPool, draft: &Draft) -> Uuid {
    let statement = "insert into event_drafts
        (id, user_id, title, prize, brand_color, logo_url, store_info, selected_recommendation_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8)";
    let query = sqlx::query(statement)
        .bind(draft.id)
        .bind(draft.user_id)
        .bind(&draft.title)
        .bind(&draft.prize);
    let query = query
        .bind(&draft.brand_color)
        .bind(&draft.logo_url)
        .bind(&draft.store_info);
    query
        .bind(draft.selected_recommendation_id)
        .execute(pool)
        .await
        .expect("a draft");
    draft.id
}

/// Inserts `count` complete drafts of one user.
pub async fn insert_many(pool: &PgPool, user_id: Uuid, count: usize) -> Vec<Uuid> {
    let ids: Vec<_> = (0..count).map(|_| Uuid::new_v4()).collect();
    let statement = "insert into event_drafts (id, user_id, title, selected_recommendation_id)
        select id, $2, 'Spring opening', gen_random_uuid() from unnest($1::uuid[]) id";
    sqlx::query(statement)
        .bind(&ids)
        .bind(user_id)
        .execute(pool)
        .await
        .expect("drafts");
    ids
}
