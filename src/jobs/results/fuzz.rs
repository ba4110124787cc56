//! Records of the result topic, which anybody who may write to it writes.

use serde_json::Value;

use super::reading::read;

/// A record's value: a result that is taken has a status that is known, fits into PostgreSQL, and says no more and no
/// less than the record. Why another is refused fits, too.
pub fn result(data: &[u8]) {
    let result = match read(Some(data)) {
        Ok(result) => result,
        Err(error) => {
            assert!(!error.contains('\0'), "PostgreSQL's text cannot hold why: {error:?}");
            return;
        }
    };
    // What nobody reads may be half a character, `"\ud800"`, which a whole value may not have.
    let Ok(said) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    assert!(["PROCESSING", "COMPLETED", "FAILED"].contains(&result.status.as_str()));
    assert_eq!(said["status"], result.status.as_str());
    assert_eq!(said["error"].as_str(), result.error.as_deref());
    assert_eq!(said["images"].as_array().map_or(0, Vec::len), result.images.len());
    for image in &result.images {
        assert!(!image.url.contains('\0'), "PostgreSQL's text cannot hold it");
    }
    assert!(!result.error.as_ref().is_some_and(|error| error.contains('\0')));
    let printed = serde_json::to_vec(&result).expect("plain types");
    assert_eq!(read(Some(&printed)).expect("it is a result"), result);
}
