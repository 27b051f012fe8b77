//! The configuration file: the settings of the command line in TOML, and the place of every mistake in it.
//!
//! A key is an option without its dashes, and its value goes through the option's own reader (`settings.rs`). What
//! TOML adds is a type, checked here: spans and addresses are strings, numbers numbers, claims booleans, and a
//! repeatable option takes a list.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::{ArgAction, FromArgMatches};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::{Fault, Settings, ValueKind, bare_command, file_command, reason, suggestion};

/// A file beyond this size is no configuration file: somebody named a device or a log.
const MAX_SIZE: u64 = 1 << 20;

/// The options that no file can set, to say so instead of "unknown key". A test of `cli.rs` keeps them complete.
pub(crate) const COMMAND_LINE_ONLY: [&str; 5] = ["config", "verbose", "quiet", "help", "version"];

/// A place in a text, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    line: usize,
    column: usize,
}

impl Position {
    /// The place of the byte `offset`, or the end of a shorter text.
    pub(crate) fn of(text: &[u8], offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.split(|byte| *byte == b'\n').next_back().unwrap_or_default();
        Self {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(line).chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Which settings come from a file, and from where in it. All others come from the command line.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    file: String,
    /// By the setting's name in the program (`min_interval`).
    positions: BTreeMap<String, Position>,
}

impl Origins {
    /// Forgets the settings that the command line has overridden.
    pub(crate) fn retain(&mut self, is_from_file: impl Fn(&str) -> bool) {
        self.positions.retain(|setting, _| is_from_file(setting));
    }

    /// A line for each fault that says which setting is wrong, where it stands, and what is wrong with it: those of the command line, then
    /// those of the file in its order.
    pub(crate) fn mistakes(&self, faults: &[Fault]) -> Vec<String> {
        let place = |fault: &Fault| self.positions.get(&fault.setting.replace('-', "_")).copied();
        let mut placed: Vec<_> = faults.iter().map(|fault| (place(fault), fault)).collect();
        placed.sort_by_key(|(position, _)| *position);
        let line = |(position, Fault { setting, text }): (Option<Position>, &Fault)| match position {
            Some(position) => format!("{}:{position}: `{setting}` {text}", self.file),
            None => format!("--{setting} {text}"),
        };
        placed.into_iter().map(line).collect()
    }
}

/// When a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Before a node runs.
    Start,
    /// While it runs: nothing that could hold it up is read, nor a pipe, which is empty when it has been read once.
    Reload,
}

/// Reads a file.
///
/// # Errors
/// Every mistake that could be found, a line each, in the order of the file; or why it cannot be read.
pub fn read(path: &Path, occasion: Occasion) -> Result<(Settings, Origins), Vec<String>> {
    let (file, text) = text_of(path, occasion).map_err(|mistake| vec![mistake])?;
    parse(file, &text)
}

/// A file's name for complaints, and its text; or the complaint why there is none.
pub(crate) fn text_of(path: &Path, occasion: Occasion) -> Result<(String, String), String> {
    let file = path.display().to_string();
    let cannot = |error: io::Error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return format!("{file}: user {} may not read it: {error}", geteuid());
        }
        format!("{file}: cannot be read: {error}")
    };
    let mut options = File::options();
    if occasion == Occasion::Reload {
        // Opening a pipe that nobody writes to would wait for ever.
        options.custom_flags(OFlag::O_NONBLOCK.bits());
    }
    let opened = options.read(true).open(path).map_err(cannot)?;
    if occasion == Occasion::Reload && !opened.metadata().map_err(cannot)?.is_file() {
        return Err(format!("{file}: not a regular file: only such can be read again"));
    }
    let mut bytes = Vec::new();
    opened.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if u64::try_from(bytes.len()).is_ok_and(|size| size > MAX_SIZE) {
        return Err(format!("{file}: larger than a configuration file can be (1 MiB)"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((file, text)),
        Err(error) => {
            let position = Position::of(error.as_bytes(), error.utf8_error().valid_up_to());
            Err(format!("{file}:{position}: not UTF-8 text"))
        }
    }
}

/// The name that somebody meant who wrote `wrong`.
pub(crate) fn nearest<'n>(wrong: &str, known: &[&'n str]) -> Option<&'n str> {
    // A slip or two of the finger, more in a long name; of names equally near, the one as long.
    let slips = |name: &str| strsim::damerau_levenshtein(wrong, name);
    let near = known.iter().filter(|name| slips(name) <= 1 + wrong.len() / 4);
    near.min_by_key(|name| (slips(name), name.len().abs_diff(wrong.len()))).copied()
}

/// Reads a file's text; `file` is its name in complaints.
///
/// # Errors
/// As [`read`].
pub fn parse(file: String, text: &str) -> Result<(Settings, Origins), Vec<String>> {
    let mut reader = Reader {
        text,
        command: file_command(),
        arguments: Vec::new(),
        positions: BTreeMap::new(),
        mistakes: Vec::new(),
    };
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        reader.mistake(error.span().unwrap_or_default(), error.message().to_owned());
    }
    // What is left of a broken text is a guess: mistakes in it could be ours.
    if syntax_errors.is_empty() {
        for (key, value) in table.get_ref() {
            reader.setting(key, value);
        }
    }
    let Reader { mut command, arguments, positions, mut mistakes, .. } = reader;
    // Each argument has been tried, so that together they pass as well.
    let settings = command.try_get_matches_from_mut(arguments).and_then(|found| Settings::from_arg_matches(&found));
    match settings {
        Ok(settings) if mistakes.is_empty() => Ok((settings, Origins { file, positions })),
        Ok(_) => {
            mistakes.sort();
            mistakes.dedup();
            Err(mistakes.iter().map(|(position, fault)| format!("{file}:{position}: {fault}")).collect())
        }
        Err(error) => Err(vec![format!("{file}: {}", reason(&error))]),
    }
}

/// Turns keys and values into arguments and mistakes.
struct Reader<'t> {
    text: &'t str,
    /// All settings. To build it takes a millisecond, so that it is done once, not once for each of many keys.
    command: clap::Command,
    arguments: Vec<String>,
    positions: BTreeMap<String, Position>,
    mistakes: Vec<(Position, String)>,
}

impl Reader<'_> {
    fn mistake(&mut self, at: Range<usize>, fault: String) {
        self.mistakes.push((Position::of(self.text.as_bytes(), at.start), fault));
    }

    fn setting(&mut self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) {
        let name = key.get_ref().as_ref();
        let known = self.command.get_arguments().find(|setting| setting.get_long() == Some(name)).cloned();
        let Some(setting) = &known else {
            if COMMAND_LINE_ONLY.contains(&name) {
                return self.mistake(key.span(), format!("`{name}` can be given on the command line only"));
            }
            // clap looks for the nearest option, which is the nearest key.
            let tried = self.command.try_get_matches_from_mut([format!("--{name}")]);
            let nearest = tried.err().as_ref().and_then(suggestion);
            let hint = nearest.map(|option| format!(", did you mean `{}`?", option.trim_start_matches('-')));
            return self.mistake(key.span(), format!("unknown key `{name}`{}", hint.unwrap_or_default()));
        };
        let position = Position::of(self.text.as_bytes(), value.span().start);
        self.positions.insert(setting.get_id().to_string(), position);
        match (setting.get_action(), value.get_ref()) {
            (ArgAction::Append, DeValue::Array(values)) => {
                values.iter().for_each(|value| self.value(setting, name, value))
            }
            (ArgAction::Append, _) => self.mistake(value.span(), format!("`{name}` must be a list of strings")),
            _ => self.value(setting, name, value),
        }
    }

    fn value(&mut self, setting: &clap::Arg, name: &str, value: &Spanned<DeValue<'_>>) {
        let kind = ValueKind::of(setting);
        let text = match (kind, value.get_ref()) {
            (ValueKind::Span | ValueKind::Text, DeValue::String(text)) => text.to_string(),
            (ValueKind::Claim, DeValue::Boolean(claim)) => claim.to_string(),
            (ValueKind::Number, DeValue::Float(number)) => number.as_str().to_owned(),
            (ValueKind::Number, DeValue::Integer(number)) => {
                i128::from_str_radix(number.as_str(), number.radix()).map_or(number.to_string(), |n| n.to_string())
            }
            (_, other) => {
                let wanted = match kind {
                    ValueKind::Span => "a string with a unit, such as \"250ms\"",
                    ValueKind::Text => "a string",
                    ValueKind::Claim => "true or false",
                    ValueKind::Number => "a number",
                };
                let article = if other.type_str().starts_with(['a', 'i']) { "an" } else { "a" };
                let fault = format!("`{name}` must be {wanted}, not {article} {}", other.type_str());
                return self.mistake(value.span(), fault);
            }
        };
        let argument = format!("--{name}={text}");
        // By itself, so that the others need not be built.
        match bare_command().arg(setting).try_get_matches_from([&argument]) {
            Ok(_) => self.arguments.push(argument),
            Err(error) => {
                self.mistake(value.span(), format!("invalid value '{text}' for `{name}`: {}", reason(&error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mistakes(text: &str) -> Vec<String> {
        parse("f".to_owned(), text).err().unwrap_or_default()
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let at = |text: &str, offset| Position::of(text.as_bytes(), offset).to_string();
        assert_eq!(at("ab\ncd", 0), "1:1");
        assert_eq!(at("ab\ncd", 4), "2:2");
        assert_eq!(at("\u{e4}\u{e4}x", 4), "1:3");
        assert_eq!(at("", 9), "1:1");
    }

    #[test]
    fn all_mistakes_are_found_in_the_order_of_the_file() {
        let text = "priority = 'x'\n\n  intervall = '1s'\ngamma = 5\npeer = ['192.0.2.1:1', 'x', 3]\n[role]\n";
        let found = mistakes(text);
        let expected = [
            "f:1:12: `priority` must be a number, not a string",
            "f:3:3: unknown key `intervall`, did you mean `interval`?",
            "f:4:9: `gamma` must be a string with a unit, such as \"250ms\", not an integer",
            "f:5:24: invalid value 'x' for `peer`: must be an IP address and a port",
            "f:5:29: `peer` must be a string, not an integer",
            "f:6:1: `role` must be a string, not a table",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} instead of {expected}");
        }
    }

    #[test]
    fn a_mistake_is_told_once() {
        // Each of the unclosed lists is a mistake at the end of the text.
        let found = mistakes(&format!("peer = {}", "[".repeat(1_000)));
        assert!((1..5).contains(&found.len()), "{found:?}");
    }

    #[test]
    fn no_key_reaches_anything_but_a_setting() {
        for (key, answer) in [
            ("config", "can be given on the command line only"),
            ("help", "can be given on the command line only"),
            ("verbose", "can be given on the command line only"),
            ("''", "unknown key ``"),
            ("'role=x'", "unknown key"),
            ("--role", "unknown key"),
            ("max_slew", "did you mean `max-slew`?"),
        ] {
            let found = mistakes(&format!("{key} = 'slave'"));
            assert!(found.len() == 1 && found[0].contains(answer), "{key}: {found:?}");
        }
    }

    #[test]
    fn every_setting_can_stand_in_a_file_with_its_kind_of_value() {
        for setting in file_command().get_arguments() {
            let name = setting.get_long().unwrap();
            let value = match (ValueKind::of(setting), name) {
                (ValueKind::Span, _) => "'-1.5s'",
                (ValueKind::Number, _) => "5",
                (ValueKind::Claim, _) => "false",
                (ValueKind::Text, "role" | "upper-role") => "'auto'",
                (ValueKind::Text, "clock") => "'system'",
                (ValueKind::Text, "average") => "'mean'",
                (ValueKind::Text, "timestamping") => "'kernel'",
                (ValueKind::Text, "weight") => "['7=3', '192.0.2.1=2']",
                (ValueKind::Text, "delay-asymmetry") => "['-5us', '7=1us']",
                (ValueKind::Text, "without") => "['seccomp']",
                (ValueKind::Text, "user") => "'65534:65534'",
                (ValueKind::Text, "log-level") => "'warn'",
                (ValueKind::Text, "log-format") => "'json'",
                (ValueKind::Text, "peer" | "upper-peer") => "['192.0.2.1:1']",
                (ValueKind::Text, _) => "'192.0.2.1:1'",
            };
            assert_eq!(mistakes(&format!("{name} = {value}")), [""; 0]);
            assert_eq!(mistakes(&format!("{name} = 1979-05-27")).len(), 1, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            let _ = parse("f".to_owned(), &text);
        }

        #[test]
        fn no_assignment_is_too_strange(
            lines in proptest::collection::vec(
                (
                    prop_oneof![
                        proptest::sample::select(vec!["role", "peer", "max-slew", "interval", "reference", "\"\"", "a.b"])
                            .prop_map(str::to_owned),
                        "\\PC{0,8}".prop_map(|key| format!("{key:?}")),
                    ],
                    prop_oneof![
                        proptest::sample::select(vec![
                            "'slave'", "-0.0", "inf", "nan", "0xffffffffffffffffffffffffffffffffffff", "[[[]]]", "{}", "true",
                            "1979-05-27T07:32:00Z", "['127.0.0.1:1']", "'99999999d'", "1e400", "\"\\n\\u0000\"", "+5",
                        ])
                        .prop_map(str::to_owned),
                        "\\PC{0,8}",
                    ],
                ),
                0..5,
            )
        ) {
            let text = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>();
            if let Err(mistakes) = parse("f".to_owned(), &text) {
                prop_assert!(!mistakes.is_empty());
            }
        }
    }
}
