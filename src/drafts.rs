//! Event drafts: the Event Service's table, which this program only reads.

use serde_json::value::RawValue;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

/// What the program reads of a row of `event_drafts`.
#[derive(Debug, Clone)]
pub struct EventDraft {
    /// The event draft's id, also the Kafka key.
    pub id: Uuid,
    /// The owner.
    pub user_id: Uuid,
    /// Empty or blank: the draft is incomplete.
    pub title: String,
    /// Free text.
    pub prize: Option<String>,
    /// As the owner wrote it, usually `#rrggbb`.
    pub brand_color: Option<String>,
    /// Not fetched by this program.
    pub logo_url: Option<String>,
    /// Exactly as PostgreSQL prints the `jsonb`: numbers keep every digit.
    pub store_info: Option<Box<RawValue>>,
    /// `None`: no AI recommendation was selected yet.
    pub selected_recommendation_id: Option<Uuid>,
}

impl EventDraft {
    /// Reads the columns of this table from a row that has them under their own names. `None` when `id` is
    /// null: an outer join found no draft.
    pub fn from_outer_row(row: &PgRow) -> sqlx::Result<Option<Self>> {
        let Some(id) = row.try_get("id")? else { return Ok(None) };
        Ok(Some(Self {
            id,
            user_id: row.try_get("user_id")?,
            title: row.try_get("title")?,
            prize: row.try_get("prize")?,
            brand_color: row.try_get("brand_color")?,
            logo_url: row.try_get("logo_url")?,
            store_info: row.try_get("store_info")?,
            selected_recommendation_id: row.try_get("selected_recommendation_id")?,
        }))
    }

    /// Whether the draft is this user's. Whose else it is, nobody is told.
    pub fn is_owned_by(&self, user_id: Uuid) -> bool {
        self.user_id == user_id
    }

    /// Whether the owner has selected an AI recommendation, without which there is nothing to render.
    pub fn has_recommendation(&self) -> bool {
        self.selected_recommendation_id.is_some()
    }

    /// Whether there is a title that a reader would see.
    pub fn has_title(&self) -> bool {
        !self.title.trim().is_empty()
    }
}
