//! Event drafts: the Event Service's table, which this program only reads.

use serde_json::value::RawValue;
use uuid::Uuid;

/// What the program reads of a row of `event_drafts`.
#[derive(Debug)]
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
