//! How the program may fail, what it says then, and its exit status.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

/// Why the program did not do what it was asked for.
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
    /// The first mistake of many, with a word on the others. `file`: a configuration file that they may be in.
    pub(crate) fn first_of(mistakes: Vec<String>, file: Option<&Path>) -> Self {
        let others = mistakes.len().saturating_sub(1);
        let first = mistakes.into_iter().next().unwrap_or_default();
        Self::Mistake(match (others, file) {
            (0, _) => first,
            (_, None) => format!("{first} (and {others} more)"),
            (_, Some(file)) => format!("{first} (and {others} more: berkeleyd check-config {})", file.display()),
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
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_repeats() {
        let text = "a\nb\u{1b}[31m\r\u{85}".to_owned();
        for failure in [Failure::Mistake(text.clone()), Failure::Failed(text.clone()), Failure::Mistakes(vec![text])] {
            assert!(!failure.to_string().contains(char::is_control), "{failure}");
        }
    }
}
