//! What the commands print for programs is what the OpenAPI document says of the same things over HTTP.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{insert_messages, kill, run};
use crate::support::{Stage, app::dispatcher, document, drafts, token_for};

/// Commands that print a document whatever is asked for, or run until they are stopped.
const WITHOUT_ROWS: [&str; 5] = ["asyncapi", "completions", "openapi", "serve", "start-dev"];

/// The document's schemas, each with all that it names required: what is null is there, too.
fn schemas() -> Value {
    fn require(schema: &mut Value) {
        if let Some(properties) = schema["properties"].as_object() {
            schema["required"] = json!(properties.keys().collect::<Vec<_>>());
        }
        if let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) {
            parts.iter_mut().for_each(require);
        }
    }
    let mut document: Value = serde_json::from_str(&document::read("docs/openapi.json")).expect("JSON");
    let schemas = document["components"]["schemas"].as_object_mut().expect("schemas");
    schemas.values_mut().for_each(require);
    json!({ "schemas": document["components"]["schemas"].take() })
}

/// `shape` is a schema of the document, or one of its own.
fn validator(schemas: &Value, shape: &Value, rows: bool) -> jsonschema::Validator {
    let one = if let Some(name) = shape.as_str() {
        json!({"$ref": format!("#/components/schemas/{name}"), "unevaluatedProperties": false})
    } else {
        let names: Vec<_> = shape.as_object().expect("properties").keys().collect();
        json!({"type": "object", "properties": shape, "required": names, "additionalProperties": false})
    };
    let mut schema = if rows {
        json!({"type": "array", "items": one, "minItems": 1})
    } else {
        one
    };
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["components"] = schemas.clone();
    jsonschema::validator_for(&schema).expect("a schema")
}

/// All commands, as the help texts name them.
async fn commands(stage: &Stage) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![String::new()];
    while let Some(command) = open.pop() {
        let words: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let help = String::from_utf8(stage.run(&words).await.stdout).expect("UTF-8");
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names: Vec<_> = listed
            .take_while(|line| !line.is_empty())
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .collect();
        // A command that has some of its own, and does something without them.
        if names.is_empty() || command == "audit" {
            found.insert(command.clone());
        }
        open.extend(names.iter().map(|name| format!("{command} {name}").trim().to_owned()));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_the_json_that_the_openapi_document_describes() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let (user, draft) = (
        Uuid::new_v4(),
        drafts::insert(&stage.pool, &drafts::complete(Uuid::nil())).await,
    );
    sqlx::query("update event_drafts set user_id = $1 where id = $2")
        .bind(user)
        .bind(draft)
        .execute(&stage.pool)
        .await
        .expect("its owner");
    let job = app.accept(draft, &token_for(user)).await;
    for _ in 0..2 {
        app.accept(draft, &token_for(user)).await;
    }
    stage.records(3).await;
    stage.drained().await;
    app.term_and_wait().await;
    // Nobody leads from here on, so that what is dead or is being sent again stays so.
    let dead = insert_messages(&stage.pool, 4, &[draft], user).await;
    kill(&stage.pool, &dead, "invalid-record").await;
    let first: i64 = sqlx::query_scalar("select outbox_id from jobs where id = $1")
        .bind(job)
        .fetch_one(&stage.pool)
        .await
        .expect("its message");
    let (first, job, given_up) = (first.to_string(), job.to_string(), dead[0].to_string());

    let why = ["--reason", "a test", "--yes"];
    let operation = ["--operation-id", "an-operation"];
    let (text, someone) = (json!({"type": "string"}), user.to_string());
    let create = ["replay", "create", "--job", &job, "--rate", "1"];
    // In this order: each acts on what those before it left.
    let asked: Vec<(&str, Vec<&str>, bool, Value)> = vec![
        ("outbox list", vec![], true, json!("MessageStatus")),
        ("outbox show", vec![&*given_up], false, json!("MessageLife")),
        ("outbox show", vec![&*first], false, json!("MessageLife")),
        ("outbox stats", vec![], false, json!("Stats")),
        ("dead list", vec![], true, json!("DeadLetter")),
        ("dead list", vec!["--group"], true, json!("DeadGroup")),
        (
            "dead retry",
            [&["--class", "invalid-record"][..], &why].concat(),
            false,
            json!("Retried"),
        ),
        ("dead list", vec!["--resolved"], true, json!("DeadLetter")),
        (
            "dead discard",
            [&[&*given_up][..], &why].concat(),
            false,
            json!("Discarded"),
        ),
        (
            "replay create",
            [&create[2..], &["--dry-run"], &why].concat(),
            false,
            json!("Previewed"),
        ),
        (
            "replay create",
            [&create[2..], &operation, &why].concat(),
            false,
            json!("Replay"),
        ),
        ("replay list", vec![], true, json!("Replay")),
        ("replay pause", vec!["an-operation", "--yes"], false, json!("Replay")),
        ("replay resume", vec!["an-operation", "--yes"], false, json!("Replay")),
        ("replay cancel", vec!["an-operation", "--yes"], false, json!("Replay")),
        ("replay show", vec!["an-operation"], false, json!("Replay")),
        ("pause", why.to_vec(), false, json!("PauseOutcome")),
        ("outbox stats", vec![], false, json!("Stats")),
        ("pause", why.to_vec(), false, json!("PauseOutcome")),
        ("resume", vec!["--yes"], false, json!("ResumeOutcome")),
        ("audit", vec![], false, json!("Audited")),
        ("audit list", vec![], true, json!("JudgedAudit")),
        ("retain", vec!["--dry-run"], true, json!("Gone")),
        ("retain", why.to_vec(), true, json!("Gone")),
        ("acts", vec![], true, json!("RecordedAct")),
        (
            "migrate",
            vec![],
            false,
            json!({"database": text, "version": {"type": "integer"}}),
        ),
        ("token", vec!["--user", &*someone], false, json!({"token": text})),
        (
            "config check",
            vec![],
            false,
            json!({"ok": {"const": true}, "notes": {"type": "array", "items": text}}),
        ),
        (
            "config show",
            vec![],
            true,
            json!({"key": text, "value": text, "source": text}),
        ),
        (
            "doctor",
            vec![],
            true,
            json!({"status": {"enum": ["ok", "warn", "fail"]}, "check": text, "found": text, "advice": {"type": ["string", "null"]}}),
        ),
    ];
    let schemas = schemas();
    let mut shown = BTreeSet::new();
    let mut audit = String::new();
    for (command, arguments, rows, shape) in &asked {
        let words: Vec<_> = command.split(' ').chain(arguments.iter().copied()).collect();
        let ran = run(&stage, &words).await;
        assert!([0, 5].contains(&ran.code), "{command}: {ran:?}");
        let printed = ran.any_json();
        if let Err(error) = validator(&schemas, shape, *rows).validate(&printed) {
            panic!("{words:?}: {error} at {}: {printed}", error.instance_path());
        }
        if *command == "audit" {
            printed["id"].as_str().expect("an id").clone_into(&mut audit);
        }
        shown.insert((*command).to_owned());
    }
    let ran = run(&stage, &["audit", "show", &audit]).await;
    assert!(
        validator(&schemas, &json!("Audited"), false).is_valid(&ran.json()),
        "{ran:?}"
    );
    shown.insert("audit show".to_owned());
    run(&stage, &["audit", "show", &Uuid::nil().to_string()])
        .await
        .failed(4, "there is no audit");

    // What streams has its own tests (streams.rs); here, that a line of it is the row of a list.
    let exported = stage.run(&["outbox", "export", "--format", "ndjson"]).await;
    let exported = String::from_utf8(exported.stdout).expect("UTF-8");
    let lines: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(
        validator(&schemas, &json!("MessageStatus"), true).is_valid(&json!(lines)),
        "{exported}"
    );
    shown.insert("outbox export".to_owned());
    let mut tail = dispatcher(&stage.environment())
        .args(["outbox", "tail", "--after", "0", "--output", "ndjson"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut tailed = String::new();
    BufReader::new(tail.stdout.take().expect("a pipe"))
        .read_line(&mut tailed)
        .expect("a line");
    tail.kill().expect("its end");
    tail.wait().expect("a status");
    let line: Value = serde_json::from_str(&tailed).expect("JSON");
    assert!(
        validator(&schemas, &json!("MessageStatus"), false).is_valid(&line),
        "{tailed}"
    );
    shown.insert("outbox tail".to_owned());

    shown.extend(WITHOUT_ROWS.map(str::to_owned));
    assert_eq!(shown, commands(&stage).await);
}
