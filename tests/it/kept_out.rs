//! Servers that do not let us in: each says so in the log and in `doctor`, with what to do, and costs no job.

use std::io::Write as _;

use image_job_dispatcher::dev_stack::{Beside, Security, create_topic};
use uuid::Uuid;

use crate::support::{
    App, PATIENCE, Record, Stage, drafts, eventually, records::read_topic, rig::kafka_libs, token_for,
};

const USER: &str = "dispatcher";
const PASSWORD: &str = "open sesame";
/// Rules are added.
const ADD: &[&str] = &["--add"];

/// A broker with TLS and logins, and the file that its clients trust.
async fn secured() -> (Stage, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let security = Security {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        user: USER.to_owned(),
        password: PASSWORD.to_owned(),
    };
    let mut trusted = tempfile::NamedTempFile::new().expect("a file");
    trusted.write_all(security.certificate.as_bytes()).expect("written");
    let beside = Beside {
        security: Some(security),
        ..Beside::default()
    };
    (Stage::with_listeners(&beside).await, trusted)
}

/// The settings of who logs in there.
fn login<'a>(brokers: &'a str, trusted: &'a tempfile::NamedTempFile, password: &'a str) -> [(&'a str, &'a str); 6] {
    [
        ("kafka.brokers", brokers),
        ("kafka.properties.security_protocol", "SASL_SSL"),
        (
            "kafka.properties.ssl_ca_location",
            trusted.path().to_str().expect("a path"),
        ),
        ("kafka.properties.sasl_mechanism", "PLAIN"),
        ("kafka.properties.sasl_username", USER),
        ("kafka.properties.sasl_password", password),
    ]
}

async fn accept(stage: &Stage, app: &App, jobs: usize) -> Vec<String> {
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let mut accepted = Vec::new();
    for _ in 0..jobs {
        accepted.push(app.accept(draft, &token_for(user)).await.to_string());
    }
    accepted
}

/// The log has a line with all of `words`, an advice among them.
async fn logged(app: &App, words: &[&str]) {
    eventually(&format!("{words:?} in a line of the log"), PATIENCE, async || {
        let log = app.log();
        let said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if said { Ok(()) } else { Err(log) }
    })
    .await;
}

/// `doctor` cannot reach a server, and says so.
async fn doctor_says(stage: &Stage, settings: &[(&str, &str)], words: &[&str]) {
    doctor_fails(stage, settings, 3, words).await;
}

async fn doctor_fails(stage: &Stage, settings: &[(&str, &str)], code: i32, words: &[&str]) {
    let ran = stage.run_with(&["doctor"], settings).await;
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(ran.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} in {said}");
    }
}

/// Nothing is dead, and each accepted job is in the topic once.
async fn all_of(stage: &Stage, accepted: &[String]) {
    let records = stage.records(accepted.len()).await;
    let mut jobs: Vec<_> = records.iter().map(Record::job_id).collect();
    jobs.sort_unstable();
    let mut expected = accepted.to_vec();
    expected.sort_unstable();
    assert_eq!(jobs, expected);
    let dead: i64 = sqlx::query_scalar("select dead from outbox_overview")
        .fetch_one(&stage.pool)
        .await
        .expect("the overview");
    assert_eq!(dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_speaks_tls_is_named_so_and_with_its_certificate_all_is_published() {
    let (stage, trusted) = secured().await;
    let brokers = stage.servers().kafka.tls_bootstrap();
    let plain = [("kafka.brokers", &*brokers)];
    let app = stage.app_with(&[], &plain).await;
    let mut accepted = accept(&stage, &app, 10).await;
    logged(&app, &["kafka cannot be used", "speaks TLS", "security.protocol"]).await;
    doctor_says(&stage, &plain, &["speaks TLS", "security.protocol"]).await;

    let distrusting = [plain[0], ("kafka.properties.security_protocol", "SSL")];
    doctor_says(&stage, &distrusting, &["certificate is not trusted", "ssl.ca.location"]).await;
    assert!(app.term_and_wait().await.success());

    let ca = trusted.path().to_str().expect("a path");
    let trusting = [distrusting[0], distrusting[1], ("kafka.properties.ssl_ca_location", ca)];
    let app = stage.app_with(&[], &trusting).await;
    accepted.extend(accept(&stage, &app, 1).await);
    all_of(&stage, &accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_kafka_password_is_named_so_and_with_the_right_one_all_is_published() {
    let (stage, trusted) = secured().await;
    let brokers = stage.servers().kafka.login_bootstrap();
    let login = |password| login(&brokers, &trusted, password);
    let app = stage.app_with(&[], &login("open barley")).await;
    let mut accepted = accept(&stage, &app, 10).await;
    logged(
        &app,
        &["kafka cannot be used", "user or password is wrong", "sasl.password"],
    )
    .await;
    assert!(!app.log().contains("open barley"), "a secret in the log");
    doctor_says(
        &stage,
        &login("open barley"),
        &["user or password is wrong", "sasl.password"],
    )
    .await;
    assert!(app.term_and_wait().await.success());

    let app = stage.app_with(&[], &login(PASSWORD)).await;
    accepted.extend(accept(&stage, &app, 1).await);
    all_of(&stage, &accepted).await;
}

/// Changes the rules of the topic by the broker's own tool.
async fn change_rules(stage: &Stage, change: &[&str], rules: &[&str]) {
    let mut tool = kafka_libs().await.tool("org.apache.kafka.tools.AclCommand");
    tool.args(["--bootstrap-server", &stage.servers().kafka.bootstrap()])
        .args(change)
        .args(["--topic", &stage.topic])
        .args(rules);
    let output = tokio::task::spawn_blocking(move || tool.output())
        .await
        .expect("a task")
        .expect("Java runs");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_ask_for_the_topics_settings_is_told_so_by_doctor_by_an_audit_and_in_the_log() {
    let (stage, trusted) = secured().await;
    change_rules(&stage, ADD, &["--allow-principal", "User:*", "--operation", "All"]).await;
    let rule = format!("User:{USER}");
    change_rules(
        &stage,
        ADD,
        &["--deny-principal", &rule, "--operation", "DescribeConfigs"],
    )
    .await;
    let brokers = stage.servers().kafka.login_bootstrap();
    let login = login(&brokers, &trusted, PASSWORD);
    eventually("the broker knows the rules", PATIENCE, async || {
        let ran = stage.run_with(&["doctor"], &login).await;
        let said = String::from_utf8(ran.stdout).expect("UTF-8");
        let told = said.contains("give the user DescribeConfigs on the topic");
        if told { Ok(()) } else { Err(said) }
    })
    .await;
    let ran = stage.run_with(&["audit"], &login).await;
    let said = String::from_utf8(ran.stderr).expect("UTF-8");
    assert_eq!(ran.status.code(), Some(0), "{said}");
    assert!(said.contains("the topic's settings may not be read"), "{said}");
    let app = stage.app_with(&[], &login).await;
    logged(&app, &["max.message.bytes cannot be read", "DescribeConfigs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_write_that_is_taken_away_kills_no_message_and_given_back_all_is_published() {
    let (stage, trusted) = secured().await;
    change_rules(&stage, ADD, &["--allow-principal", "User:*", "--operation", "All"]).await;
    let brokers = stage.servers().kafka.login_bootstrap();
    let app = stage.app_with(&[], &login(&brokers, &trusted, PASSWORD)).await;
    let mut accepted = accept(&stage, &app, 3).await;
    stage.drained().await;

    let user = format!("User:{USER}");
    let denied = ["--deny-principal", &*user, "--operation", "Write"];
    change_rules(&stage, ADD, &denied).await;
    accepted.extend(accept(&stage, &app, 5).await);
    let outages = r#"outbox_publish_failures_total{error_class="outage"}"#;
    eventually("refused as an outage, in more than one term", PATIENCE, async || {
        let seen = (
            app.metric(outages).await,
            app.metric("outbox_producer_rebuilds_total").await,
        );
        if seen.0 >= 1.0 && seen.1 >= 2.0 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    logged(&app, &["the relay begins again", "Topic authorization failed"]).await;

    change_rules(&stage, &["--remove", "--force"], &denied).await;
    all_of(&stage, &accepted).await;
}

async fn require(conn: &mut redis::aio::MultiplexedConnection, password: &str) {
    let set: redis::RedisResult<()> = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", password])
        .query_async(conn)
        .await;
    set.expect("a password is set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_redis_password_is_named_so_and_costs_no_job_and_a_mended_one_is_noticed() {
    let stage = Stage::with_servers_of_its_own().await;
    let redis = redis::Client::open(stage.servers().redis.url()).expect("a URL");
    let mut conn = redis.get_multiplexed_async_connection().await.expect("Redis");
    require(&mut conn, PASSWORD).await;
    let url = stage.servers().redis.url().replacen("redis://", "redis://:barley@", 1);
    let wrong = [("redis.url", &*url)];
    let app = stage.app_with(&[], &wrong).await;
    let accepted = accept(&stage, &app, 3).await;
    all_of(&stage, &accepted).await;
    logged(&app, &["Redis refuses the login", "redis.url"]).await;
    assert!(!app.log().contains("barley"), "a secret in the log");
    doctor_says(&stage, &wrong, &["Redis refuses the login", "redis.url"]).await;

    require(&mut conn, "barley").await;
    eventually("the service writes to Redis again", PATIENCE, async || {
        let job = accept(&stage, &app, 1).await.remove(0);
        let value: Option<String> = redis::cmd("GET")
            .arg(format!("job:{job}"))
            .query_async(&mut conn)
            .await
            .expect("Redis");
        value.ok_or("no value")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_postgresql_password_is_named_so() {
    let stage = Stage::new().await;
    let (_, place) = stage.database_url.rsplit_once('@').expect("a password");
    let url = format!("postgres://nobody:barley@{place}");
    let wrong = [("database.url", &*url)];
    let app = stage.spawn_app(&[], &wrong);
    logged(&app, &["PostgreSQL refuses the login", "database.url"]).await;
    assert!(!app.log().contains("barley"), "a secret in the log");
    doctor_says(&stage, &wrong, &["check user and password"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_named_so_and_once_it_is_made_all_is_published() {
    let stage = Stage::new().await;
    let missing = format!("missing-{}", Uuid::new_v4().simple());
    let elsewhere = [("kafka.topic", &*missing)];
    let app = stage.app_with(&[], &elsewhere).await;
    accept(&stage, &app, 3).await;
    logged(&app, &["kafka cannot be used", &missing, "does not exist: create it"]).await;
    doctor_fails(&stage, &elsewhere, 5, &[&missing, "does not exist", "create it"]).await;

    let brokers = stage.servers().kafka.bootstrap();
    create_topic(&brokers, &missing, 2, &[]).await.expect("the topic");
    eventually("all is published", PATIENCE, async || {
        match read_topic(&brokers, &missing).await.len() {
            3 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
