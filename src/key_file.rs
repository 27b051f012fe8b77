//! The key file: which keys a node holds, in TOML, and the one line that says what is wrong with it.
//!
//! ```toml
//! [[key]]
//! id = 1
//! key = "000102030405060708090a0b0c0d0e0f"
//!
//! [[key]]
//! id = 2
//! send-from = 2027-01-01T00:00:00Z      # optional
//! accept-until = 2028-01-01T00:00:00Z   # optional
//! key = "101112131415161718191a1b1c1d1e1f"
//! ```
//!
//! The order is that of [`KeyRing`], and so is the meaning of the dates. `key` is written last, so that a file that was cut off
//! lacks a key and not only its dates.
//!
//! Whoever can read the file can move the clocks, so that a file that others can read is refused: it is the reader's alone, or root's and a
//! group may read it (the rule of PostgreSQL for its keys). That is asked of the open file, not of its name, which may lead somewhere else a
//! moment later. Its text is zeroed when it has been read, no complaint
//! repeats what may be a key, and a key that is written with escapes is refused, because the reader would make a copy of it.
//!
//! A file whose keys have all expired is useless and refused when it is read. That is judged by the machine's clock, since there is no other
//! yet; who has it wrong is told what to do, and a file that has a key without `accept-until` is never concerned.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Uid, geteuid};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};
use zeroize::{Zeroize, Zeroizing};

use crate::config_file::{Position, nearest};
use crate::keys::{KEY_LEN, Key, KeyId, KeyRing, Lifetime};
use crate::local_clock::LocalClock;
use crate::time::{Skew, Span, Time};

/// A larger file holds no keys: somebody named another one. Sixteen keys with a page of comments each fit.
const MAX_SIZE: usize = 1 << 16;

/// The fields of a key.
const FIELDS: [&str; 4] = ["id", "send-from", "accept-until", "key"];

/// A longer name in a complaint might be a key that stands in the wrong place.
const LONGEST_NAME: usize = 15;

/// A key file, and the keys that were in it when it was read.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    /// What to use.
    pub keys: KeyRing,
}

impl KeyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(path: PathBuf) -> Result<Self, String> {
        Ok(Self { keys: load_now(&path, geteuid())?, path })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// As [`load`].
    pub fn reload(&self) -> Result<Self, String> {
        Self::load(self.path.clone())
    }
}

/// What `reader` finds in a file by the machine's clock.
///
/// # Errors
/// As [`load`].
pub fn load_now(path: &Path, reader: Uid) -> Result<KeyRing, String> {
    let now = LocalClock::new(Skew::ZERO).map_err(|error| error.to_string())?.pair().system;
    load(path, reader, now)
}

/// Reads the keys in a file as [`text_of`] does. `now`: by the machine's clock.
///
/// # Errors
/// Which file, where in it, and what is wrong, in one line: that of the first mistake.
pub fn load(path: &Path, reader: Uid, now: Time) -> Result<KeyRing, String> {
    parse(&path.display().to_string(), &text_of(path, reader)?, now)
}

/// The text of a file that nobody but `reader` can read, or a group to which root gave it.
///
/// # Errors
/// Which file, and why not.
pub fn text_of(path: &Path, reader: Uid) -> Result<Zeroizing<String>, String> {
    let file = path.display();
    let cannot = |error: io::Error| {
        // Root's file, most likely, and nobody is root any more.
        if error.kind() == io::ErrorKind::PermissionDenied {
            return format!("{file}: user {} may not read it: chown it to that user", geteuid());
        }
        format!("{file}: cannot be read: {error}")
    };
    // Opening a pipe that nobody writes to would wait for ever.
    let flags = OFlag::O_NONBLOCK.bits();
    let mut opened = File::options().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let metadata = opened.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(format!("{file}: not a regular file"));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let owner = Uid::from_raw(metadata.uid());
    // Root gives a file to a user through its group: so do packages, and Kubernetes with its secrets.
    let is_given = owner.is_root() && !reader.is_root() && mode & 0o040 != 0;
    let forbidden = if is_given { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(format!(
            "{file}: others may use it (its mode is {mode:04o}): chmod 600 it, if nobody has read it yet"
        ));
    }
    if owner != reader && !is_given {
        return Err(format!("{file}: belongs to user {owner}, but must belong to user {reader}, who reads it"));
    }
    // As large as it can be from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SIZE + 1));
    let limit = u64::try_from(MAX_SIZE + 1).unwrap_or(u64::MAX);
    opened.by_ref().take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > MAX_SIZE {
        return Err(format!("{file}: larger than a key file can be ({} KiB)", MAX_SIZE >> 10));
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            let position = Position::of(error.as_bytes(), error.utf8_error().valid_up_to());
            error.into_bytes().zeroize();
            Err(format!("{file}:{position}: not UTF-8 text"))
        }
    }
}

/// Reads the keys in a text; `file` is its name in complaints, `now` the machine's time.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &str, text: &str, now: Time) -> Result<KeyRing, String> {
    let keys = keys_of(text).map_err(|Mistake { at, fault }| {
        let position = Position::of(text.as_bytes(), at.start);
        format!("{file}:{position}: {fault}")
    })?;
    let ring = KeyRing::new(keys).map_err(|error| format!("{file}: {error}"))?;
    if ring.is_expired(now) {
        return Err(format!("{file}: all keys have expired by this machine's clock: add a new one, or set the clock"));
    }
    Ok(ring)
}

/// What is wrong, and where: bytes of the text.
struct Mistake {
    at: Range<usize>,
    fault: String,
}

fn mistake(at: Range<usize>, fault: impl Into<String>) -> Mistake {
    Mistake { at, fault: fault.into() }
}

fn keys_of(text: &str) -> Result<Vec<(KeyId, Key, Lifetime)>, Mistake> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.iter().min_by_key(|error| error.span().unwrap_or_default().start) {
        return Err(mistake(error.span().unwrap_or_default(), error.message()));
    }
    let mut keys: Vec<(KeyId, Key, Lifetime)> = Vec::new();
    for (name, value) in document.get_ref() {
        if name.get_ref() != "key" {
            return Err(unknown(name, &["key"], "[[key]]"));
        }
        let no_table = |at| mistake(at, "each key must begin with [[key]], with two brackets");
        for table in value.get_ref().as_array().ok_or_else(|| no_table(name.span()))? {
            let fields = table.get_ref().as_table().ok_or_else(|| no_table(table.span()))?;
            let (id, key, lifetime) = key_of(fields, table.span())?;
            if keys.iter().any(|(other, ..)| *other == id.0) {
                return Err(mistake(id.1, format!("there is a key {} already", id.0)));
            }
            keys.push((id.0, key, lifetime));
        }
    }
    Ok(keys)
}

fn unknown(name: &Spanned<impl AsRef<str>>, known: &[&'static str], what: &str) -> Mistake {
    let text = name.get_ref().as_ref();
    let fault = match nearest(text, known) {
        Some(nearest) => format!("unknown field `{text}`, did you mean `{nearest}`?"),
        None if text.len() > LONGEST_NAME => format!("unknown field, not {what}"),
        None => format!("unknown field `{text}`, not {what}"),
    };
    mistake(name.span(), fault)
}

/// A key, with the place of its number.
type Placed = ((KeyId, Range<usize>), Key, Lifetime);

fn key_of(fields: &DeTable<'_>, at: Range<usize>) -> Result<Placed, Mistake> {
    let (mut id, mut key, mut lifetime) = (None, None, Lifetime::default());
    for (name, value) in fields {
        match name.get_ref().as_ref() {
            "id" => id = Some((number(value)?, value.span())),
            "key" => key = Some(bytes(value)?),
            "send-from" => lifetime.send_from = Some(date(value)?),
            "accept-until" => lifetime.accept_until = Some(date(value)?),
            _ => return Err(unknown(name, &FIELDS, &format!("one of {}", FIELDS.join(", ")))),
        }
    }
    if lifetime.send_from.zip(lifetime.accept_until).is_some_and(|(from, until)| until <= from) {
        return Err(mistake(at, "`accept-until` must be later than `send-from`"));
    }
    let id = id.ok_or_else(|| mistake(at.clone(), "this key has no `id`"))?;
    let key = key.ok_or_else(|| mistake(at, format!("key {} has no `key`: the file may have been cut off", id.0)))?;
    Ok((id, key, lifetime))
}

fn number(value: &Spanned<DeValue<'_>>) -> Result<KeyId, Mistake> {
    let number =
        value.get_ref().as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
    let fault = || mistake(value.span(), format!("`id` must be a whole number from 1 to {}", u32::MAX));
    number.filter(|number| *number != 0).map(KeyId::new).ok_or_else(fault)
}

/// The bytes that hexadecimal digits stand for. A complaint does not repeat them.
fn bytes(value: &Spanned<DeValue<'_>>) -> Result<Key, Mistake> {
    let fault = |fault: String| mistake(value.span(), fault);
    let DeValue::String(digits) = value.get_ref() else {
        let found = value.get_ref().type_str();
        return Err(fault(format!("`key` must be a string of {} hexadecimal digits, not {found}", 2 * KEY_LEN)));
    };
    let Cow::Borrowed(digits) = digits else {
        return Err(fault("`key` must be written without escapes".to_owned()));
    };
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if let Some(wrong) = digits.chars().position(|digit| !digit.is_ascii_hexdigit()) {
        return Err(fault(format!("character {} of `key` is no hexadecimal digit", wrong + 1)));
    }
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != KEY_LEN || !rest.is_empty() {
        return Err(fault(format!("`key` must have {} hexadecimal digits, not {}", 2 * KEY_LEN, digits.len())));
    }
    for (byte, pair) in key.iter_mut().zip(pairs) {
        for digit in pair {
            // They are digits, all of them.
            let value = char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = *byte << 4 | value.unwrap_or_default();
        }
    }
    Ok(Key::new(*key))
}

fn date(value: &Spanned<DeValue<'_>>) -> Result<Time, Mistake> {
    let time = value.get_ref().as_datetime().and_then(time_of);
    time.ok_or_else(|| mistake(value.span(), format!("must be {DATE_FORM} (without quotation marks)")))
}

/// What a date must look like.
pub(crate) const DATE_FORM: &str = "a date with time and zone, such as 2027-01-01T00:00:00Z";

/// The instant that a date names, if it has a time and a zone. What is too far away is as far as can be told, 292 years.
pub(crate) fn time_of(date: &Datetime) -> Option<Time> {
    let (date, time, offset) = (date.date?, date.time?, date.offset?);
    let minutes_ahead = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_1970(date.year.into(), date.month.into(), date.day.into());
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - minutes_ahead;
    let seconds = Span::from_secs(minutes * 60 + i64::from(time.second.unwrap_or(0)));
    Some(Time::from_nanos(0) + seconds + Span::from_nanos(time.nanosecond.unwrap_or(0).into()))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, of a year that is not negative.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // A year that begins in March has its leap day at its end, and the lengths of its months follow a formula
    // (Zeller's congruence uses the same).
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_before_the_month = (153 * month + 2) / 5;
    // Day 1 of March of the year 0 is 719,468 days before 1970-01-01.
    365 * year + leap_days + days_before_the_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    const DIGITS: &str = "00112233445566778899aAbBcCdDeEfF";

    fn key(fields: &str) -> String {
        format!("[[key]]\n{fields}\nkey = \"{DIGITS}\"\n")
    }

    fn parsed(text: &str) -> Result<KeyRing, String> {
        parse("f", text, Time::from_nanos(0))
    }

    fn time(text: &str) -> i64 {
        let ring = parsed(&key(&format!("id = 1\naccept-until = {text}"))).unwrap();
        ring.keys().next().and_then(|(_, lifetime)| lifetime.accept_until).unwrap().as_nanos()
    }

    #[test]
    fn keys_are_read_in_their_order() {
        let text =
            key("id = 7") + "# a comment\n" + &key("id = 0x5\nsend-from = 1970-01-01T00:01:00+00:00") + &key("id = 6");
        let ring = parsed(&text).unwrap();
        let send_from = Some(Time::from_nanos(60_000_000_000));
        let expected = [(7, None), (5, send_from), (6, None)]
            .map(|(id, send_from)| (KeyId::new(id), Lifetime { send_from, accept_until: None }));
        assert_eq!(ring.keys().collect::<Vec<_>>(), expected);
        // On one line each as well.
        let inline = format!("key = [{{ id = 1, key = '{DIGITS}' }}, {{ id = 2, key = '{DIGITS}' }}]");
        assert_eq!(parsed(&inline).unwrap().keys().len(), 2);
    }

    #[test]
    fn digits_are_the_bytes_of_the_key() {
        // The first example of RFC 4493, section 4.
        let text = "[[key]]\nid = 1\nkey = '2B7e151628aed2a6abf7158809cf4f3c'";
        let mut ring = parsed(text).unwrap();
        let code = ring.sending(None).unwrap().mac.code(&[]);
        assert_eq!(code[..8], [0xbb, 0x1d, 0x69, 0x29, 0xe9, 0x59, 0x37, 0x28]);
    }

    #[test]
    fn dates_have_a_zone() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:01.5Z", 1_500_000_000),
            ("1970-01-01T02:00:00+01:30", 1_800_000_000_000),
            ("1969-12-31T23:59:59Z", -1_000_000_000),
            // `date -u -d ... +%s`
            ("2000-02-29T12:00:00Z", 951_825_600_000_000_000),
            ("2026-11-22T11:05:07Z", 1_795_345_507_000_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000_000_000),
            ("0000-01-01T00:00:00Z", i64::MIN),
            ("9999-12-31T23:59:59Z", i64::MAX),
        ] {
            let found = parse("f", &key(&format!("id = 1\naccept-until = {text}")), Time::from_nanos(i64::MIN));
            let found = found.map(|ring| ring.keys().next().unwrap().1.accept_until.unwrap().as_nanos());
            assert!(found == Ok(expected) || (expected == i64::MIN && found.is_err()), "{text}: {found:?}");
        }
        assert_eq!(time("2027-01-01 00:00:00Z"), 1_798_761_600_000_000_000);
    }

    #[test]
    fn every_mistake_is_one_line_that_says_where() {
        for (text, expected) in [
            (String::new(), "f: there is no key"),
            ("# nothing\n".to_owned(), "f: there is no key"),
            ("[[key]]\nid = 1\n".to_owned(), "f:1:1: key 1 has no `key`: the file may have been cut off"),
            (format!("[[key]]\nkey = '{DIGITS}'\n"), "f:1:1: this key has no `id`"),
            (key("id = 1") + &key("id = 2") + &key("id = 1"), "f:8:6: there is a key 1 already"),
            (key("id = 0"), "f:2:6: `id` must be a whole number from 1 to 4294967295"),
            (key("id = -1"), "f:2:6: `id` must be"),
            (key("id = 4294967296"), "f:2:6: `id` must be"),
            (key("id = '1'"), "f:2:6: `id` must be"),
            (key("id = 1\nid = 1"), "f:3:1: duplicate key"),
            (key("id = 1\nsend-form = 1"), "f:3:1: unknown field `send-form`, did you mean `send-from`?"),
            (key("id = 1\nflags = 1"), "f:3:1: unknown field `flags`, not one of id, send-from, accept-until, key"),
            (key(&format!("id = 1\n{DIGITS} = 1")), "f:3:1: unknown field, not one of id"),
            (format!("keys = '{DIGITS}'"), "f:1:1: unknown field `keys`, did you mean `key`?"),
            (format!("1 AES128 HEX:{DIGITS}"), "f:1:3: "),
            (format!("[key]\nid = 1\nkey = '{DIGITS}'"), "f:1:2: each key must begin with [[key]], with two brackets"),
            (format!("key = ['{DIGITS}']"), "f:1:8: each key must begin with [[key]]"),
            (
                "[[key]]\nid = 1\nkey = 5".to_owned(),
                "f:3:7: `key` must be a string of 32 hexadecimal digits, not integer",
            ),
            ("[[key]]\nid = 1\nkey = 'x0'".to_owned(), "f:3:7: character 1 of `key` is no hexadecimal digit"),
            (key("id = 1").replace("aA", "a\u{e4}"), "f:3:7: character 22 of `key` is no hexadecimal digit"),
            (key("id = 1").replace("aA", ""), "f:3:7: `key` must have 32 hexadecimal digits, not 30"),
            (key("id = 1").replace("aA", "aAb"), "f:3:7: `key` must have 32 hexadecimal digits, not 33"),
            (key("id = 1").replace("aA", "\\u0061A"), "f:3:7: `key` must be written without escapes"),
            (
                key("id = 1\nsend-from = 2027-01-01"),
                "f:3:13: must be a date with time and zone, such as 2027-01-01T00:00:00Z",
            ),
            (key("id = 1\nsend-from = 2027-01-01T00:00:00"), "f:3:13: must be a date with time and zone"),
            (key("id = 1\nsend-from = '2027-01-01T00:00:00Z'"), "f:3:13: must be a date with time and zone"),
            (key("id = 1\nsend-from = 2027-02-30T00:00:00Z"), "f:3:13: "),
            (
                key("id = 1\nsend-from = 2027-01-01T00:00:00Z\naccept-until = 2027-01-01T00:00:00Z"),
                "f:1:1: `accept-until` must be later than `send-from`",
            ),
            (
                key("id = 1\naccept-until = 1970-01-01T00:00:00Z"),
                "f: all keys have expired by this machine's clock: add a new one, or set the clock",
            ),
            ((1..=17).map(|id| key(&format!("id = {id}"))).collect(), "f: there are more than 16 keys"),
        ] {
            let found = parsed(&text).map(drop);
            let found = found.expect_err(&text);
            assert!(found.starts_with(expected), "{found} instead of {expected}");
            assert!(!found.contains(char::is_control), "{found:?}");
            assert!(!found.contains("0011") && !found.contains("eEfF"), "{found}");
        }
        let expired = key("id = 1\naccept-until = 1970-01-01T00:00:00Z") + &key("id = 2");
        assert!(parsed(&expired).is_ok(), "one that has not expired is enough");
    }

    #[test]
    fn a_file_that_was_cut_off_anywhere_lacks_a_whole_key_or_is_refused() {
        let first = key("id = 1\nsend-from = 2027-01-01T00:00:00Z\naccept-until = 2028-01-01T00:00:00Z");
        let text = first.clone() + &key("id = 2");
        for end in 0..text.len() {
            if let Ok(ring) = parsed(&text[..end]) {
                let cut_in_comment_or_blank = text[..end].trim_end();
                assert!(
                    [first.trim_end(), text.trim_end()].contains(&cut_in_comment_or_blank),
                    "cut at {end}: {ring:?}"
                );
            }
        }
    }

    #[test]
    fn only_a_file_that_nobody_else_can_read_is_read() {
        let dir = TempDir::new().unwrap();
        let (file, link) = (dir.path().join("keys"), dir.path().join("link"));
        fs::write(&file, key("id = 1")).unwrap();
        symlink(&file, &link).unwrap();
        let load = |path: &Path| load(path, geteuid(), Time::from_nanos(0)).map(|ring| ring.keys().len());
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        for refused in [0o644, 0o640, 0o604, 0o620, 0o601, 0o777] {
            mode(refused);
            for path in [&file, &link] {
                let expected =
                    format!("{}: others may use it (its mode is {refused:04o}): chmod 600 it", path.display());
                assert!(load(path).is_err_and(|found| found.starts_with(&expected)), "{refused:o}");
            }
        }
        for allowed in [0o600, 0o400, 0o700] {
            mode(allowed);
            assert_eq!((load(&file), load(&link)), (Ok(1), Ok(1)), "{allowed:o}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, key("id = 1")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let expected = "belongs to user 65534, but must belong to user 0, who reads it";
        let found = load(&path, geteuid(), Time::from_nanos(0)).expect_err("refused");
        assert_eq!(found, format!("{}: {expected}", path.display()));
        // It is the file of whom the node will be.
        let load_for_it = || load(&path, Uid::from_raw(65_534), Time::from_nanos(0)).map(|ring| ring.keys().len());
        assert_eq!(load_for_it(), Ok(1));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        assert!(
            load_for_it()
                .is_err_and(|found| found.ends_with("belongs to user 0, but must belong to user 65534, who reads it"))
        );
    }

    #[test]
    fn root_gives_a_file_to_a_user_through_its_group() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, key("id = 1")).unwrap();
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let load = |mode, reader| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            load(&path, Uid::from_raw(reader), Time::from_nanos(0)).map(|ring| ring.keys().len())
        };
        for given in [0o640, 0o440] {
            assert_eq!(load(given, 65_534), Ok(1), "{given:o}");
        }
        for wrong in [0o660, 0o650, 0o644, 0o641, 0o642] {
            assert!(load(wrong, 65_534).is_err_and(|found| found.contains("others may use it")), "{wrong:o}");
        }
        // Who owns it has no need of a group, and of others' files none is given.
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        for reader in [0, 65_534] {
            assert!(load(0o640, reader).is_err_and(|found| found.contains("others may use it")), "{reader}");
        }
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("keys");
        let refusal = || load(&path, geteuid(), Time::from_nanos(0)).map(drop).expect_err("refused");
        assert!(refusal().starts_with(&format!("{}: cannot be read: No such file", path.display())));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(refusal(), format!("{}: not a regular file", path.display()), "and nobody waits for a writer");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(refusal(), format!("{}: not a regular file", path.display()));
        fs::remove_dir(&path).unwrap();
        for (bytes, expected) in [
            (vec![b'#'; MAX_SIZE + 1], ": larger than a key file can be (64 KiB)"),
            (b"[[key]]\nid = \xff".to_vec(), ":2:6: not UTF-8 text"),
        ] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(refusal(), format!("{}{expected}", path.display()));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            let _ = parsed(&text);
        }

        /// Whatever was done to a file by mistake: no complaint tells a key.
        #[test]
        fn no_complaint_tells_a_key(start in 0usize..160, length in 0usize..40, instead in "[\\[\\]=\"'\n #a-z0-9\\\\]{0,6}") {
            let mut text = key("id = 1") + &key("id = 2\nsend-from = 2027-01-01T00:00:00Z");
            let (start, end) = (start.min(text.len()), (start + length).min(text.len()));
            text.replace_range(start..end, &instead);
            if let Err(complaint) = parsed(&text) {
                for part in DIGITS.as_bytes().windows(6) {
                    prop_assert!(!complaint.contains(str::from_utf8(part).unwrap()), "{complaint}");
                }
                prop_assert!(!complaint.contains(char::is_control), "{complaint}");
            }
        }

        #[test]
        fn days_follow_each_other(year in 0i64..9_999, month in 1i64..=12) {
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => if is_leap { 29 } else { 28 },
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            prop_assert_eq!(days_since_1970(next_year, next_month, 1) - days_since_1970(year, month, 1), length);
            prop_assert_eq!(days_since_1970(year, month, 28) - days_since_1970(year, month, 1), 27);
        }
    }
}
