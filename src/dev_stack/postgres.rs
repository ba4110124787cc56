//! PostgreSQL from the binaries of this machine, with data of its own.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::Signal,
    unistd::{Uid, User},
};
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};

use super::{Home, find_on_path, is_program, process, process::Server};

const OLDEST: u32 = 15;
const START_BOUND: Duration = Duration::from_mins(1);
const STOP_BOUND: Duration = Duration::from_secs(20);

/// A PostgreSQL server on 127.0.0.1, on data that survives its stop and its kill.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
    password: String,
    _home: Home,
}

impl Postgres {
    /// Starts it in `home`, initialised when it is new, and waits until it answers. `settings` are added to
    /// the defaults of PostgreSQL, which include `fsync=on`.
    pub async fn start(home: &Home, settings: &[(&str, &str)]) -> Result<Self> {
        let binaries = find_binaries().await?;
        let user = user_to_run_as()?;
        let dir = match &user {
            Some(user) => home.dir_of_user("postgres", user)?,
            None => home.dir("postgres")?,
        };
        let (data, password_file) = (dir.join("data"), dir.join("password"));
        let port = home.port("postgres")?;
        if !data.join("PG_VERSION").exists() {
            // Not `trust`: whoever can log in here as superuser can run programs as us.
            let mut file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&password_file)?;
            write!(file, "{}", uuid::Uuid::new_v4().simple())?;
            let mut initdb = Command::new(binaries.join("initdb"));
            initdb
                .arg("-D")
                .arg(&data)
                .args(["-U", "dispatcher", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256"]);
            initdb.arg("--pwfile").arg(&password_file);
            if home.is_temporary() {
                initdb.arg("--no-sync");
            }
            if let Some(user) = &user {
                nix::unistd::chown(&password_file, Some(user.uid), Some(user.gid))?;
            }
            run_as(&mut initdb, user.as_ref());
            process::run(initdb).await?;
        }
        let password = fs::read_to_string(&password_file)
            .with_context(|| format!("cannot read {}: remove {}", password_file.display(), dir.display()))?;

        let mut arguments = vec![
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=300".to_owned(),
            // In the data directory, so that a killed server leaves nothing in /dev/shm.
            "dynamic_shared_memory_type=mmap".to_owned(),
        ];
        arguments.extend(settings.iter().map(|(name, value)| format!("{name}={value}")));
        let server = Server::new("PostgreSQL", home.file("postgres.log"), move || {
            let mut command = Command::new(binaries.join("postgres"));
            command.arg("-D").arg(&data);
            for setting in &arguments {
                command.args(["-c", setting]);
            }
            run_as(&mut command, user.as_ref());
            command
        });
        let postgres = Self {
            server,
            port,
            password,
            _home: home.clone(),
        };
        postgres.restart().await?;
        Ok(postgres)
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`]: same port, same data.
    pub async fn restart(&self) -> Result<()> {
        self.server.start()?;
        let options: PgConnectOptions = self.url("postgres").parse()?;
        let options = &options.disable_statement_logging();
        self.server
            .ready(START_BOUND, || async move {
                match options.connect().await {
                    Ok(connection) => connection.close().await.is_ok(),
                    Err(_) => false,
                }
            })
            .await
    }

    /// The URL of a database in it, password included.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://dispatcher:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it: open transactions are rolled back, connections closed.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop(Signal::SIGINT, STOP_BOUND).await
    }

    /// Kills it and all its processes with SIGKILL.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops all its processes where they are: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.server.thaw();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown, no better for the data than SIGKILL; but the server gives back its shared memory.
        self.server.end(Signal::SIGQUIT, Duration::from_secs(2));
    }
}

fn run_as(command: &mut Command, user: Option<&User>) {
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    // initdb and postgres want a current directory that they may enter.
    command.current_dir("/");
}

/// PostgreSQL refuses to run as root: then it runs as somebody who owns nothing else of ours.
fn user_to_run_as() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL does not run as root, and there is neither a user postgres nor nobody: run this as another user")
}

/// The directory with `postgres` and `initdb`: on PATH, else the newest where distributions put them.
async fn find_binaries() -> Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = find_on_path(&["postgres"])
        .and_then(|file| Some(file.parent()?.to_owned()))
        .into_iter()
        .collect();
    for place in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        candidates.extend(
            fs::read_dir(place)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().join("bin")),
        );
    }
    let mut best = None;
    for dir in candidates
        .into_iter()
        .filter(|dir| is_program(&dir.join("initdb")) && is_program(&dir.join("postgres")))
    {
        let mut command = Command::new(dir.join("postgres"));
        command.arg("--version");
        let version = major_version(&process::run(command).await?);
        if version > best.as_ref().map(|(version, _)| *version) {
            best = version.map(|version| (version, dir));
        }
    }
    match best {
        Some((version, dir)) if version >= OLDEST => Ok(dir),
        found => bail!(
            "no PostgreSQL {OLDEST} or newer on PATH or in /usr/lib/postgresql{}: on Debian, `apt-get install \
             postgresql`",
            found
                .map(|(version, _)| format!(" (only {version})"))
                .unwrap_or_default()
        ),
    }
}

/// Of `postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)`.
fn major_version(printed: &str) -> Option<u32> {
    let number = printed.split(") ").nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        assert_eq!(
            major_version("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n"),
            Some(15)
        );
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_version("nonsense"), None);
    }
}
