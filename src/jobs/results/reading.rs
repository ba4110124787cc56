//! What the records of a batch say.

use rdkafka::{Message as _, message::OwnedMessage};

use crate::messages::{self, ImageJobResult};

/// The records of a batch, read.
#[derive(Debug)]
pub struct Batch<'a> {
    /// In the order of the topic.
    pub answers: Vec<Answer<'a>>,
    /// Those that are no results.
    pub malformed: Vec<Aside<'a>>,
}

/// A record that is a result.
#[derive(Debug)]
pub struct Answer<'a> {
    pub record: &'a OwnedMessage,
    pub result: ImageJobResult,
}

/// A record that is to be kept out of the way.
#[derive(Debug, Clone)]
pub struct Aside<'a> {
    pub record: &'a OwnedMessage,
    pub reason: Reason,
    /// In words, which PostgreSQL's text can hold.
    pub error: String,
}

/// Why a record is put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is not a result as the contract has it.
    Malformed,
    /// Nobody has asked for the job that it answers, or the job is so old that it was dropped.
    UnknownJob,
}

impl Reason {
    /// As in `result_dead_letters` and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownJob => "unknown-job",
        }
    }
}

impl<'a> Batch<'a> {
    /// Reads all records.
    pub fn read(records: &'a [OwnedMessage]) -> Self {
        let mut batch = Self {
            answers: Vec::new(),
            malformed: Vec::new(),
        };
        for record in records {
            match read(record.payload()) {
                Ok(result) => batch.answers.push(Answer { record, result }),
                Err(error) => batch.malformed.push(Aside {
                    record,
                    reason: Reason::Malformed,
                    error,
                }),
            }
        }
        batch
    }

    /// The results alone.
    pub fn results(&self) -> Vec<&ImageJobResult> {
        self.answers.iter().map(|answer| &answer.result).collect()
    }
}

impl<'a> Answer<'a> {
    /// This record, put aside.
    pub fn aside(&self, reason: Reason, error: &str) -> Aside<'a> {
        Aside {
            record: self.record,
            reason,
            error: error.to_owned(),
        }
    }
}

/// Reads a record's value. Why it is refused is a text that PostgreSQL can hold.
pub(super) fn read(value: Option<&[u8]>) -> Result<ImageJobResult, String> {
    let result: ImageJobResult = messages::read_value(value.ok_or("the value is null")?)
        // It names what stands there, which may have a character that PostgreSQL has not.
        .map_err(|e| format!("the value is not a result: {e}").replace('\0', r"\0"))?;
    // PostgreSQL has no such character, so the record could never be applied.
    let texts = result.images.iter().map(|image| &image.url).chain(&result.error);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err("a text has the character U+0000".to_owned());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::messages::ResultStatus;

    #[test]
    fn what_is_no_result_says_why() {
        let id = Uuid::now_v7();
        let good = format!(r#"{{"jobId": "{id}", "status": "PROCESSING", "new": 1}}"#);
        let result = read(Some(good.as_bytes())).unwrap();
        assert_eq!(
            (result.job_id, result.status, result.images.len()),
            (id, ResultStatus::Processing, 0)
        );

        let refused = |text: &str| read(Some(text.as_bytes())).unwrap_err();
        assert_eq!(read(None).unwrap_err(), "the value is null");
        for text in [
            "",
            "null",
            &format!(r#"["{id}", "FAILED", [], null]"#),
            r#"{"status": "COMPLETED"}"#,
            &good.replace("PROCESSING", "PENDING"),
            &good.replace("\"new\": 1", r#""images": [{"style": "BAROQUE", "url": "x"}]"#),
        ] {
            assert!(refused(text).starts_with("the value is not a result: "), "{text}");
        }
        assert_eq!(
            refused(&good.replace("\"new\": 1", r#""error": "a\u0000b""#)),
            "a text has the character U+0000"
        );
    }

    #[test]
    fn why_a_record_is_refused_is_a_text_that_postgresql_can_hold() {
        let id = Uuid::now_v7();
        for text in [
            &format!(r#"{{"jobId": "{id}", "status": "A\u0000"}}"#),
            r#"{"jobId": "\u0000", "status": "FAILED"}"#,
            &format!(r#"{{"jobId": "{id}", "status": "COMPLETED", "images": [{{"style": "\u0000", "url": "x"}}]}}"#),
        ] {
            let error = read(Some(text.as_bytes())).unwrap_err();
            assert!(!error.contains('\0') && error.contains(r"\0"), "{text}: {error:?}");
        }
    }
}
