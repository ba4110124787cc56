//! Reading a record of `image-job-topic`: a CloudEvent in binary mode that asks for a job's pictures.

use rdkafka::message::{Headers, Message};
use uuid::Uuid;

use crate::messages::{self, ImageJob};

/// The only `ce_type` that the Content Service knows.
pub const REQUEST_TYPE: &str = "image-job.requested.v1";

/// What one record asks for.
#[derive(Debug)]
pub struct Request {
    /// `ce_id`: the same in all repetitions of a request.
    pub event_id: Uuid,
    /// The value.
    pub job: ImageJob,
}

/// Why a record is none of ours: it would be unreadable each time.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A header that must be there.
    #[error("header {0} is missing or not text")]
    NoHeader(&'static str),
    /// A version of CloudEvents, or a type, that is not known.
    #[error("{header} is {value:?}, and only {known} is known")]
    Unknown {
        /// The header's name.
        header: &'static str,
        /// What it says.
        value: String,
        /// What it had to say.
        known: &'static str,
    },
    /// `ce_id` is not a UUID.
    #[error("ce_id is not a uuid")]
    NoUuid,
    /// A record that compaction would delete.
    #[error("the value is null")]
    NoValue,
    /// The value is not the JSON of the contract.
    #[error("the value is not an image job: {0}")]
    Value(#[from] serde_json::Error),
}

/// Reads a record.
pub fn read(record: &impl Message) -> Result<Request, Unreadable> {
    must_be(record, "ce_specversion", "1.0")?;
    must_be(record, "ce_type", REQUEST_TYPE)?;
    let event_id = header(record, "ce_id")?.parse().map_err(|_| Unreadable::NoUuid)?;
    let job = messages::read_value(record.payload().ok_or(Unreadable::NoValue)?)?;
    Ok(Request { event_id, job })
}

fn must_be(record: &impl Message, name: &'static str, known: &'static str) -> Result<(), Unreadable> {
    match header(record, name)? {
        value if value == known => Ok(()),
        value => Err(Unreadable::Unknown {
            header: name,
            value: value.chars().take(100).collect(),
            known,
        }),
    }
}

fn header<'a>(record: &'a impl Message, name: &'static str) -> Result<&'a str, Unreadable> {
    let found = record
        .headers()
        .and_then(|headers| headers.iter().find(|h| h.key == name)?.value);
    found
        .and_then(|bytes| str::from_utf8(bytes).ok())
        .ok_or(Unreadable::NoHeader(name))
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        Timestamp,
        message::{Header, OwnedHeaders, OwnedMessage},
    };

    use super::*;

    const VALUE: &str = r#"{"jobId": "0193a000-0000-7000-8000-000000000001", "title": "여름", "prize": null,
        "eventDraftId": "0193a000-0000-4000-8000-000000000002", "brandColor": null, "logoUrl": null,
        "storeInfo": {"phone": 12345678901234567890.10}}"#;
    const ID: &str = "0193a000-0000-7000-8000-000000000003";

    fn record(headers: &[(&str, &str)], value: Option<&str>) -> OwnedMessage {
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let value = value.map(|v| v.as_bytes().to_vec());
        OwnedMessage::new(value, None, "jobs".into(), Timestamp::NotAvailable, 0, 0, Some(headers))
    }

    #[test]
    fn a_request_is_read_and_what_is_none_says_why() {
        let good = [("ce_specversion", "1.0"), ("ce_type", REQUEST_TYPE), ("ce_id", ID)];
        let request = read(&record(&good, Some(VALUE))).unwrap();
        assert_eq!(request.event_id.to_string(), ID);
        assert_eq!(
            request.job.store_info.unwrap().get(),
            r#"{"phone": 12345678901234567890.10}"#
        );

        let refusal = |headers: &[(&str, &str)], value| read(&record(headers, value)).unwrap_err().to_string();
        assert_eq!(
            refusal(&good[1..], Some(VALUE)),
            "header ce_specversion is missing or not text"
        );
        assert_eq!(refusal(&good, None), "the value is null");
        assert_eq!(
            refusal(&[good[0], ("ce_type", "image-job.requested.v2"), good[2]], Some(VALUE)),
            "ce_type is \"image-job.requested.v2\", and only image-job.requested.v1 is known"
        );
        assert_eq!(
            refusal(&[good[0], good[1], ("ce_id", "../../etc")], Some(VALUE)),
            "ce_id is not a uuid"
        );
        let refused = refusal(&good, Some("{\"jobId\": 1}"));
        assert!(refused.starts_with("the value is not an image job: "), "{refused}");
    }
}
