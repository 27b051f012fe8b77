//! What the program can be asked to do, one file a command.

mod averages;
pub mod check_config;
pub mod demo;
mod draft;
pub mod exporter;
pub mod keygen;
mod progress;
pub mod run;
pub mod simulate;
pub mod status;
mod tree;
pub mod watch;
mod words;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anstream::AutoStream;
use nix::unistd::{AccessFlags, access};

pub use crate::failure::Failure;

/// Writes what was asked for to the standard output. A reader that has seen enough (`| head -1`) is no failure.
///
/// # Errors
/// The output cannot be written otherwise: the disk is full.
pub fn print(text: &str) -> Result<(), Failure> {
    write_to(io::stdout().lock(), text)
}

/// The same without its colours, unless the standard output is a terminal that wants them (`NO_COLOR`, `CLICOLOR`, `TERM`).
///
/// # Errors
/// As above.
pub fn print_coloured(text: &str) -> Result<(), Failure> {
    write_to(AutoStream::auto(io::stdout().lock()), text)
}

fn write_to(mut out: impl Write, text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where a node's status socket may be, in the order of preference: `berkeleyd.sock` in `$XDG_RUNTIME_DIR`, `/run`, `/run/berkeleyd`, `/tmp`.
///
/// A node takes the first that it can write to, see [`default_socket`]; `status` tries them all, since the
/// node may run as another user: that of a service has a directory of its own in `/run`.
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
    let always = ["/run", "/run/berkeleyd", "/tmp"].map(PathBuf::from);
    runtime_dir.into_iter().chain(always).map(|dir| dir.join(SOCKET)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_looked_for_in_the_runtime_directory_first() {
        let expected = |dirs: &[&str]| dirs.iter().map(|dir| Path::new(dir).join(SOCKET)).collect::<Vec<_>>();
        assert_eq!(places(Some("/run/user/7".into())), expected(&["/run/user/7", "/run", "/run/berkeleyd", "/tmp"]));
        for unusable in [None, Some("".into()), Some("relative".into())] {
            assert_eq!(places(unusable), expected(&["/run", "/run/berkeleyd", "/tmp"]));
        }
        assert!(socket_places().contains(&default_socket()));
    }
}
