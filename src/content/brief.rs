//! What a job asks to be drawn, read leniently: owners fill forms in many ways.

use serde_json::Value;

use super::{color::Rgb, logo::Logo, text::clean};
use crate::messages::ImageJob;

/// Everything that a design shows. All texts are [`clean`].
#[derive(Debug, Clone)]
pub struct Brief {
    /// Never empty.
    pub title: String,
    /// What one can win.
    pub prize: Option<String>,
    /// The owner's, or [`DEFAULT_BRAND`].
    pub brand: Rgb,
    /// The store's name.
    pub store: Option<String>,
    /// Address, hours, telephone: those that there are, in this order.
    pub details: Vec<String>,
    /// The store's, if there is one that could be fetched.
    pub logo: Option<Logo>,
}

/// A brand colour that is missing or cannot be read becomes this blue.
pub const DEFAULT_BRAND: Rgb = Rgb([0x25, 0x63, 0xeb]);

/// Why there is nothing to draw, in words for the owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BriefError {
    /// It is blank, or has only emoji.
    #[error("the title has no character that can be drawn")]
    EmptyTitle,
}

impl Brief {
    /// Reads a job, without its logo: fetching an address that somebody typed is a matter of its own, see
    /// [`super::logo`].
    pub fn new(job: &ImageJob) -> Result<Self, BriefError> {
        let filled = |text: &str| Some(clean(text)).filter(|t| !t.is_empty());
        let info = job
            .store_info
            .as_ref()
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or(Value::Null);
        Ok(Self {
            title: filled(&job.title).ok_or(BriefError::EmptyTitle)?,
            prize: job.prize.as_deref().and_then(filled),
            brand: job.brand_color.as_deref().and_then(Rgb::parse).unwrap_or(DEFAULT_BRAND),
            store: info
                .as_str()
                .map(str::to_owned)
                .or_else(|| find(&info, &NAME))
                .as_deref()
                .and_then(filled),
            details: [&ADDRESS[..], &HOURS, &PHONE]
                .iter()
                .filter_map(|names| filled(&find(&info, names)?))
                .collect(),
            logo: None,
        })
    }

    /// Whether labels of ours are in Korean: as the title is.
    pub fn is_korean(&self) -> bool {
        self.title.chars().any(|c| matches!(c, '\u{ac00}'..='\u{d7a3}'))
    }

    /// The store's first letter, where a logo would be; without a store, the title's.
    pub fn initial(&self) -> String {
        let name = self.store.as_ref().unwrap_or(&self.title);
        name.chars()
            .find(|c| c.is_alphanumeric())
            .into_iter()
            .flat_map(char::to_uppercase)
            .take(1)
            .collect()
    }
}

const NAME: [&str; 8] = [
    "name",
    "storename",
    "shopname",
    "store",
    "brand",
    "상호",
    "상호명",
    "매장명",
];
const ADDRESS: [&str; 4] = ["address", "addr", "location", "주소"];
const HOURS: [&str; 4] = ["hours", "openinghours", "businesshours", "영업시간"];
const PHONE: [&str; 6] = ["phone", "tel", "telephone", "phonenumber", "전화", "전화번호"];

/// The first text or number under one of these names, whatever its case, `_`, `-` and spaces.
fn find(info: &Value, names: &[&str]) -> Option<String> {
    let plain = |key: &str| key.to_lowercase().replace(['_', '-', ' '], "");
    names.iter().find_map(|name| {
        let (_, value) = info.as_object()?.iter().find(|(key, _)| plain(key) == *name)?;
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    })
}
