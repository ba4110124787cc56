//! The sample drafts: fixed ids, so that the printed `curl` lines stay good.

use anyhow::Result;
use sqlx::PgConnection;
use uuid::{Uuid, uuid};

/// The user whose token is printed.
pub(super) const ALICE: Uuid = uuid!("a11ce000-0000-4000-8000-000000000001");
const BOB: Uuid = uuid!("b0b00000-0000-4000-8000-000000000002");
/// Alice's, ready to go.
pub(super) const READY: Uuid = uuid!("d4af7000-0000-4000-8000-000000000001");
/// Bob's, ready to go.
pub(super) const OF_BOB: Uuid = uuid!("d4af7000-0000-4000-8000-000000000002");
/// Alice's, and no recommendation is selected.
pub(super) const WITHOUT_RECOMMENDATION: Uuid = uuid!("d4af7000-0000-4000-8000-000000000003");

/// Inserts those that are missing.
pub(super) async fn insert(conn: &mut PgConnection) -> Result<()> {
    let recommendation = Some(uuid!("5e1ec7ed-0000-4000-8000-000000000001"));
    let drafts = [
        (READY, ALICE, "Spring opening: a cup for every guest", recommendation),
        (OF_BOB, BOB, "Bob's book fair", recommendation),
        (WITHOUT_RECOMMENDATION, ALICE, "Summer evening, undecided", None),
    ];
    for (id, user, title, recommendation) in drafts {
        sqlx::query(
            r#"insert into event_drafts
                   (id, user_id, title, prize, brand_color, logo_url, store_info, selected_recommendation_id)
               values ($1, $2, $3, 'A cup of coffee', '#FF5733', 'https://example.com/logo.png',
                       '{"name": "Café Aroma", "address": "1 Market Street", "phone": "02-123-4567"}', $4)
               on conflict (id) do nothing"#,
        )
        .bind(id)
        .bind(user)
        .bind(title)
        .bind(recommendation)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
