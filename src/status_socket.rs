//! The Unix socket through which `berkeleyd status` looks into a running node: whoever connects gets one JSON object and
//! a line break, and the connection is closed. It takes no orders, it reads nothing.
//!
//! Only the owner and root may connect, whatever the directory allows. A client that does not read costs a bounded buffer until it is dropped; it never holds the
//! loop up.

use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::fchownat;

use crate::privileges::Owner;

/// Clients that are served at the same time. More wait in the kernel's queue; a slow one is dropped for the next.
const CLIENTS: usize = 8;

/// A socket that nobody is served at yet. Its file goes with it.
#[derive(Debug)]
pub struct StatusListener {
    path: PathBuf,
    listener: UnixListener,
}

/// The socket, and the clients that have not taken all of their answer yet.
#[derive(Debug)]
pub struct StatusSocket {
    listener: StatusListener,
    clients: Vec<Client>,
    first_client: Token,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    token: Token,
    answer: Vec<u8>,
    written: usize,
}

/// Why the status socket cannot be opened.
#[derive(Debug)]
pub enum StatusSocketError {
    /// A running node has it.
    InUse(PathBuf),
    /// Something that is no socket lies there.
    NotASocket(PathBuf),
    /// The system refuses.
    System(PathBuf, io::Error),
}

impl std::fmt::Display for StatusSocketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "status socket {} is in use by another node: give this one another with --status-socket",
                path.display()
            ),
            Self::NotASocket(path) => write!(f, "status socket {}: there is a file that is no socket", path.display()),
            Self::System(path, error) => write!(f, "status socket {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for StatusSocketError {}

impl StatusListener {
    /// Listens at `path`, for `owner` if it is not for this process's user. A socket that a dead node left there is replaced.
    ///
    /// # Errors
    /// The path belongs to somebody else, or cannot be written.
    pub fn bind(path: &Path, owner: Option<Owner>) -> Result<Self, StatusSocketError> {
        let system = |error| StatusSocketError::System(path.to_owned(), error);
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(StatusSocketError::NotASocket(path.to_owned()));
            }
            if StdUnixStream::connect(path).is_ok() {
                return Err(StatusSocketError::InUse(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(system)?;
        }
        // The mode is that of the moment of binding: setting it afterwards would leave a gap.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = Self { path: path.to_owned(), listener: listener.map_err(system)? };
        if let Some(owner) = owner {
            give(path, owner).map_err(|error| system(error.into()))?;
        }
        Ok(listener)
    }
}

/// Makes a socket's file somebody else's. Only if it is a socket: in a directory of that user's it may be another file by now.
fn give(path: &Path, Owner { uid, gid }: Owner) -> Result<(), Errno> {
    let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    if SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(Errno::ENOTSOCK);
    }
    fchownat(&file, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
}

impl StatusSocket {
    /// Serves whoever connects. Uses `first_token` for the listener and the ones above it for clients.
    ///
    /// # Errors
    /// The system refuses to watch the socket.
    pub fn new(mut listener: StatusListener, registry: &Registry, first_token: Token) -> io::Result<Self> {
        registry.register(&mut listener.listener, first_token, Interest::READABLE)?;
        Ok(Self { listener, clients: Vec::new(), first_client: Token(first_token.0 + 1) })
    }

    /// True when `token` is the listener's or a client's.
    pub fn owns(&self, token: Token) -> bool {
        (self.first_client.0 - 1..self.first_client.0 + CLIENTS).contains(&token.0)
    }

    /// Serves whoever is ready, [`CLIENTS`] newcomers at most; `answer` is asked for once for each of them. True when there may be more:
    /// clients that come faster than they are served must not keep the node from its work.
    pub fn serve(&mut self, registry: &Registry, mut answer: impl FnMut() -> Vec<u8>) -> bool {
        self.clients.retain_mut(|client| client.write().is_ok_and(|done| !done));
        for _ in 0..CLIENTS {
            match self.listener.listener.accept() {
                Ok((stream, _)) => self.welcome(registry, stream, answer()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Drained, or the client is gone already; whatever else it is, the next one may fare better.
                Err(_) => return false,
            }
        }
        true
    }

    fn welcome(&mut self, registry: &Registry, stream: UnixStream, answer: Vec<u8>) {
        if self.clients.len() >= CLIENTS {
            self.clients.remove(0);
        }
        let is_free = |token: &Token| !self.clients.iter().any(|client| client.token == *token);
        let Some(token) = (0..CLIENTS).map(|index| Token(self.first_client.0 + index)).find(is_free) else {
            return;
        };
        let mut client = Client { stream, token, answer, written: 0 };
        // Nearly always the answer fits the socket's buffer, and the client is done with here.
        if client.write().is_ok_and(|done| !done)
            && registry.register(&mut client.stream, token, Interest::WRITABLE).is_ok()
        {
            self.clients.push(client);
        }
    }
}

impl Client {
    /// Writes what the socket takes; true when that was the rest.
    fn write(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.answer.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Drop for StatusListener {
    fn drop(&mut self) {
        // Left behind, because the user that the node runs as may not, it is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}
