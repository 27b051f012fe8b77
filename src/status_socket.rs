//! The Unix socket through which `berkeleyd status` looks into a running node: whoever connects gets one JSON object and
//! a line break, and the connection is closed. It takes no orders, it reads nothing.
//!
//! Only the owner and root may connect, whatever the directory allows. A client that does not read never holds the loop up. It costs a place and a bounded
//! buffer, until one that waits behind it gets the place: that of whoever has taken nothing for longest. Who goes on reading keeps its place, and those who
//! wait do so in the kernel, so that neither the dead nor the many cost more than [`CLIENTS`] answers.

use std::cell::LazyCell;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::fchownat;

use crate::privileges::Owner;
use crate::time::{LocalTime, Span};

/// Clients that are served at the same time. More wait in the kernel's queue.
const CLIENTS: usize = 8;
/// A client that has taken nothing for so long makes room for one that waits. Longer: a hundred dead ones keep the next waiting for longer than the
/// second that this makes. Shorter: on a busy machine the slow do not get the end of their answers.
const PATIENCE: Span = Span::from_millis(100);

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
    /// Nobody was let in for want of a place.
    is_full: bool,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    token: Token,
    /// The same for all who came at once.
    answer: Rc<[u8]>,
    written: usize,
    /// When it took something last.
    took: LocalTime,
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
        Ok(Self { listener, clients: Vec::new(), first_client: Token(first_token.0 + 1), is_full: false })
    }

    /// True when `token` is the listener's or a client's.
    pub fn owns(&self, token: Token) -> bool {
        (self.first_client.0 - 1..self.first_client.0 + CLIENTS).contains(&token.0)
    }

    /// When [`StatusSocket::serve`] is due although nobody is ready: somebody who takes nothing may have to make room. `None`: never.
    pub fn poll_timeout(&self) -> Option<LocalTime> {
        let longest = self.clients.iter().map(|client| client.took + PATIENCE).min();
        longest.filter(|_| self.is_full)
    }

    /// Serves whoever is ready, [`CLIENTS`] newcomers at most; `answer` is made when there is one, for all of them. True when there may be more:
    /// clients that come faster than they are served must not keep the node from its work.
    pub fn serve(&mut self, registry: &Registry, now: LocalTime, answer: impl FnOnce() -> Vec<u8>) -> bool {
        self.clients.retain_mut(|client| client.write(now).is_ok_and(|done| !done));
        let answer = LazyCell::new(|| Rc::<[u8]>::from(answer()));
        for _ in 0..CLIENTS {
            self.is_full = self.clients.len() >= CLIENTS && self.slowest(now).is_none();
            if self.is_full {
                return false;
            }
            match self.listener.listener.accept() {
                Ok((stream, _)) => self.welcome(registry, now, stream, Rc::clone(&answer)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Drained, or the client is gone already; whatever else it is, the next one may fare better.
                Err(_) => return false,
            }
        }
        true
    }

    /// The client that has taken nothing for longest, if that is too long.
    fn slowest(&self, now: LocalTime) -> Option<usize> {
        let (index, slowest) = self.clients.iter().enumerate().min_by_key(|(_, client)| client.took)?;
        (now - slowest.took >= PATIENCE).then_some(index)
    }

    fn welcome(&mut self, registry: &Registry, now: LocalTime, stream: UnixStream, answer: Rc<[u8]>) {
        let mut client = Client { stream, token: self.first_client, answer, written: 0, took: now };
        // Nearly always the answer fits the socket's buffer, and the client is done with here.
        if !client.write(now).is_ok_and(|done| !done) {
            return;
        }
        if self.clients.len() >= CLIENTS
            && let Some(slowest) = self.slowest(now)
        {
            self.clients.swap_remove(slowest);
        }
        let is_free = |token: &Token| !self.clients.iter().any(|client| client.token == *token);
        let Some(token) = (0..CLIENTS).map(|index| Token(self.first_client.0 + index)).find(is_free) else {
            return;
        };
        client.token = token;
        if registry.register(&mut client.stream, token, Interest::WRITABLE).is_ok() {
            self.clients.push(client);
        }
    }
}

impl Client {
    /// Writes what the socket takes; true when that was the rest.
    fn write(&mut self, now: LocalTime) -> io::Result<bool> {
        while let Some(rest) = self.answer.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written;
                    self.took = now;
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// More than the buffers of a Unix socket take, several times.
    const LONG: usize = 2_000_000;

    /// A socket that is served in virtual time.
    struct Desk {
        poll: mio::Poll,
        socket: StatusSocket,
        path: PathBuf,
        now: LocalTime,
        answers: usize,
        _dir: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sock");
            let poll = mio::Poll::new().unwrap();
            let listener = StatusListener::bind(&path, None).unwrap();
            let socket = StatusSocket::new(listener, poll.registry(), Token(5)).unwrap();
            Self { poll, socket, path, now: LocalTime::from_nanos(1), answers: 0, _dir: dir }
        }

        fn connect(&self) -> StdUnixStream {
            let stream = StdUnixStream::connect(&self.path).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        }

        /// Serves all that there is to serve, later by so much.
        fn serve(&mut self, later: Span) {
            self.now = self.now + later;
            while self.socket.serve(self.poll.registry(), self.now, || {
                self.answers += 1;
                vec![b'x'; LONG]
            }) {}
            assert!(self.socket.clients.len() <= CLIENTS);
            assert!(self.socket.poll_timeout().is_none_or(|next| next > self.now), "a busy loop");
        }
    }

    /// Reads at most so much of what is there; how much it was, and whether that was the end.
    fn read(mut client: &StdUnixStream, most: usize) -> (usize, bool) {
        let mut buffer = vec![0; most];
        match client.read(&mut buffer) {
            Ok(len) => (len, len == 0),
            Err(error) => (0, error.kind() != io::ErrorKind::WouldBlock),
        }
    }

    #[test]
    fn who_reads_slowly_is_served_among_a_hundred_who_never_read() {
        let mut desk = Desk::new();
        let dead: Vec<_> = (0..4).map(|_| desk.connect()).collect();
        let slow = desk.connect();
        let later: Vec<_> = (0..96).map(|_| desk.connect()).collect();
        let last = desk.connect();
        let mut taken = [0; 2];
        for _ in 0..2_000 {
            desk.serve(Span::from_millis(60));
            let mut is_over = true;
            for (client, taken) in [&slow, &last].into_iter().zip(&mut taken) {
                let (len, is_end) = read(client, 50_000);
                *taken += len;
                is_over &= is_end;
            }
            if is_over {
                break;
            }
        }
        assert_eq!(taken, [LONG; 2], "both have all of their answer");
        // One for all who came at once.
        assert!(desk.answers <= 30, "{}", desk.answers);
        drop((dead, later));
        desk.serve(Span::ZERO);
        assert!(desk.socket.clients.is_empty(), "nothing is left of who has gone");
    }

    #[test]
    fn nobody_loses_a_place_that_nobody_else_wants() {
        let mut desk = Desk::new();
        let dead: Vec<_> = (0..CLIENTS).map(|_| desk.connect()).collect();
        desk.serve(Span::ZERO);
        desk.serve(Span::from_secs(3_600));
        assert_eq!(desk.socket.clients.len(), CLIENTS);
        let mut taken = 0;
        while let (len, false) = read(&dead[3], LONG) {
            taken += len;
            desk.serve(Span::ZERO);
        }
        assert_eq!((taken, desk.socket.clients.len()), (LONG, CLIENTS - 1));
    }

    #[test]
    fn newcomers_wait_while_all_who_are_served_go_on() {
        let mut desk = Desk::new();
        let served: Vec<_> = (0..CLIENTS).map(|_| desk.connect()).collect();
        desk.serve(Span::ZERO);
        let waiting = desk.connect();
        desk.serve(Span::from_millis(50));
        assert_eq!(
            (read(&waiting, 1), desk.socket.poll_timeout()),
            ((0, false), Some(LocalTime::from_nanos(1) + PATIENCE))
        );
        served.iter().for_each(|client| assert!(read(client, LONG).0 > 0));
        desk.serve(Span::from_millis(49));
        assert_eq!(read(&waiting, 1), (0, false), "nobody is slow");
        desk.serve(PATIENCE);
        assert_eq!(read(&waiting, 1), (1, false), "one was");
    }
}
