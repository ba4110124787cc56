//! Pictures in a bucket of S3-compatible storage instead of a directory.

use std::os::unix::fs::MetadataExt as _;

use uuid::Uuid;

use crate::support::{
    PATIENCE, Stage,
    content::{ContentService, status_of},
    eventually, http_client,
    s3::{BUCKET, S3Server, files_below},
};

async fn on(stage: &Stage, s3: &S3Server) -> ContentService {
    let endpoint = s3.endpoint();
    ContentService::on(stage).await.with_arguments(&[
        "--s3-bucket",
        BUCKET,
        "--s3-endpoint",
        &endpoint,
        "--s3-prefix",
        "/made/here/",
        "--list-jobs",
    ])
}

/// The objects of a job by name, with inode and time of change: one that was written again has others.
fn objects(s3: &S3Server, job_id: Uuid) -> Vec<(String, u64, i64)> {
    let of_job = s3.objects().join("made/here").join(job_id.to_string());
    files_below(&of_job)
        .into_iter()
        .map(|path| {
            let about = path.metadata().expect("a file");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, about.ino(), about.mtime_nsec())
        })
        .collect()
}

#[tokio::test]
async fn pictures_are_kept_in_a_bucket_once_and_served_from_it() {
    let (stage, s3) = (Stage::new().await, S3Server::start().await);
    let mut content = on(&stage, &s3).await.with_environment(&S3Server::credentials());
    content.start();
    let (event_id, job_id) = (Uuid::now_v7(), Uuid::now_v7());
    content.request(event_id, job_id, "여름 신메뉴").await;
    let answers = content
        .results("two answers", PATIENCE, |records| records.len() >= 2)
        .await;
    assert_eq!(status_of(&answers[1]), "COMPLETED", "{}", content.log());

    let made = objects(&s3, job_id);
    let names: Vec<_> = made.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(
        names,
        ["event-id", "fancy.png", "result.json", "simple.png", "trendy.png"]
    );
    let http = http_client();
    for image in answers[1].json()["images"].as_array().expect("images") {
        let url = image["url"].as_str().expect("a url");
        let answer = http.get(url).send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "image/png");
        let name = url.rsplit('/').next().expect("a name");
        let object = s3.objects().join("made/here").join(job_id.to_string()).join(name);
        assert_eq!(
            answer.bytes().await.expect("a picture"),
            std::fs::read(object).expect("the object")
        );
    }
    let newest = http.get(content.url()).send().await.unwrap().text().await.unwrap();
    assert_eq!(newest.matches("<img ").count(), 3, "{newest}");

    // Killed, started again, asked again: the answer is found in the bucket.
    content.kill();
    content.start();
    content.request(event_id, job_id, "여름 신메뉴").await;
    let answers = content
        .results("the answer again", PATIENCE, |records| records.len() >= 3)
        .await;
    assert_eq!(answers[2].value, answers[1].value);
    assert_eq!(objects(&s3, job_id), made, "nothing was written again");
}

#[tokio::test]
async fn a_bucket_that_refuses_holds_the_job_up_and_fails_it_not() {
    let (stage, s3) = (Stage::new().await, S3Server::start().await);
    let mut wrong = on(&stage, &s3).await.with_environment(&[
        ("AWS_ACCESS_KEY_ID", "a-key-id"),
        ("AWS_SECRET_ACCESS_KEY", "not the secret"),
        ("AWS_REGION", "eu-central-1"),
    ]);
    let job_id = Uuid::now_v7();
    wrong.request(Uuid::now_v7(), job_id, "가을").await;
    wrong.start();
    eventually("the log says what is wrong", PATIENCE, async || {
        let log = wrong.log();
        let says =
            log.contains("the pictures cannot be kept now; trying again") && log.contains("SignatureDoesNotMatch");
        if says { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(!wrong.log().contains("not the secret"), "a secret is in no log");
    wrong.kill();

    let mut right = wrong.beside("one").with_environment(&S3Server::credentials());
    right.start();
    let answers = right
        .results("the job is completed", PATIENCE, |records| {
            records.iter().any(|record| status_of(record) == "COMPLETED")
        })
        .await;
    assert!(answers.iter().all(|record| status_of(record) != "FAILED"));
}
