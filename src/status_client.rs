//! Asking a running node what it knows, through its status socket; and why there is no answer, in one line that says what to do.
//!
//! The other end is `status_socket.rs`. What answers may be anybody, since `/tmp` is one of the places that are looked at.

use std::fmt::{self, Display};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::local_clock::LocalClock;
use crate::status::Status;
use crate::time::{Skew, Span};

/// A node answers within a millisecond; one that is stopped (SIGSTOP) accepts and never answers.
pub const PATIENCE: Span = Span::from_secs(2);
/// A long answer of a busy node comes in pieces.
const LONGER: i64 = 5;
/// The longest answer that is read: a status of so many slaves as a node may have at most takes some 8 MB.
const LONGEST: u64 = 64 << 20;

/// Why there is no status.
#[derive(Debug)]
pub enum Silence {
    /// Nobody answers, at present.
    NoAnswer(String),
    /// Who answers speaks another language, and will when it is asked again.
    Foreign(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(text) | Self::Foreign(text) => f.write_str(text),
        }
    }
}

/// The JSON text that the node at `path` gives.
///
/// # Errors
/// No node listens there, or it does not answer in time.
pub fn fetch(path: &Path) -> io::Result<String> {
    fetch_within(PATIENCE, path)
}

/// `patience`: with the connection, and with each piece of the answer; with all of it [`LONGER`] times as much.
fn fetch_within(patience: Span, path: &Path) -> io::Result<String> {
    let clock = LocalClock::new(Skew::ZERO)?;
    let deadline = clock.now() + patience.times(LONGER);
    let timeout = Some(patience.to_std());
    // A stopped node's queue may be full, and connecting would last for ever: the library's stream cannot be told to give up.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(timeout)?;
    socket.set_read_timeout(timeout)?;
    socket.connect(&SockAddr::unix(path)?)?;
    let mut stream = UnixStream::from(std::os::fd::OwnedFd::from(socket)).take(LONGEST);
    let (mut text, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into()),
            Ok(length) => text.extend_from_slice(piece.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Who gives a byte a second would hold us for ever.
        if clock.now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// What somebody said at a socket.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Which one.
    pub path: &'a Path,
    /// All of it, to the line break.
    pub text: String,
}

impl<'a> Answer<'a> {
    /// What the first of these sockets says at which a node answers.
    ///
    /// # Errors
    /// No node does.
    pub fn of_first(places: &'a [PathBuf], patience: Span) -> Result<Self, Silence> {
        let mut refused = None;
        for path in places {
            match fetch_within(patience, path) {
                Ok(text) if text.ends_with('\n') => return Ok(Self { path, text }),
                Ok(_) => refused = Some(format!("the node at {} ended within its answer", path.display())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => refused = Some(no_answer(path, &error)),
            }
        }
        let names: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        Err(Silence::NoAnswer(refused.unwrap_or_else(|| {
            format!(
                "no node runs here: there is no status socket {}; start one, or name its socket (--socket)",
                names.join(", ")
            )
        })))
    }

    /// It as a value.
    ///
    /// # Errors
    /// It is no status that this version of the program can read.
    pub fn status(&self) -> Result<Status, Silence> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let path = self.path.display();
        serde_json::from_str(&self.text).map_err(|error| {
            Silence::Foreign(match serde_json::from_str::<Version>(&self.text) {
                Ok(Version { version }) => format!(
                    "the node at {path} has version {version}, and {} cannot read its status ({error}): use the program of that \
                     version, or --json",
                    env!("CARGO_PKG_VERSION")
                ),
                Err(_) => no_node(path),
            })
        })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else the system says speaks for itself")]
fn no_answer(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("no node runs here: it has left its status socket {path} behind; start it again")
        }
        io::ErrorKind::PermissionDenied => {
            format!("status socket {path} is another user's: ask as the user that the node runs as, or as root")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the node at {path} does not answer: it is stopped or overloaded")
        }
        io::ErrorKind::InvalidData => no_node(path),
        _ => format!("status socket {path}: {error}"),
    }
}

fn no_node(path: impl Display) -> String {
    format!("what answers at {path} is no node: name a node's socket (--socket)")
}
