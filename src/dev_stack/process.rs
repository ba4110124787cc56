//! A server as a child process: in a group of its own, stopped, killed, frozen, and never left behind.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use parking_lot::Mutex;

/// Between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(20);

/// A server, running or not. It can be started again after it was stopped or killed; dropping kills it.
pub(super) struct Server {
    name: &'static str,
    log: PathBuf,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// `command` makes the command line of each start; what it prints is appended to `log`.
    pub(super) fn new(name: &'static str, log: PathBuf, command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Self {
            name,
            log,
            command: Box::new(command),
            child: Mutex::new(None),
        }
    }

    /// Starts the process; whether it answers is seen by [`Server::ready`].
    pub(super) fn start(&self) -> Result<()> {
        let mut child = self.child.lock();
        if child.is_some() {
            bail!("{} already runs", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = (self.command)();
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        end_with_this_process(&started)?;
        *child = Some(started);
        Ok(())
    }

    /// Waits until `probe` succeeds. The error of a server that ended, or did not answer within `bound`, shows
    /// the end of its log.
    pub(super) async fn ready<F: Future<Output = bool>>(&self, bound: Duration, probe: impl Fn() -> F) -> Result<()> {
        let deadline = Instant::now() + bound;
        loop {
            let ended = match self.child.lock().as_mut() {
                Some(child) => child.try_wait()?,
                None => bail!("{} is not running", self.name),
            };
            if let Some(status) = ended {
                bail!("{} ended at its start ({status}):\n{}", self.name, self.log_tail());
            }
            if tokio::time::timeout(bound, probe()).await.unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{} does not answer after {bound:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks the server to end by `signal`, and kills it when it has not after `bound`.
    pub(super) async fn stop(&self, signal: Signal, bound: Duration) -> Result<()> {
        self.thaw();
        let Some(pid) = self.pid() else { return Ok(()) };
        send(pid, signal);
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            if self.has_ended()? {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        tracing::warn!(server = self.name, "did not stop within {bound:?}, killing it");
        self.kill();
        Ok(())
    }

    /// SIGKILL to the server and its children, as when the machine loses power: nothing is written any more.
    /// Returns when they are gone.
    pub(super) fn kill(&self) {
        let mut child = self.child.lock();
        let Some(mut running) = child.take() else { return };
        let pid = Pid::from_raw(running.id() as i32);
        // Stopped first, so that no child is born meanwhile.
        send(pid, Signal::SIGSTOP);
        let children = children(pid);
        for child in &children {
            send(*child, Signal::SIGKILL);
        }
        send(pid, Signal::SIGKILL);
        let _ = running.wait();
        let deadline = Instant::now() + Duration::from_secs(5);
        while children.iter().any(|child| is_alive(*child)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        forget_ended(&running);
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub(super) fn freeze(&self) {
        let Some(pid) = self.pid() else { return };
        send(pid, Signal::SIGSTOP);
        for child in children(pid) {
            send(child, Signal::SIGSTOP);
        }
    }

    /// Ends a freeze.
    pub(super) fn thaw(&self) {
        let Some(pid) = self.pid() else { return };
        for child in children(pid) {
            send(child, Signal::SIGCONT);
        }
        send(pid, Signal::SIGCONT);
    }

    /// [`Server::stop`] for `drop`, which cannot wait but by blocking: keep `bound` short.
    pub(super) fn end(&self, signal: Signal, bound: Duration) {
        self.thaw();
        let Some(pid) = self.pid() else { return };
        send(pid, signal);
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline && !self.has_ended().unwrap_or(true) {
            std::thread::sleep(POLL);
        }
        self.kill();
    }

    fn has_ended(&self) -> Result<bool> {
        let mut child = self.child.lock();
        let ended = child
            .as_mut()
            .map(Child::try_wait)
            .transpose()?
            .is_none_or(|status| status.is_some());
        if ended && let Some(child) = child.take() {
            forget_ended(&child);
        }
        Ok(ended)
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.child.lock().as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(self.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command that ends by itself; the error shows what it printed.
pub(super) async fn run(mut command: Command) -> Result<String> {
    let shown = command.get_program().display().to_string();
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await?;
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        bail!(
            "{shown} failed ({}):\n{}{}",
            output.status,
            out.trim_end(),
            err.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn send(pid: Pid, signal: Signal) {
    // It may be gone already: that is what was wanted.
    let _ = signal::kill(pid, signal);
}

/// A zombie that init has not collected yet is not alive.
fn is_alive(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => !Path::new("/proc/self").exists() && signal::kill(pid, None).is_ok(),
    }
}

/// The children of a process. PostgreSQL's are in groups of their own, so a signal to a group misses them.
fn children(pid: Pid) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).or_else(|_| {
        let output = Command::new("pgrep").args(["-P", &pid.to_string()]).output()?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    });
    listed
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect()
}

/// Outlives this process: it reads until this process ends, however that is, then ends what still runs, kills
/// what does not want to, and removes what is temporary. (`PR_SET_PDEATHSIG` would not do: it fires when the *thread* that started
/// the server ends, and exists on Linux only.)
const GUARD: &str = r#"
trap '' INT TERM HUP
servers=
while read -r word argument; do
    case $word in
        watch) servers="$servers $argument" ;;
        forget) rest=; for pid in $servers; do [ "$pid" = "$argument" ] || rest="$rest $pid"; done; servers=$rest ;;
        remove) set -- "$@" "$argument" ;;
    esac
done
for pid in $servers; do
    kill -CONT $(cat "/proc/$pid/task/$pid/children" 2>/dev/null) "$pid" 2>/dev/null
    kill -TERM "$pid" 2>/dev/null
done
for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    running=
    for pid in $servers; do kill -0 "$pid" 2>/dev/null && running=yes; done
    [ "$running" ] || break
    sleep 0.2
done
for pid in $servers; do
    kill -KILL $(cat "/proc/$pid/task/$pid/children" 2>/dev/null) "$pid" 2>/dev/null
    kill -KILL -- "-$pid" 2>/dev/null
done
[ $# -gt 0 ] || exit 0
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$@" 2>/dev/null && exit 0
    sleep 0.2
done
"#;

static GUARD_INPUT: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

fn tell_guard(line: &str) -> Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    let input = if let Some(input) = GUARD_INPUT.get() {
        input
    } else {
        let _one_at_a_time = STARTING.lock();
        if GUARD_INPUT.get().is_none() {
            let mut guard = Command::new("sh");
            guard.args(["-c", GUARD, "guard"]).process_group(0).current_dir("/");
            guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut guard = guard
                .spawn()
                .context("cannot start sh, which ends the servers with this process")?;
            let stdin = guard.stdin.take().context("the guard has no input")?;
            let _ = GUARD_INPUT.set(Mutex::new(stdin));
        }
        GUARD_INPUT.get().context("the guard was not started")?
    };
    writeln!(input.lock(), "{line}").context("the process that ends the servers with this one is gone")
}

/// Takes back [`end_with_this_process`] for a child that was waited for: its id may be somebody else's soon.
pub fn forget_ended(child: &Child) {
    // A guard that is gone ends nobody.
    let _ = tell_guard(&format!("forget {}", child.id()));
}

/// Has a child ended when this process ends, whatever ends it. Tests run the service itself so.
pub fn end_with_this_process(child: &Child) -> Result<()> {
    tell_guard(&format!("watch {}", child.id()))
}

/// Has `path` removed when this process ends, whatever ends it.
pub(super) fn remove_at_exit(path: &Path) -> Result<()> {
    tell_guard(&format!("remove {}", path.display()))
}
