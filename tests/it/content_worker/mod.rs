//! `content-worker`: what becomes of one record, and of many while it is killed.

mod bucket;
mod group;
mod listener;
mod nasty;

use std::{
    collections::{BTreeMap, HashSet},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    PATIENCE, Stage,
    content::{ContentService, status_of},
    eventually, http_client,
};

/// Jobs that the worker has while it is killed [`KILLS`] times.
const JOBS: usize = 60;
const KILLS: usize = 20;

#[test]
fn the_type_that_the_worker_knows_is_the_one_that_is_sent() {
    use image_job_dispatcher::{content::request::REQUEST_TYPE, outbox::record::EVENT_TYPE};
    assert_eq!(REQUEST_TYPE, EVENT_TYPE);
}

#[tokio::test]
async fn a_request_is_answered_with_three_pictures_and_a_repeat_with_the_same_ones() {
    let stage = Stage::new().await;
    let mut content = ContentService::on(&stage).await;
    content.start();
    let (event_id, job_id) = (Uuid::now_v7(), Uuid::now_v7());
    content.request(event_id, job_id, "여름 신메뉴 🎉").await;
    let answers = content
        .results("two answers", PATIENCE, |records| records.len() >= 2)
        .await;
    assert_eq!(
        answers.iter().map(status_of).collect::<Vec<_>>(),
        ["PROCESSING", "COMPLETED"]
    );
    assert_eq!(answers[1].key, job_id.to_string());

    let answer = answers[1].json();
    let styles: Vec<_> = answer["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| &image["style"])
        .collect();
    assert_eq!(styles, ["SIMPLE", "FANCY", "TRENDY"]);
    let http = http_client();
    for image in answer["images"].as_array().unwrap() {
        let answer = http.get(image["url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"image/png".parse().unwrap())
        );
        let png = answer.bytes().await.unwrap();
        // IHDR: width and height stand at 16 and 20.
        assert_eq!(
            [&png[16..20], &png[20..24]].map(|n| u32::from_be_bytes(n.try_into().unwrap())),
            [1200, 628]
        );
    }
    let page = http
        .get(format!("{}/{job_id}", content.url()))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(page.matches("<img ").count(), 3, "{page}");
    for path in [
        "nothing",
        &format!("{job_id}/..%2f..%2fCargo.toml"),
        &Uuid::new_v4().to_string(),
    ] {
        let answer = http.get(format!("{}/{path}", content.url())).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
    }

    let made = files(content.directory());
    content.request(event_id, job_id, "여름 신메뉴 🎉").await;
    let answers = content
        .results("the answer again", PATIENCE, |records| records.len() >= 3)
        .await;
    assert_eq!(answers[2].value, answers[1].value);
    assert_eq!(files(content.directory()), made, "the pictures were made once");
}

#[tokio::test]
async fn an_unreadable_record_is_put_aside_and_the_group_moves_on() {
    let stage = Stage::new().await;
    let mut content = ContentService::on(&stage).await;
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", "no-uuid"),
        ("ce_type", "image-job.requested.v1"),
    ];
    content.send(&stage.topic, "a key", "{not json", &headers).await;
    content.send(&stage.topic, "a key", "{}", &headers[1..]).await;
    let job_id = Uuid::now_v7();
    content.request(Uuid::now_v7(), job_id, "🎉🎉").await;
    content.start();

    let failed = content
        .results("the readable one's answer", PATIENCE, |records| records.len() >= 2)
        .await;
    let failed = failed[1].json();
    let reason = "the title has no character that can be drawn";
    assert_eq!(
        failed,
        json!({"jobId": job_id, "status": "FAILED", "images": [], "error": reason})
    );

    let dead = content.dead_letters(2).await;
    let first = dead
        .iter()
        .find(|record| record.value == b"{not json")
        .expect("its own value");
    assert_eq!((first.key.as_str(), first.header("ce_id")), ("a key", "no-uuid"));
    assert_eq!(first.header("dead-letter-topic"), stage.topic);
    assert_eq!(first.header("dead-letter-error"), "ce_id is not a uuid");
    assert_eq!(first.header("dead-letter-offset"), "0");
    assert!(first.header("dead-letter-partition").parse::<i32>().is_ok());

    assert!(content.term().await.success());
    content.start();
    content.request(Uuid::now_v7(), Uuid::now_v7(), "again").await;
    content
        .results("only the new one's answers", PATIENCE, |records| records.len() >= 4)
        .await;
    assert_eq!(
        content.dead_letters(2).await.len(),
        2,
        "what was committed is not read again"
    );
}

#[tokio::test]
async fn killed_again_and_again_under_load_it_completes_every_job_and_makes_its_pictures_once() {
    let stage = Stage::new().await;
    let mut content = ContentService::on(&stage).await;
    let jobs: Vec<_> = (0..JOBS).map(|_| Uuid::now_v7()).collect();
    for job_id in &jobs {
        content.request(Uuid::now_v7(), *job_id, "부하 시험").await;
    }
    // What is there when the worker dies must be there unchanged at the end.
    let mut made = BTreeMap::new();
    for kill in 0..KILLS {
        content.start();
        let done = files(content.directory()).len();
        eventually("some more pictures", PATIENCE, async || {
            let now = files(content.directory()).len();
            (now > done || now == 3 * JOBS)
                .then_some(())
                .ok_or(format!("{now} at kill {kill}"))
        })
        .await;
        content.kill();
        for (path, file) in files(content.directory()) {
            let first = made.entry(path.clone()).or_insert(file);
            assert_eq!(*first, file, "{path} was made twice");
        }
    }
    content.start();
    let answers = content
        .results("every job completed", Duration::from_mins(2), |records| {
            let done = records.iter().filter(|r| status_of(r) == "COMPLETED").map(|r| &r.key);
            done.collect::<HashSet<_>>().len() == JOBS
        })
        .await;
    let last = files(content.directory());
    assert_eq!(last.len(), 3 * JOBS);
    assert!(
        made.iter().all(|(path, file)| last.get(path) == Some(file)),
        "a picture was replaced"
    );
    for job_id in jobs {
        let key = job_id.to_string();
        let finals: HashSet<_> = answers
            .iter()
            .filter(|r| r.key == key && status_of(r) != "PROCESSING")
            .map(|r| &r.value)
            .collect();
        assert_eq!(finals.len(), 1, "one final answer of {key}, however often");
    }
    assert!(content.term().await.success());
}

/// The finished pictures by path, with inode and time of change: a file that was written again has others.
fn files(directory: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for job in std::fs::read_dir(directory).unwrap().flatten() {
        if job.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        for file in std::fs::read_dir(job.path()).unwrap().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|kind| kind == "png") {
                let about = file.metadata().unwrap();
                found.insert(
                    path.display().to_string(),
                    (about.ino(), about.mtime(), about.mtime_nsec()),
                );
            }
        }
    }
    found
}
