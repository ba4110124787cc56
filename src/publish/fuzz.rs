//! Records of the topic, which others can write to as well.

use rdkafka::{
    Timestamp,
    message::{Header, OwnedHeaders, OwnedMessage},
};

use super::reader::identify;

/// Two headers, a line each: what is taken for an id of ours is one.
pub fn record(data: &[u8]) {
    let (outbox_id, event_id) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let event_id = event_id.strip_prefix(b"\n").unwrap_or(event_id);
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    let headers = OwnedHeaders::new()
        .insert(header("outbox-id", outbox_id))
        .insert(header("ce_id", event_id));
    let record = OwnedMessage::new(None, None, "t".into(), Timestamp::NotAvailable, 0, 0, Some(headers));
    let (id, event) = identify(&record);
    if let Some(id) = id {
        let text = str::from_utf8(outbox_id).expect("it was read");
        let digits = text.trim_start_matches(['+', '-']).trim_start_matches('0');
        assert_eq!(id.unsigned_abs().to_string().trim_start_matches('0'), digits);
    }
    if let Some(event) = event {
        let text = str::from_utf8(event_id).expect("it was read").to_ascii_lowercase();
        let digits: String = text
            .strip_prefix("urn:uuid:")
            .unwrap_or(&text)
            .chars()
            .filter(char::is_ascii_hexdigit)
            .collect();
        assert_eq!(event.simple().to_string(), digits);
    }
}
