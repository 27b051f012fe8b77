//! The man pages and shell completions in `contrib` are those of this command line.
//!
//! `BLESS=1 cargo test --test manual` writes them anew; packages take them as they are.

#![expect(clippy::expect_used, reason = "what fails here is a failed test")]

use std::fs;
use std::path::Path;

use berkeleyd::cli;
use clap_complete::{Shell, generate_to};

const MAN: &str = "contrib/man";
const COMPLETIONS: &str = "contrib/completions";

/// The files of a folder: name and text.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.file_name().expect("a name").to_string_lossy().into_owned(), text)
        })
        .collect();
    files.sort();
    files
}

/// Compares, or with BLESS replaces, what is in a folder of this repository.
fn assert_same(folder: &str, made: &Path) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(&place).expect("a folder");
        files(&place).iter().for_each(|(name, _)| fs::remove_file(place.join(name)).expect("removed"));
        files(made).iter().for_each(|(name, text)| fs::write(place.join(name), text).expect("written"));
    }
    let (kept, made) = (files(&place), files(made));
    let names = |files: &[(String, String)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&kept), names(&made), "{folder}: BLESS=1 cargo test --test manual");
    for ((name, kept), (_, made)) in kept.iter().zip(&made) {
        assert!(kept == made, "{folder}/{name} is out of date: BLESS=1 cargo test --test manual");
    }
}

#[test]
fn the_man_pages_are_those_of_the_command_line() {
    let made = tempfile::tempdir().expect("a directory");
    clap_mangen::generate_to(cli::command(), made.path()).expect("man pages");
    assert_same(MAN, made.path());
}

#[test]
fn the_completions_are_those_of_the_command_line() {
    let made = tempfile::tempdir().expect("a directory");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut cli::command(), "berkeleyd", made.path()).expect("completions");
    }
    assert_same(COMPLETIONS, made.path());
}

/// Every option that is not hidden, of every command, and no other.
#[test]
fn the_man_pages_have_every_option() {
    let command = cli::command();
    for (page, command) in std::iter::once(("berkeleyd.1".to_owned(), &command))
        .chain(command.get_subcommands().map(|one| (format!("berkeleyd-{}.1", one.get_name()), one)))
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MAN).join(&page);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for option in command.get_opts().filter_map(|option| Some((option, option.get_long()?))) {
            let (option, name) = option;
            let written = format!("\\-\\-{}", name.replace('-', "\\-"));
            assert_eq!(text.contains(&written), !option.is_hide_set(), "{page}: --{name}");
        }
    }
}
