//! What a person could type into a form, or a bad client send: none of it stops the worker or leads it anywhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{
    PATIENCE, Stage,
    content::{ContentService, status_of},
};

/// Members of a job's value; all of them have a title that can be drawn.
fn nasty(port: u16) -> Vec<Value> {
    let deep = |depth: usize| -> Value {
        // Kafka's value is bytes: any depth can be sent, whatever jsonb would take.
        serde_json::from_str(&format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))).expect("JSON")
    };
    let mut all = vec![
        json!({"title": "ㅋ".repeat(250_000)}),
        json!({"title": "a ".repeat(250_000), "prize": "b".repeat(200_000)}),
        json!({"title": format!("e{} 여름", "\u{301}".repeat(100_000))}),
        json!({"title": "\u{0}\u{1}\u{1b}[31m여름\u{7f}\r\n\t"}),
        json!({"title": "\u{202e}\u{2066}여름\u{200b}\u{200d}\u{feff}\u{e0041}"}),
        json!({"title": "여름 👨‍👩‍👧‍👦🏳️‍🌈🇰🇷1️⃣"}),
        json!({"title": "</text></svg><script>alert(1)</script><image href='http://127.0.0.1/'/>&#0;]]>%s%n${jndi:ldap://x}"}),
        json!({"title": "!!! ??? ...", "storeInfo": null}),
        json!({"title": "가", "prize": "\u{3164}", "storeInfo": {"name": "\u{200b}"}}),
    ];
    for color in [
        "url(http://127.0.0.1)",
        "#12",
        "#ggg",
        "red;}</style>",
        "\u{0}",
        "rgb(300,0,0)",
        "-1",
        "",
    ] {
        all.push(json!({"title": "색", "brandColor": color}));
    }
    all.push(json!({"title": "색", "brandColor": format!("#{}", "f".repeat(100_000))}));
    for info in [
        deep(100),
        json!([1, 2, 3]),
        json!("x".repeat(300_000)),
        json!({"name": {"name": "안"}, "address": ["서울"], "phone": null, "hours": true}),
        json!({"name": "가".repeat(50_000), "address": "나".repeat(50_000), "phone": 1e300, "hours": "다".repeat(50_000)}),
        json!({"NAME": "크다", "na-me": "작다", "": "", "주 소": "서울"}),
        json!(
            (0..20_000)
                .map(|n| (n.to_string(), json!(n)))
                .collect::<serde_json::Map<_, _>>()
        ),
    ] {
        all.push(json!({"title": "정보", "storeInfo": info}));
    }
    for url in [
        format!("http://localhost:{port}/logo.png"),
        format!("http://127.0.0.1:{port}/logo.png"),
        format!("http://[::1]:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://localhost@127.0.0.1:{port}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://localhost:6379/_FLUSHALL".to_owned(),
        "h".repeat(200_000),
    ] {
        all.push(json!({"title": "로고", "logoUrl": url}));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_asked_for_stops_the_worker_or_leads_it_into_a_private_network() {
    let stage = Stage::new().await;
    // `localhost` is allowed by name, and still refused by where it is.
    let content = ContentService::on(&stage).await;
    let mut content = content.with_arguments(&["--logo-host", "localhost,*.example.com"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, visits) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let counted = visits.clone();
    let inside = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    content.start();
    let requests = nasty(port);
    let count = requests.len();
    for members in requests {
        content.request_with(Uuid::now_v7(), Uuid::now_v7(), members).await;
    }
    // As text, for no JSON type goes this deep.
    let (event_id, job_id) = (Uuid::now_v7().to_string(), Uuid::now_v7());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let value = format!(
        r#"{{"jobId": "{job_id}", "eventDraftId": "{job_id}", "title": "깊다", "prize": null, "brandColor": null, "logoUrl": null,
            "storeInfo": {deep}}}"#
    );
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", event_id.as_str()),
        ("ce_type", "image-job.requested.v1"),
    ];
    content.send(&stage.topic, "a key", &value, &headers).await;

    let answers = content
        .results("all are answered", 4 * PATIENCE, |records| {
            records
                .iter()
                .filter(|record| status_of(record) != "PROCESSING")
                .count()
                > count
        })
        .await;
    for answer in answers.iter().filter(|record| status_of(record) != "PROCESSING") {
        assert_eq!(status_of(answer), "COMPLETED", "{:?}", answer.json());
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0, "nobody came; {}", content.log());
    assert!(content.log().contains("no logo is drawn"), "{}", content.log());
    inside.abort();
    assert!(content.term().await.success());
}
