//! `berkeleyd keygen`: a fresh key, in a key file of its own or behind the keys of another.
//!
//! What is printed is secret. So it goes to the standard output alone, and every buffer that held it here is zeroed.

use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::geteuid;
use toml::value::Datetime;
use zeroize::Zeroizing;

use crate::commands::{Failure, print};
use crate::key_file;
use crate::keys::{KEY_LEN, KeyId};
use crate::settings::whole;
use crate::time::Time;

/// What stands above the first key.
const HEADER: &str = "\
# Keys of a berkeleyd ensemble. Whoever can read this file can move its clocks.
#
# Every node needs it, readable by nobody but the user that berkeleyd runs as (mode 600):
#
#   (umask 077; berkeleyd keygen > berkeleyd.keys)
#   scp -p berkeleyd.keys root@NODE:/etc/berkeleyd.keys
#   berkeleyd --key-file /etc/berkeleyd.keys ...
#
# The first key is sent with, until the `send-from` of another one has come. All are accepted, until their
# `accept-until`. docs/keys.md says how a key is replaced while the nodes run.
";

/// Room for the header, or for a date, and for a key: the buffer never grows, which would leave copies behind.
const ROOM: usize = HEADER.len() + 256;

/// Which key to make.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct Options {
    /// Its number, from 1 [default: 1, or one above those in FILE]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1..=u32::MAX))]
    id: Option<u32>,
    /// Print the keys of this file first, which are then preferred
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
    /// Prefer it from then on, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "DATE", value_parser = date)]
    send_from: Option<Datetime>,
}

fn date(text: &str) -> Result<Datetime, String> {
    let date: Option<Datetime> = text.parse().ok();
    date.filter(|date| key_file::time_of(date).is_some()).ok_or_else(|| format!("must be {}", key_file::DATE_FORM))
}

/// Prints a key file.
///
/// # Errors
/// A mistake in the file that is added to, or the number is taken; the system has no randomness to give.
pub fn keygen(options: &Options) -> Result<(), Failure> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(&mut *key).map_err(|error| Failure::Failed(format!("no random numbers: {error}")))?;
    print(&text(options, &key).map_err(Failure::Mistake)?)
}

/// The text of the file.
fn text(options: &Options, key: &[u8; KEY_LEN]) -> Result<Zeroizing<String>, String> {
    let (former, highest) = match &options.add {
        Some(path) => former_keys(path, options.id)?,
        None => (Zeroizing::new(HEADER.to_owned()), 0),
    };
    let next = || highest.checked_add(1).ok_or("there is no number above the highest in the file: give one with --id");
    let id = options.id.map_or_else(next, Ok)?;
    let mut text = Zeroizing::new(String::with_capacity(former.len() + ROOM));
    text.push_str(former.trim_end());
    text.push_str(&format!("\n\n[[key]]\nid = {id}\n"));
    if let Some(date) = options.send_from {
        text.push_str(&format!("send-from = {date}\n"));
    }
    text.push_str("key = \"");
    for byte in key {
        for digit in [byte >> 4, byte & 0xf] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text.push_str("\"\n");
    // Whatever stands in the file that is added to: what is printed is a key file.
    let name = options.add.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    key_file::parse(&name, &text, BEFORE_ALL)?;
    Ok(text)
}

/// A time at which no key has expired: a key is added to expired ones as well.
const BEFORE_ALL: Time = Time::from_nanos(i64::MIN);

/// The text of a key file, and the highest number in it. `wanted`: a number that must be free.
fn former_keys(path: &Path, wanted: Option<u32>) -> Result<(Zeroizing<String>, u32), String> {
    let text = key_file::text_of(path, geteuid())?;
    let ring = key_file::parse(&path.display().to_string(), &text, BEFORE_ALL)?;
    let numbers = || ring.keys().map(|(id, _)| id);
    match wanted.map(KeyId::new).filter(|wanted| numbers().any(|id| id == *wanted)) {
        Some(taken) => Err(format!("--id {taken}: {} has a key {taken} already", path.display())),
        None => Ok((text, numbers().map(KeyId::get).max().unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRing;
    use crate::time::Span;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::NamedTempFile;

    const KEY: [u8; KEY_LEN] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x7f, 0x80, 0xff];

    fn file_with(text: &str) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    fn ids(ring: &KeyRing) -> Vec<u32> {
        ring.keys().map(|(id, _)| id.get()).collect()
    }

    fn add(file: &NamedTempFile, id: Option<u32>) -> Result<Zeroizing<String>, String> {
        text(&Options { id, add: Some(file.path().to_owned()), ..Options::default() }, &KEY)
    }

    #[test]
    fn a_fresh_file_has_one_key_and_says_what_to_do_with_it() {
        let made = text(&Options { id: Some(7), ..Options::default() }, &KEY).unwrap();
        assert!(made.ends_with("\n[[key]]\nid = 7\nkey = \"000102030405060708090a0b0c7f80ff\"\n"), "{}", *made);
        assert!(made.starts_with(HEADER) && made.lines().all(|line| line.len() <= 120));
        let text = text(&Options::default(), &KEY).unwrap();
        assert_eq!(ids(&key_file::parse("f", &text, BEFORE_ALL).unwrap()), [1]);
    }

    #[test]
    fn a_key_is_added_behind_the_others_and_nothing_else_changes() {
        let former = format!("# ours\n{}# last", *text(&Options { id: Some(41), ..Options::default() }, &KEY).unwrap());
        let file = file_with(&former);
        let made = add(&file, None).unwrap();
        assert!(made.starts_with(&former));
        assert_eq!(ids(&key_file::parse("f", &made, BEFORE_ALL).unwrap()), [41, 42]);
        let send_from: Datetime = "2027-01-01T00:00:00Z".parse().unwrap();
        let made = text(&Options { id: Some(3), add: Some(file.path().to_owned()), send_from: Some(send_from) }, &KEY)
            .unwrap();
        assert!(made.contains("\n[[key]]\nid = 3\nsend-from = 2027-01-01T00:00:00Z\nkey = \""), "{}", *made);
        let keys: Vec<_> = key_file::parse("f", &made, BEFORE_ALL).unwrap().keys().collect();
        assert_eq!(keys[1].1.send_from, Some(Time::from_nanos(0) + Span::from_secs(1_798_761_600)));
    }

    #[test]
    fn what_cannot_be_added_to_is_told() {
        let digits = "00".repeat(KEY_LEN);
        for (former, id, expected) in [
            (format!("[[key]]\nid = 5\nkey = '{digits}'"), Some(5), "has a key 5 already"),
            (format!("[[key]]\nid = {}\nkey = '{digits}'", u32::MAX), None, "give one with --id"),
            ("[[key]]\nid = 5".to_owned(), None, "key 5 has no `key`"),
            ("".to_owned(), None, "there is no key"),
            (format!("key = [{{ id = 1, key = '{digits}' }}]"), None, "duplicate key"),
            ((1..=16).map(|id| format!("[[key]]\nid = {id}\nkey = '{digits}'\n")).collect(), None, "more than 16 keys"),
        ] {
            let found = add(&file_with(&former), id).map(drop).expect_err("refused");
            assert!(found.contains(expected), "{found} instead of {expected}");
        }
        let expired = file_with(&format!("[[key]]\nid = 5\naccept-until = 1970-01-01T00:00:00Z\nkey = '{digits}'"));
        assert!(add(&expired, None).is_ok());
    }

    #[test]
    fn dates_are_complete() {
        assert!(date("2027-01-01T00:00:00Z").is_ok());
        for text in ["", "2027-01-01", "2027-01-01T00:00:00", "00:00:00", "2027-13-01T00:00:00Z", "now"] {
            assert!(date(text).is_err(), "{text}");
        }
    }
}
