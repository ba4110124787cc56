//! The real program as a child process.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    panic,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use image_job_dispatcher::dev_stack::{end_with_this_process, forget_ended, free_port};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use reqwest::Response;
use uuid::Uuid;

use super::{PATIENCE, eventually, http_client};

thread_local! {
    /// What this thread's test failed with.
    static FAILED_WITH: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A running `dispatcher serve`. Dropping kills it; when the test failed, its log is printed first, and then what the
/// test failed with: of a long output often only the end is kept.
#[derive(Debug)]
pub struct App {
    /// `replica.name`.
    pub name: String,
    /// Of the public listener: `http://127.0.0.1:PORT`.
    pub base_url: String,
    /// Of the operators' listener.
    pub admin_url: String,
    /// Keeps connections to this service.
    pub http: reqwest::Client,
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
}

/// The binary with a configuration, and nothing of the caller's environment that could change it.
pub fn dispatcher(settings: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("DISPATCHER_") || ["DATABASE_URL", "REDIS_URL", "KAFKA_BROKERS"].contains(&&*shown) {
            command.env_remove(name);
        }
    }
    for (key, value) in settings {
        command.env(format!("DISPATCHER_{}", key.to_uppercase().replace('.', "__")), value);
    }
    // Not the repository: a configuration file lying there is not the test's.
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

impl App {
    /// Starts `dispatcher serve` on free ports, with `settings` by key and `failpoints` as `src/failpoint.rs` has them.
    /// `threads`: of its runtime, where it is not to have one for each processor.
    pub fn spawn(
        name: &str,
        arguments: &[&str],
        settings: &BTreeMap<String, String>,
        failpoints: &str,
        threads: Option<u32>,
    ) -> Self {
        let address = || format!("127.0.0.1:{}", free_port().expect("a free port"));
        let (listen, admin) = (address(), address());
        let mut command = dispatcher(settings);
        command
            .env("DISPATCHER_HTTP__LISTEN", &listen)
            .env("DISPATCHER_ADMIN__LISTEN", &admin)
            .env("FAILPOINTS", failpoints)
            .envs(threads.map(|threads| ("TOKIO_WORKER_THREADS", threads.to_string())));
        command
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        remember_what_fails();
        let mut child = command.spawn().expect("dispatcher starts");
        end_with_this_process(&child).expect("the guard listens");
        let log = Arc::default();
        capture(child.stdout.take().expect("a pipe"), &log);
        capture(child.stderr.take().expect("a pipe"), &log);
        Self {
            name: name.to_owned(),
            base_url: format!("http://{listen}"),
            admin_url: format!("http://{admin}"),
            http: http_client(),
            child: Mutex::new(child),
            log,
        }
    }

    /// Waits until `/readyz` says 200; a service that ended instead fails the test.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.name), PATIENCE, async || {
            if let Some(status) = self.exit_status() {
                panic!("{} ended before it was ready: {status}", self.name);
            }
            let answer = self.http.get(format!("{}/readyz", self.base_url)).send().await;
            let status = answer.map_err(|error| error.to_string())?.status();
            if status.is_success() {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
        .await;
    }

    /// `POST /api/events/{draft}/content-generation`; an error is one of the connection.
    pub async fn post_job(&self, draft: Uuid, token: &str) -> reqwest::Result<Response> {
        let url = format!("{}/api/events/{draft}/content-generation", self.base_url);
        self.http.post(url).bearer_auth(token).send().await
    }

    /// [`App::post_job`] that has to be answered 202; gives the job's id.
    pub async fn accept(&self, draft: Uuid, token: &str) -> Uuid {
        let answer = self.post_job(draft, token).await.expect("an answer");
        let (status, body) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status, 202, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        body["jobId"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .unwrap_or_else(|| panic!("no jobId in {body}"))
    }

    /// `GET /api/jobs/{job}`.
    pub async fn get_job(&self, job: Uuid, token: &str) -> reqwest::Result<Response> {
        self.http
            .get(format!("{}/api/jobs/{job}", self.base_url))
            .bearer_auth(token)
            .send()
            .await
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> String {
        let answer = self
            .http
            .get(format!("{}/metrics", self.admin_url))
            .send()
            .await
            .expect("an answer");
        answer.text().await.expect("text")
    }

    /// The value of a series, by its name with its labels as `/metrics` writes them: `job_results_total{outcome="repeated"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics().await;
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("no {series} in {metrics}"))
    }

    /// Waits until these series have these values.
    pub async fn shows(&self, expected: &[(&str, f64)]) {
        eventually(&format!("{} shows {expected:?}", self.name), PATIENCE, async || {
            let mut seen = Vec::new();
            for (name, _) in expected {
                seen.push((*name, self.metric(name).await));
            }
            if seen == expected {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await;
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.lock().expect("not poisoned").id() as i32)
    }

    /// Bytes of memory that the program has.
    pub fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a line");
        let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("not poisoned");
        // Gone already: that is what was wanted.
        let _ = child.kill();
        child.wait().expect("a status");
        forget_ended(&child);
    }

    /// SIGTERM, and waits until it ended.
    pub async fn term_and_wait(&self) -> ExitStatus {
        self.term();
        self.wait_for_exit(PATIENCE).await
    }

    /// SIGTERM.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// One that has ended by itself is found by whoever looks at its status.
    fn signal(&self, signal: Signal) {
        if self.exit_status().is_none() {
            let _ = signal::kill(self.pid(), signal);
        }
    }

    /// Waits until it ended by itself.
    pub async fn wait_for_exit(&self, bound: Duration) -> ExitStatus {
        eventually(&format!("{} ends", self.name), bound, async || {
            self.exit_status().ok_or("it runs")
        })
        .await
    }

    /// `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.lock().expect("not poisoned").try_wait().expect("a status")
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let failed_with = FAILED_WITH.take();
            eprintln!(
                "---- log of {} ----\n{}---- end of its log; {failed_with}",
                self.name,
                self.log()
            );
            FAILED_WITH.set(failed_with);
        }
    }
}

/// Panics are printed as ever, and kept for the end of the logs.
fn remember_what_fails() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            FAILED_WITH.set(info.to_string());
            print(info);
        }));
    });
}

/// Reads in a thread, so that the child never waits for room in its pipe.
fn capture(from: impl Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("not poisoned");
            log.push_str(&line);
            log.push('\n');
        }
    });
}
