use reqwest::Method;
use uuid::Uuid;

use super::Desk;
use crate::operate::{insert_messages, kill, settle};

#[tokio::test(flavor = "multi_thread")]
async fn an_export_over_http_is_the_command_s_to_the_byte_and_is_sent_while_it_is_read() {
    let desk = Desk::new().await;
    let stage = &desk.stage;
    // More than two pages.
    let drafts = [Uuid::new_v4(), Uuid::new_v4()];
    let all = insert_messages(&stage.pool, 2_300, &drafts, Uuid::new_v4()).await;
    settle(&stage.pool, &all[..2_000]).await;
    kill(&stage.pool, &all[2_000..2_001], "invalid-record").await;
    sqlx::query("update outbox_dead_letters set error = '=cmd|'' /C calc''!A0'")
        .execute(&stage.pool)
        .await
        .expect("an error text");
    let get = async |path: &str| {
        let request = desk.request(Method::GET, &format!("/admin/api/messages/export/{path}"));
        let answer = request.bearer_auth(&desk.viewer).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        answer
    };
    let command = async |more: &[&str]| {
        let output = stage.run(&[&["outbox", "export"], more].concat()).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };

    let csv = get("csv").await;
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8");
    assert_eq!(
        csv.headers()["content-disposition"],
        "attachment; filename=\"messages.csv\""
    );
    assert!(csv.content_length().is_none(), "its length is not known beforehand");
    let csv = csv.text().await.expect("text");
    assert_eq!(csv.lines().count(), 2_301);
    assert!(csv.contains(",'=cmd|' /C calc'!A0\n"), "a formula is text");
    assert_eq!(csv, command(&[]).await);

    let draft = drafts[0].to_string();
    let ndjson = get(&format!("ndjson?state=published&draft={draft}")).await;
    assert_eq!(ndjson.headers()["content-type"], "application/x-ndjson");
    let ndjson = ndjson.text().await.expect("text");
    assert_eq!(ndjson.lines().count(), 1_000);
    let filter = ["--format", "ndjson", "--state", "published", "--draft", &draft];
    assert_eq!(ndjson, command(&filter).await);

    let nothing = get(&format!("csv?draft={}", Uuid::nil()))
        .await
        .text()
        .await
        .expect("text");
    assert_eq!(nothing.lines().count(), 1, "the names of the columns: {nothing}");
}
