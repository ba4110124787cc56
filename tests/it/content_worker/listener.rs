//! Its listener stands in one process with the work: what it holds is bounded, and what it shows is what was asked for.

use std::time::Instant;

use futures_util::future::join_all;
use image_job_dispatcher::content::pages::{HEAD_TIMEOUT, MOST_CONNECTIONS};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use uuid::Uuid;

use crate::support::{
    PATIENCE, Stage,
    content::{ContentService, status_of},
    http_client,
};

/// What the worker has beside those of its listener.
const OTHER_DESCRIPTORS: usize = 128;

#[tokio::test]
async fn idle_connections_are_closed_and_keep_no_job_from_its_answer() {
    let stage = Stage::new().await;
    let all = MOST_CONNECTIONS + OTHER_DESCRIPTORS;
    let mut content = ContentService::on(&stage).await.with_descriptors(all);
    content.start();
    content.request(Uuid::now_v7(), Uuid::now_v7(), "가을").await;
    content
        .results("it is at work", PATIENCE, |records| records.len() >= 2)
        .await;

    let address = content.url().replace("http://", "");
    let began = Instant::now();
    let mut first = TcpStream::connect(&address).await.expect("a connection");
    let closed = tokio::spawn(async move {
        let read = timeout(PATIENCE, first.read(&mut [0])).await;
        (read.expect("an idle connection is closed").ok(), began.elapsed())
    });
    // More than there are descriptors: some of them wait in the kernel.
    let idle = join_all((0..all).map(|_| TcpStream::connect(&address))).await;
    assert!(idle.iter().all(Result::is_ok));
    let job_id = Uuid::now_v7();
    content.request(Uuid::now_v7(), job_id, "겨울").await;
    let answers = content
        .results("a job is answered meanwhile", PATIENCE, |records| records.len() >= 4)
        .await;
    assert_eq!(status_of(&answers[3]), "COMPLETED", "{}", content.log());
    let (read, after) = closed.await.expect("it was read");
    assert_eq!(read, Some(0));
    assert!(after < 2 * HEAD_TIMEOUT, "{after:?}");

    drop(idle);
    let picture = format!("{}/{job_id}/simple.png", content.url());
    let answer = http_client().get(picture).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    assert!(content.term().await.success());
}

#[tokio::test]
async fn all_jobs_are_shown_only_where_that_was_asked_for_and_one_to_whoever_knows_its_id() {
    let stage = Stage::new().await;
    let mut content = ContentService::on(&stage).await;
    content.start();
    let job_id = Uuid::now_v7();
    content.request(Uuid::now_v7(), job_id, "가을").await;
    content
        .results("two answers", PATIENCE, |records| records.len() >= 2)
        .await;
    let http = http_client();
    let got = async |path: &str| {
        let answer = http.get(format!("{}/{path}", content.url())).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.bytes().await.expect("its body"))
    };
    let (status, body) = got("").await;
    assert_eq!(status, 404);
    assert!(!String::from_utf8_lossy(&body).contains(&job_id.to_string()));
    for path in [format!("{job_id}"), format!("{job_id}/simple.png")] {
        assert_eq!(got(&path).await.0, 200, "{path}");
    }
}
