//! Instants as operators write them.

use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize as _, Deserializer, de::Error as _};

/// Reads an RFC 3339 instant.
///
/// # Errors
/// It is none; or its year is not from 0 to 9999, which are those of RFC 3339. chrono has others too, of which
/// PostgreSQL lacks some.
pub fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    let instant: DateTime<Utc> = text
        .parse()
        .map_err(|error| format!("{error}: give it as RFC 3339, such as 2026-01-31T09:00:00Z"))?;
    if is_in_range(instant) {
        Ok(instant)
    } else {
        Err("the year is from 0 to 9999".to_owned())
    }
}

/// Whether it is one that [`parse`] takes.
pub fn is_in_range(instant: DateTime<Utc>) -> bool {
    (0..=9999).contains(&instant.year())
}

/// [`parse`], for a field that may be absent.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse(&text)).transpose().map_err(D::Error::custom)
}
