use serde_json::{Value, json};
use uuid::Uuid;

use super::Desk;
use crate::operate::{insert_messages, job_of, kill, run, settle};

/// The ids of a list's rows.
fn ids(body: &Value) -> Vec<i64> {
    let rows = body["rows"].as_array().unwrap_or_else(|| panic!("no rows in {body}"));
    rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect()
}

fn descending(mut ids: Vec<i64>) -> Vec<i64> {
    ids.sort_unstable_by_key(|id| -id);
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_listed_by_every_filter_in_pages_and_with_a_count_that_says_whether_it_is_one() {
    let desk = Desk::new().await;
    let stage = &desk.stage;
    let (drafts, first, second) = ([Uuid::new_v4(), Uuid::new_v4()], Uuid::new_v4(), Uuid::new_v4());
    let a = insert_messages(&stage.pool, 12, &drafts, first).await;
    let b = insert_messages(&stage.pool, 8, &drafts[..1], second).await;
    settle(&stage.pool, &a).await;
    kill(&stage.pool, &b[..3], "message-too-large").await;
    kill(&stage.pool, &b[3..4], "invalid-record").await;
    let retry = json!({"ids": [b[0]], "reason": "x"});
    let retried = desk.post(&desk.operator, "/admin/api/dead-letters/retry", &retry).await;
    let replay = retried.ok()["replay_id"].as_str().expect("an id").to_owned();
    let new: i64 = sqlx::query_scalar("select id from outbox_messages where replay_of = $1")
        .bind(b[0])
        .fetch_one(&stage.pool)
        .await
        .expect("the retry");

    let list = async |query: &str| desk.get(&desk.viewer, &format!("/admin/api/messages?{query}")).await;
    let odd: Vec<i64> = a.iter().copied().skip(1).step_by(2).collect();
    let job = job_of(&stage.pool, b[0]).await;
    for (query, expected) in [
        (String::new(), [&a[..], &b, &[new]].concat()),
        ("state=published".to_owned(), a.clone()),
        ("state=pending".to_owned(), [&b[4..], &[new]].concat()),
        ("state=dead".to_owned(), b[..4].to_vec()),
        (format!("user={first}"), a.clone()),
        (format!("user={second}&state=pending"), [&b[4..], &[new]].concat()),
        (format!("user={first}&state=dead"), vec![]),
        (format!("job={job}"), vec![b[0], new]),
        (format!("job={job}&error_class=message-too-large"), vec![b[0]]),
        ("error_class=message-too-large".to_owned(), b[..3].to_vec()),
        (format!("replay={replay}"), vec![new]),
        (format!("replay={replay}&state=published"), vec![]),
        (format!("after={}", a[3]), a[..3].to_vec()),
        (format!("user={first}&key={}&state=", drafts[0]), odd.clone()),
        (format!("user={first}&draft={}", drafts[0]), odd),
    ] {
        let answer = list(&query).await;
        let body = answer.ok();
        assert_eq!(ids(body), descending(expected.clone()), "{query}");
        assert_eq!(
            body["matching"],
            json!({"count": expected.len(), "exact": true}),
            "{query}"
        );
        assert_eq!(
            (&body["next"], &body["bounded"]),
            (&json!(null), &json!(false)),
            "{query}"
        );
    }
    let cut = list(&format!("user={first}&limit=1")).await.ok()["rows"][0]["created_at"].clone();
    let since = list(&format!("from={}&user={first}", cut.as_str().expect("a time"))).await;
    assert_eq!(ids(since.ok()), a[11..]);

    // Page by page, each message once.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("limit=4{after}")).await;
        seen.extend(ids(page.ok()));
        match page.ok()["next"].as_i64() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, descending([&a[..], &b, &[new]].concat()));

    // The same rows as the command's.
    for arguments in [
        &["--state", "dead"][..],
        &["--user", &first.to_string(), "--limit", "5"],
        &["--replay", &replay],
    ] {
        let query: Vec<_> = arguments
            .chunks(2)
            .map(|pair| format!("{}={}", &pair[0][2..], pair[1]))
            .collect();
        let rows = run(stage, &[&["outbox", "list"], arguments].concat()).await.rows();
        assert_eq!(list(&query.join("&")).await.ok()["rows"], json!(rows));
    }
    let dead = desk.get(&desk.viewer, "/admin/api/dead-letters?resolved=true").await;
    assert_eq!(
        dead.ok()["rows"],
        json!(run(stage, &["dead", "list", "--resolved"]).await.rows())
    );
    let groups = desk.get(&desk.viewer, "/admin/api/dead-letters/groups").await;
    assert_eq!(
        groups.ok()["rows"],
        json!(run(stage, &["dead", "list", "--group"]).await.rows())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_stops_at_a_thousand_and_says_so() {
    let desk = Desk::new().await;
    let all = insert_messages(&desk.stage.pool, 1_002, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let many = desk
        .get(&desk.viewer, "/admin/api/messages?state=pending&limit=10")
        .await;
    assert_eq!(many.ok()["matching"], json!({"count": 1_000, "exact": false}));
    let fewer = desk
        .get(
            &desk.viewer,
            &format!("/admin/api/messages?state=pending&limit=10&after={}", all[1_000]),
        )
        .await;
    assert_eq!(fewer.ok()["matching"], json!({"count": 1_000, "exact": true}));
    assert_eq!(fewer.ok()["next"], all[990]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_shows_its_whole_life_and_its_neighbours_of_the_same_key() {
    let desk = Desk::new().await;
    let stage = &desk.stage;
    let (drafts, user) = ([Uuid::new_v4(), Uuid::new_v4()], Uuid::new_v4());
    let all = insert_messages(&stage.pool, 6, &drafts, user).await;
    settle(&stage.pool, &all[..4]).await;
    kill(&stage.pool, &all[4..], "message-too-large").await;
    let life = async |id: &str| desk.get(&desk.viewer, &format!("/admin/api/messages/{id}")).await;
    let published = life(&all[2].to_string()).await;
    let body = published.ok();
    assert_eq!(
        (&body["state"], &body["offset"], &body["user_id"]),
        (&json!("published"), &json!(all[2]), &json!(user))
    );
    assert_eq!(
        (&body["headers"]["outbox-id"], &body["payload"]["n"]),
        (&json!(all[2].to_string()), &json!(3))
    );
    assert_eq!(
        body["same_key"],
        json!({"previous": all[0], "next": all[4], "looked_at": 50_000})
    );
    assert_eq!(
        (&body["job"]["status"], &body["job"]["message"]["state"]),
        (&json!("PENDING"), &json!("published"))
    );
    let job = job_of(&stage.pool, all[2]).await;
    assert_eq!(life(&job.to_string()).await.ok(), body, "by the job's id too");
    assert_eq!(body, &run(stage, &["outbox", "show", &all[2].to_string()]).await.json());
    let dead = life(&all[5].to_string()).await;
    assert_eq!(dead.ok()["dead_letter"]["error_class"], "message-too-large");
    assert_eq!(dead.ok()["same_key"]["next"], json!(null));

    life("7x").await.failed(400, "malformed-id", "neither");
    life("999999").await.failed(404, "not-found", "999999");
    life("-1").await.failed(404, "not-found", "-1");
    life(&Uuid::new_v4().to_string())
        .await
        .failed(404, "not-found", "no job");

    let overview = desk.get(&desk.viewer, "/admin/api/overview").await;
    assert_eq!(overview.ok()["dead"], 2);
    let mut stats = run(stage, &["outbox", "stats"]).await.json();
    stats["oldest_pending_age_seconds"] = overview.ok()["oldest_pending_age_seconds"].clone();
    assert_eq!(overview.ok(), &stats);
}
