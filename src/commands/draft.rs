//! A file that a command writes: whole under its name, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

/// Where a file is to appear, known to be writable.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Beside `file`, so that renaming needs no copying.
    draft: PathBuf,
    file: PathBuf,
}

impl Draft {
    /// Finds out whether the file can be written, without a trace.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        // A link stays one: what it leads to is replaced.
        let file = match fs::canonicalize(path) {
            Ok(existing) if existing.is_file() => existing,
            Ok(existing) if existing.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            // Replacing a device or a pipe is not what anybody wants.
            Ok(_) => return Err(io::Error::other("not a regular file")),
            Err(_) => path.to_owned(),
        };
        let name = file.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let draft = file.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), process::id()));
        let draft = Self { draft, file };
        draft.open()?;
        fs::remove_file(&draft.draft)?;
        Ok(draft)
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(&self.draft)
    }

    /// Writes the file, or leaves what was there.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let written = self.open().and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let replaced = written.and_then(|()| fs::rename(&self.draft, &self.file));
        if replaced.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&self.draft);
        }
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    #[test]
    fn a_file_is_replaced_whole_and_a_link_stays() {
        let dir = TempDir::new().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        let draft = Draft::new(&link).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
        draft.write(b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_told_beforehand() {
        let dir = TempDir::new().unwrap();
        for path in [dir.path(), &dir.path().join("none/a.svg"), Path::new("/dev/null"), Path::new("/"), Path::new("")]
        {
            assert!(Draft::new(path).is_err(), "{path:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
