//! Where servers keep their data, and the ports they listen on.

use std::{
    fs::{self, File, Permissions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use nix::unistd::User;
use uuid::Uuid;

use super::process;

/// Ports below the range from which the kernel takes those of outgoing connections (32768 and up on Linux).
/// A port of that range may be taken while its server is down; worse, a client that tries to reconnect may be
/// given the very port it connects to, and then talks to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A directory of server data. Clones are the same one; servers hold one each.
#[derive(Debug, Clone)]
pub struct Home(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// `None`: temporary. Else held, so that two processes never run servers on the same data.
    lock: Option<File>,
}

impl Home {
    /// A directory that stays. It is made when it is missing; an error says that another process uses it.
    pub fn kept(root: &Path) -> Result<Self> {
        let made = fs::create_dir_all(root).and_then(|()| File::create(root.join("lock")));
        let lock = made.with_context(|| format!("cannot use the directory {}", root.display()))?;
        if lock.try_lock().is_err() {
            bail!("{} is in use by another process: stop it first", root.display());
        }
        let root = root.canonicalize()?;
        Ok(Self(Arc::new(Inner { root, lock: Some(lock) })))
    }

    /// A directory that goes with the last server in it, or with this process however it ends.
    pub fn temporary() -> Result<Self> {
        // /var/tmp and not /tmp: that one may be memory, and a commit on it costs nothing.
        let root = Path::new("/var/tmp").join(format!("dispatcher-{}", Uuid::new_v4().simple()));
        process::remove_at_exit(&root)?;
        fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        // A server that runs as another user passes through it.
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        Ok(Self(Arc::new(Inner { root, lock: None })))
    }

    /// Goes with the servers in it.
    pub fn is_temporary(&self) -> bool {
        self.0.lock.is_none()
    }

    /// A directory of ours in it, made when it is missing.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.0.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// A directory in it for a server that runs as `user`.
    pub(super) fn dir_of_user(&self, name: &str, user: &User) -> Result<PathBuf> {
        let link = self.0.root.join(name);
        let dir = if self.is_temporary() {
            link
        } else if let Ok(target) = fs::read_link(&link).and_then(|target| target.canonicalize()) {
            return Ok(target);
        } else {
            // The user may not be able to enter a clone in somebody's closed home: the data is where it can.
            let dir = Path::new("/var/tmp").join(format!("dispatcher-{name}-{}", Uuid::new_v4().simple()));
            if link.symlink_metadata().is_ok() {
                fs::remove_file(&link).with_context(|| format!("{} is not a link of ours", link.display()))?;
            }
            std::os::unix::fs::symlink(&dir, &link)?;
            dir
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        nix::unistd::chown(&dir, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give {} to user {}", dir.display(), user.name))?;
        Ok(dir)
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.root.join(name)
    }

    /// A port that nobody listens on; in a kept home the one of last time, when it is still free.
    pub(super) fn port(&self, name: &str) -> Result<u16> {
        if self.is_temporary() {
            return free_port();
        }
        let remembered = self.file(&format!("{name}.port"));
        let last = fs::read_to_string(&remembered)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let port = match last.filter(|port| is_free(*port)) {
            Some(port) => port,
            None => free_port()?,
        };
        fs::write(remembered, format!("{port}\n"))?;
        Ok(port)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.lock.is_none() {
            // What is left, for a process that was slow to die, goes with this process.
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// A port on 127.0.0.1 that nobody listens on. A process is given each of them once before it is given one again: one
/// that is free may be somebody's who is about to listen, or whose server is down. Where it begins is drawn at random,
/// so that processes that start servers at the same moment get different ones.
pub fn free_port() -> Result<u16> {
    static GIVEN: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(rand::random_range(0..PORTS.len())));
    for _ in PORTS {
        let port = PORTS.start + (GIVEN.fetch_add(1, Ordering::Relaxed) % PORTS.len()) as u16;
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 in {PORTS:?}")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_servers_of_a_process_are_given_one_port_before_either_listens() {
        let given: Vec<u16> = (0..1000).map(|_| free_port().unwrap()).collect();
        let different: HashSet<u16> = given.iter().copied().collect();
        assert_eq!(different.len(), given.len());
    }
}
