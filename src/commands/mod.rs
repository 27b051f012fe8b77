//! What the program can be asked to do, one file a command, and how it may fail.

pub mod check_config;
pub mod demo;
pub mod run;
pub mod status;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{AccessFlags, access};

/// Why a command did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A mistake on the command line or in a file it names.
    Mistake(String),
    /// All mistakes of a file, a line each, for programs that jump to them (`FILE:LINE:COLUMN: ...`).
    Mistakes(Vec<String>),
    /// Anything else.
    Failed(String),
}

impl Failure {
    /// The first mistake of many, with a word on the others.
    pub(crate) fn first_of(mistakes: Vec<String>, file: &Path) -> Self {
        let others = mistakes.len().saturating_sub(1);
        let first = mistakes.into_iter().next().unwrap_or_default();
        Self::Mistake(match others {
            0 => first,
            _ => format!("{first} (and {others} more: berkeleyd check-config {})", file.display()),
        })
    }

    /// The program's exit status.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Mistake(_) | Self::Mistakes(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

/// One line, or one for each of [`Failure::Mistakes`], whatever strange characters came from outside.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistake(text) | Self::Failed(text) => write!(f, "berkeleyd: {}", one_line(text)),
            Self::Mistakes(lines) => {
                f.write_str(&lines.iter().map(|line| one_line(line)).collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

impl std::error::Error for Failure {}

/// A value may hold a line break or an escape sequence; a message that repeats it must not.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Writes what was asked for to the standard output. A reader that has seen enough (`| head -1`) is no failure.
///
/// # Errors
/// The output cannot be written otherwise: the disk is full.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where a node's status socket may be, in the order of preference: `berkeleyd.sock` in `$XDG_RUNTIME_DIR`, `/run`, `/tmp`.
///
/// A node takes the first that it can write to, see [`default_socket`]; `status` tries them all, since the
/// node may run as another user.
pub fn socket_places() -> Vec<PathBuf> {
    places(env::var_os("XDG_RUNTIME_DIR"))
}

/// The first of [`socket_places`] in which this process may create a socket.
pub fn default_socket() -> PathBuf {
    let is_writable = |place: &PathBuf| {
        place.parent().is_some_and(|dir| dir.is_dir() && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok())
    };
    socket_places().into_iter().find(is_writable).unwrap_or_else(|| Path::new("/tmp").join(SOCKET))
}

const SOCKET: &str = "berkeleyd.sock";

/// A relative `$XDG_RUNTIME_DIR` counts as none, as its specification says.
fn places(runtime_dir: Option<OsString>) -> Vec<PathBuf> {
    let runtime_dir = runtime_dir.map(PathBuf::from).filter(|dir| dir.is_absolute());
    runtime_dir.into_iter().chain(["/run".into(), "/tmp".into()]).map(|dir: PathBuf| dir.join(SOCKET)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_looked_for_in_the_runtime_directory_first() {
        let expected = |dirs: &[&str]| dirs.iter().map(|dir| Path::new(dir).join(SOCKET)).collect::<Vec<_>>();
        assert_eq!(places(Some("/run/user/7".into())), expected(&["/run/user/7", "/run", "/tmp"]));
        for unusable in [None, Some("".into()), Some("relative".into())] {
            assert_eq!(places(unusable), expected(&["/run", "/tmp"]));
        }
        assert!(socket_places().contains(&default_socket()));
    }

    #[test]
    fn a_failure_is_one_line_whatever_it_repeats() {
        let text = "a\nb\u{1b}[31m\r\u{85}".to_owned();
        for failure in [Failure::Mistake(text.clone()), Failure::Failed(text.clone()), Failure::Mistakes(vec![text])] {
            assert!(!failure.to_string().contains(char::is_control), "{failure}");
        }
    }
}
