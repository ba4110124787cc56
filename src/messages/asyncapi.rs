//! The AsyncAPI 3 document of the two topics, and the JSON Schema of each value, from the types themselves.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{ImageJob, ImageJobResult};

/// As committed in `docs/asyncapi.json`.
pub fn text() -> String {
    pretty(&document())
}

/// The JSON Schema of `image-job-topic`, as committed in `docs/image-job.schema.json`.
pub fn job_schema() -> String {
    pretty(&schema_of::<ImageJob>("image-job"))
}

/// The JSON Schema of `image-job-result-topic`, as committed in `docs/image-job-result.schema.json`.
pub fn result_schema() -> String {
    pretty(&schema_of::<ImageJobResult>("image-job-result"))
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON serialises");
    text.push('\n');
    text
}

fn document() -> Value {
    let mut schemas = parts_of::<ImageJob>();
    schemas.extend(parts_of::<ImageJobResult>());
    schemas.insert("ImageJob".into(), json!(ImageJob::schema()));
    schemas.insert("ImageJobResult".into(), json!(ImageJobResult::schema()));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Image job dispatcher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What the dispatcher asks the Content Service for, and what it is answered. Delivery is at least \
                once by default: deduplicate by `ce_id`.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "imageJobs": channel("image-job-topic", "kafka.topic", "ImageJob"),
            "imageJobResults": channel("image-job-result-topic", "kafka.result_topic", "ImageJobResult"),
        },
        "operations": {
            "requestImages": operation("send", "imageJobs", "ImageJob"),
            "applyResult": operation("receive", "imageJobResults", "ImageJobResult"),
        },
        "components": {
            "messages": {
                "ImageJob": {
                    "name": "image-job.requested.v1",
                    "title": "A request for three images",
                    "contentType": "application/json",
                    "headers": request_headers(),
                    "payload": {"$ref": "#/components/schemas/ImageJob"},
                    "bindings": key("eventDraftId: the jobs of one draft stay in order"),
                },
                "ImageJobResult": {
                    "name": "ImageJobResult",
                    "title": "What became of a job",
                    "contentType": "application/json",
                    "payload": {"$ref": "#/components/schemas/ImageJobResult"},
                    "bindings": key("jobId: the answers of one job stay in order"),
                },
            },
            "schemas": schemas,
        },
    })
}

fn channel(address: &str, setting: &str, message: &str) -> Value {
    json!({
        "address": address,
        "description": format!("The name is the default of `{setting}`."),
        "messages": {message: {"$ref": format!("#/components/messages/{message}")}},
    })
}

fn operation(action: &str, channel: &str, message: &str) -> Value {
    json!({
        "action": action,
        "channel": {"$ref": format!("#/channels/{channel}")},
        "messages": [{"$ref": format!("#/channels/{channel}/messages/{message}")}],
    })
}

fn key(description: &str) -> Value {
    json!({"kafka": {"key": {"type": "string", "format": "uuid", "description": description}}})
}

/// CloudEvents 1.0 in binary mode, and ours.
fn request_headers() -> Value {
    let uuid = |description: &str| json!({"type": "string", "format": "uuid", "description": description});
    json!({
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type", "outbox-id"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": uuid("One for each job; retries and replays repeat it, so deduplicate by it"),
            "ce_source": {"type": "string", "const": "/image-job-dispatcher"},
            "ce_type": {"type": "string", "const": "image-job.requested.v1"},
            "ce_time": {"type": "string", "format": "date-time", "description": "When the job was accepted"},
            "ce_subject": uuid("The job"),
            "content-type": {"type": "string", "const": "application/json"},
            "outbox-id": {"type": "string", "pattern": "^[0-9]+$", "description": "The message's row in the outbox"},
            "traceparent": {"type": "string", "description": "W3C Trace Context of the request, when it carried one"},
            "replay-id": uuid("The replay that sent the message again; only on replays"),
        },
    })
}

/// The named schemas that a type refers to.
fn parts_of<T: ToSchema>() -> Map<String, Value> {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    parts.into_iter().map(|(name, schema)| (name, json!(schema))).collect()
}

/// A schema that stands alone.
fn schema_of<T: ToSchema + PartialSchema>(name: &str) -> Value {
    let mut schema = json!(T::schema());
    let object = schema.as_object_mut().expect("a struct's schema is an object");
    object.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    object.insert("$id".into(), json!(format!("urn:image-job-dispatcher:{name}")));
    let parts = parts_of::<T>();
    if !parts.is_empty() {
        object.insert("$defs".into(), Value::Object(parts));
    }
    let text = schema.to_string().replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text).expect("only references were changed")
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    /// `UPDATE_COMMITTED=1 cargo test --lib asyncapi` writes the files anew.
    #[test]
    fn the_committed_documents_are_what_the_types_give() {
        for (name, generated) in [
            ("asyncapi.json", text()),
            ("image-job.schema.json", job_schema()),
            ("image-job-result.schema.json", result_schema()),
        ] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
            if env::var_os("UPDATE_COMMITTED").is_some() {
                fs::write(&file, &generated).unwrap();
            }
            assert!(
                fs::read_to_string(&file).unwrap_or_default() == generated,
                "docs/{name} is not what the types give"
            );
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for document in [document(), schema_of::<ImageJob>("a"), schema_of::<ImageJobResult>("b")] {
            let text = document.to_string();
            for reference in text
                .split("\"$ref\":\"#")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap())
            {
                assert!(document.pointer(reference).is_some(), "{reference}");
            }
        }
    }
}
