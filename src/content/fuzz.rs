//! Records that ask for pictures, and what an owner typed into them.

use rdkafka::{
    Timestamp,
    message::{Header, OwnedHeaders, OwnedMessage},
};

use super::{
    brief::Brief,
    request::{REQUEST_TYPE, read},
};

/// A record: lines of `name: value` are its headers, and what stands behind an empty line is its value. A record that
/// is taken has a type that is known, and says the job that was understood.
pub fn request(data: &[u8]) {
    let (head, value) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], Some(data[at + 2..].to_vec())),
        None => (data, None),
    };
    let mut headers = OwnedHeaders::new();
    for line in head.split(|byte| *byte == b'\n') {
        let at = line.windows(2).position(|pair| pair == b": ").unwrap_or(line.len());
        let Ok(key) = str::from_utf8(&line[..at]) else { continue };
        // librdkafka's names are C strings.
        if !key.contains('\0') {
            let value = line.get(at + 2..);
            headers = headers.insert(Header { key, value });
        }
    }
    let record = OwnedMessage::new(value, None, "t".into(), Timestamp::NotAvailable, 0, 0, Some(headers));
    let Ok(request) = read(&record) else { return };
    let says = |text: &str| data.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(says(&format!("ce_type: {REQUEST_TYPE}")), "a type that nobody knows");
    if let Some(info) = &request.job.store_info {
        assert!(says(info.get()), "storeInfo is not what was sent");
    }
    if let Ok(brief) = Brief::new(&request.job) {
        assert!(!brief.title.is_empty());
        let texts = [&brief.prize, &brief.store].into_iter().flatten().chain(&brief.details);
        for text in texts.chain([&brief.title]) {
            assert!(!text.chars().any(char::is_control), "{text:?} would be drawn");
        }
    }
}
