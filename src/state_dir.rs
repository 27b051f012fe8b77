//! What a node keeps across restarts, one small text file a fact, in the directory of `--state-dir`.
//!
//! Its number, in `identity`, and how its oscillator runs, in `drift`. A file is replaced whole or not at all, even if the power fails, and what cannot be
//! understood is an error and not a fresh start: a node that silently changes its number leaves a dead member behind.
//! A directory belongs to one node at a time.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::identity::NodeId;
use crate::privileges::Owner;
use crate::time::Skew;

/// The file with the node's number: decimal, on one line.
const IDENTITY: &str = "identity";
/// The file with the ensemble's rate relative to the node's local clock: in ppm, a decimal fraction, on one line.
const DRIFT: &str = "drift";

/// No oscillator is worse, or it could not be slewed either.
const LARGEST_DRIFT: Skew = Skew::from_ppm(500);

/// A directory with one node's state.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Why the state cannot be read or kept.
#[derive(Debug)]
pub enum StateError {
    /// The path leads to something else.
    NotADirectory(PathBuf),
    /// The file holds something else than it should.
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The system refused.
    System {
        /// What was tried.
        attempt: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory(path) => write!(f, "{} is not a directory", path.display()),
            Self::Corrupt { file, expected } => {
                write!(f, "{} does not hold {expected}: correct it, or remove it for a new one", file.display())
            }
            Self::System { attempt, path, error } => write!(f, "cannot {attempt} {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { error, .. } => Some(error),
            Self::NotADirectory(_) | Self::Corrupt { .. } => None,
        }
    }
}

fn system(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |error| StateError::System { attempt, path: path.to_owned(), error }
}

/// Makes a directory somebody else's, and not what may have taken its place.
fn give(path: &Path, Owner { uid, gid }: Owner) -> io::Result<()> {
    let only_directory = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let directory = File::options().read(true).custom_flags(only_directory.bits()).open(path)?;
    fchown(directory, Some(uid.as_raw()), Some(gid.as_raw()))
}

impl StateDir {
    /// The directory at `path`. If it is missing it is made, for `owner` if it is not for this process's user; its parent must exist, so that
    /// a mistyped path is noticed.
    ///
    /// # Errors
    /// There is something else, or no directory can be made.
    pub fn open(path: &Path, owner: Option<Owner>) -> Result<Self, StateError> {
        match fs::create_dir(path) {
            Ok(()) => owner.map_or(Ok(()), |owner| give(path, owner)).map_err(system("give away directory", path))?,
            Err(_) if path.is_dir() => {}
            Err(_) if path.exists() => return Err(StateError::NotADirectory(path.to_owned())),
            Err(error) => return Err(system("make directory", path)(error)),
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The node's number: the one that is kept here, or else one that is drawn now and kept.
    ///
    /// # Errors
    /// The file holds no number, or cannot be read or written.
    pub fn node_id(&self, draw: impl FnOnce() -> NodeId) -> Result<NodeId, StateError> {
        if let Some(text) = self.read(IDENTITY)? {
            let number = text.trim_ascii().parse().ok().filter(|number| *number != 0);
            return number.map(NodeId::new).ok_or_else(|| StateError::Corrupt {
                file: self.path.join(IDENTITY),
                expected: "a node number (a positive decimal number)",
            });
        }
        let node_id = draw();
        self.write(IDENTITY, &format!("{node_id}\n"))?;
        Ok(node_id)
    }

    /// The ensemble's rate relative to the node's local clock, as it was when it was last saved; `None` before the first time.
    ///
    /// # Errors
    /// The file holds no rate that an oscillator could have, or cannot be read.
    pub fn drift(&self) -> Result<Option<Skew>, StateError> {
        let Some(text) = self.read(DRIFT)? else {
            return Ok(None);
        };
        let ppm = text.trim_ascii().parse::<f64>().ok().filter(|ppm| ppm.is_finite());
        let rate = ppm.map(|ppm| Skew::from_ratio(ppm / 1e6)).filter(|rate| rate.abs() <= LARGEST_DRIFT);
        rate.map(Some).ok_or_else(|| StateError::Corrupt {
            file: self.path.join(DRIFT),
            expected: "an oscillator's rate (in ppm, between -500 and 500)",
        })
    }

    /// Keeps the rate for the node's next life.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_drift(&self, rate: Skew) -> Result<(), StateError> {
        let rate = rate.clamped(LARGEST_DRIFT);
        self.write(DRIFT, &format!("{:.6}\n", rate.as_ratio() * 1e6))
    }

    /// A file's text, whatever its bytes: what is no UTF-8 is no number either. `None` when there is no such file.
    fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        let file = self.path.join(name);
        match fs::read(&file) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(system("read", &file)(error)),
        }
    }

    /// Replaces a file by way of a second one, which takes its name only once it is safely on the disk; then the name is
    /// made safe as well.
    fn write(&self, name: &str, text: &str) -> Result<(), StateError> {
        let draft = self.path.join(format!("{name}.new"));
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(system("write", &draft))?;
        let file = self.path.join(name);
        fs::rename(&draft, &file).map_err(system("replace", &file))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(system("save directory", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn drawn(number: u64) -> impl FnOnce() -> NodeId {
        move || NodeId::new(number)
    }

    fn not_drawn() -> NodeId {
        panic!("drew a number although there is one")
    }

    #[test]
    fn a_number_is_drawn_once_and_kept() {
        let parent = TempDir::new().unwrap();
        let path = parent.path().join("state");
        assert_eq!(
            StateDir::open(&path, None).unwrap().node_id(drawn(281_474_976_710_655)).unwrap().get(),
            (1 << 48) - 1
        );
        assert_eq!(StateDir::open(&path, None).unwrap().node_id(not_drawn).unwrap().get(), (1 << 48) - 1);
        assert_eq!(fs::read_to_string(path.join("identity")).unwrap(), "281474976710655\n");
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["identity"], "nothing else is left behind");
    }

    #[test]
    fn a_number_written_by_hand_is_taken() {
        let dir = TempDir::new().unwrap();
        for text in ["7", " 7 \r\n", "0007\n"] {
            fs::write(dir.path().join("identity"), text).unwrap();
            assert_eq!(
                StateDir::open(dir.path(), None).unwrap().node_id(not_drawn).unwrap(),
                NodeId::new(7),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_corrupt_file_is_named_and_left_alone() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("identity");
        for bytes in [&b""[..], b"\n", b"0\n", b"-1", b"seven", b"7 8", b"\xff\xfe7", b"18446744073709551616"] {
            fs::write(&file, bytes).unwrap();
            let error = StateDir::open(dir.path(), None).unwrap().node_id(not_drawn).unwrap_err().to_string();
            let expected = format!("{} does not hold a node number", file.display());
            assert!(error.starts_with(&expected), "{error:?} for {bytes:?}");
            assert_eq!(fs::read(&file).unwrap(), bytes);
        }
    }

    #[test]
    fn a_drift_is_kept_to_the_millionth_part_of_a_ppm() {
        let dir = TempDir::new().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        assert_eq!(state.drift().unwrap(), None);
        for ppt in [0, 12_345_678, -83_000_001, 500_000_000] {
            state.save_drift(Skew::from_ppt(ppt)).unwrap();
            assert_eq!(state.drift().unwrap(), Some(Skew::from_ppt(ppt)));
        }
        state.save_drift(Skew::from_ppm(5_000)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("drift")).unwrap(), "500.000000\n");
        for text in ["", "fast", "nan", "inf", "500.1", "1 2"] {
            fs::write(dir.path().join("drift"), text).unwrap();
            let error = state.drift().unwrap_err().to_string();
            assert!(error.contains("drift does not hold an oscillator's rate"), "{error:?} for {text:?}");
        }
    }

    #[test]
    fn what_a_crash_left_half_written_does_no_harm() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("identity.new"), "99999999999").unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        assert_eq!(state.node_id(drawn(5)).unwrap(), NodeId::new(5));
        assert_eq!(state.node_id(not_drawn).unwrap(), NodeId::new(5));
    }

    #[test]
    fn a_place_that_is_no_directory_or_cannot_be_made_is_refused() {
        let parent = TempDir::new().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateDir::open(&file, None).unwrap_err().to_string();
        assert_eq!(error, format!("{} is not a directory", file.display()));
        let deep = parent.path().join("no/such");
        let error = StateDir::open(&deep, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot make directory {}: ", deep.display())), "{error}");
    }

    #[test]
    fn a_place_that_cannot_be_read_or_written_is_named() {
        // Not by permissions, which do not bind root, under whom tests may run.
        let dir = TempDir::new().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        let draft = dir.path().join("identity.new");
        symlink("/no/such/place", &draft).unwrap();
        let error = state.node_id(drawn(5)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}: ", draft.display())), "{error}");
        let file = dir.path().join("identity");
        fs::create_dir(&file).unwrap();
        let error = state.node_id(not_drawn).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", file.display())), "{error}");
    }
}
