//! The configuration of what `start-dev` runs, in a file, so that every other command can be pointed at it.

use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::servers::Servers;
use crate::{
    cli::CliError,
    config::{Config, Sources},
};

/// Looked at beyond a port that is taken.
const NEXT_PORTS: u16 = 100;

/// Writes `DIR/dispatcher.toml` and reads it back. Listeners whose port is taken get the next free one.
pub(super) fn write(
    dir: &Path,
    servers: &Servers,
    database_url: &str,
    flags: Vec<(String, String)>,
) -> Result<(Config, PathBuf), CliError> {
    let wanted = Config::load(&Sources {
        flags: flags.clone(),
        ..Sources::default()
    })?;
    let listen = free(wanted.http.listen, None)?;
    let admin = free(wanted.admin.listen, Some(listen))?;
    let path = dir.join("dispatcher.toml");
    let text = format!(
        "# Written by `dispatcher start-dev` at each start; for other commands: --config {path}
[http]
listen = \"{listen}\"
[admin]
listen = \"{admin}\"
[database]
url = \"{database_url}\"
[redis]
url = \"{redis}\"
[kafka]
brokers = \"{brokers}\"
[auth]
jwt_secret = \"{secret}\"
[log]
format = \"pretty\"
filter = \"warn,librdkafka=error\"
",
        path = path.display(),
        redis = servers.redis.url(),
        brokers = servers.kafka.bootstrap(),
        secret = secret(&dir.join("jwt.secret"))?,
    );
    // Replaced and not written over: whoever could read an older one cannot read this.
    let partial = dir.join("dispatcher.toml.partial");
    write_private(&partial, &text)?;
    std::fs::rename(&partial, &path)?;
    let sources = Sources {
        file: Some(path.clone()),
        flags,
        ..Sources::default()
    }
    .with("http.listen", listen.to_string())
    .with("admin.listen", admin.to_string());
    Ok((Config::load(&sources)?, path))
}

/// The address, or one of the next ports of it that nobody listens on.
pub(super) fn free(wanted: SocketAddr, taken: Option<SocketAddr>) -> Result<SocketAddr> {
    let ports = wanted.port()..=wanted.port().saturating_add(NEXT_PORTS);
    let mut addresses = ports.map(|port| SocketAddr::new(wanted.ip(), port));
    let address = addresses
        .find(|address| Some(*address) != taken && TcpListener::bind(address).is_ok())
        .with_context(|| format!("no free port from {wanted} on"))?;
    if address != wanted {
        eprintln!("! {wanted} is taken: using {address}");
    }
    Ok(address)
}

/// Signs the tokens; the same at each start, so that tokens stay good.
fn secret(path: &Path) -> Result<String> {
    if let Ok(secret) = std::fs::read_to_string(path) {
        return Ok(secret);
    }
    let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    write_private(path, &secret)?;
    Ok(secret)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let _ = std::fs::remove_file(path);
    let file = File::options().create_new(true).write(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}
