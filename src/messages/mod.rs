//! The values of the two Kafka topics, as plain types: what the dispatcher asks for, and what the Content
//! Service answers. `dispatcher asyncapi` describes both topics from these types.

pub mod asyncapi;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

/// Reads a value of one of the topics.
///
/// # Errors
/// It is not the JSON of the contract; an array of the members in their order, which the derived readers take, included.
pub fn read_value<T: DeserializeOwned>(value: &[u8]) -> serde_json::Result<T> {
    if value.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("an array, and an object was expected"));
    }
    serde_json::from_slice(value)
}

/// A request for three images: the value of `image-job-topic`. All seven members are always present; an
/// absent value is null.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageJob {
    /// The job.
    pub job_id: Uuid,
    /// The event draft that it was made from; its text is the record's key.
    pub event_draft_id: Uuid,
    /// Never blank.
    pub title: String,
    /// What one can win, as free text.
    #[schema(required)]
    pub prize: Option<String>,
    /// As the owner wrote it, usually `#rrggbb`; not checked.
    #[schema(required)]
    pub brand_color: Option<String>,
    /// As the owner wrote it; not checked. Do not fetch it without an allow-list: it may point into a
    /// private network.
    #[schema(required)]
    pub logo_url: Option<String>,
    /// Any JSON, as the owner's `jsonb` holds it.
    #[schema(required, value_type = Option<serde_json::Value>)]
    pub store_info: Option<Box<RawValue>>,
}

/// What became of a job: the value of `image-job-result-topic`. A job is answered with PROCESSING first and
/// with COMPLETED or FAILED last; any of them can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageJobResult {
    /// The job; its text is the record's key.
    pub job_id: Uuid,
    /// How far the job is.
    pub status: ResultStatus,
    /// With COMPLETED, one for each style; else empty.
    #[serde(default)]
    #[schema(required)]
    pub images: Vec<Image>,
    /// With FAILED, the reason, in words for the owner; else null.
    #[serde(default)]
    #[schema(required)]
    pub error: Option<String>,
}

/// How far a job is with the Content Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ResultStatus {
    /// The Content Service has begun.
    Processing,
    /// Final: there are images.
    Completed,
    /// Final: there is an error.
    Failed,
}

impl ResultStatus {
    /// As it is written in JSON and in `job_results`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "PROCESSING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }
}

/// One image of a completed job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Which of the three designs.
    pub style: ImageStyle,
    /// Where the image is: an absolute URL.
    pub url: String,
}

/// The three designs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ImageStyle {
    /// 심플: much white, one accent.
    Simple,
    /// 화려한: dark, gold, ornaments.
    Fancy,
    /// 트렌디: loud colours, large shapes.
    Trendy,
}

impl ImageStyle {
    /// In the order in which they are made and shown.
    pub const ALL: [Self; 3] = [Self::Simple, Self::Fancy, Self::Trendy];

    /// In lower case: part of an image's file name and URL.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fancy => "fancy",
            Self::Trendy => "trendy",
        }
    }
}
