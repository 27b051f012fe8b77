//! What the files in `contrib` and docs/install.md have others run is what this program understands. `contrib/deb/check` runs the package itself.

#![expect(clippy::expect_used, reason = "what fails here is a failed test")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use berkeleyd::cli::{self, Invocation};
use tempfile::NamedTempFile;

/// Where the service and the container have their settings.
const SETTINGS: &str = "/etc/berkeleyd/berkeleyd.toml";

fn text_of(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What a command asks for, with these settings where its own would be.
fn asked<T: AsRef<str>>(command: &[T], settings: &str) -> Invocation {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, settings).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let words: Vec<String> = command.iter().map(|word| word.as_ref().replace(SETTINGS, path)).collect();
    cli::parse(words.iter().map(OsString::from)).unwrap_or_else(|failure| panic!("{words:?}: {failure}"))
}

fn is_a_node(invocation: &Invocation) -> bool {
    matches!(invocation, Invocation::Run(..))
}

/// The lists in a text that are written as in JSON, behind the last of these words: `ENTRYPOINT ["a", "b"]`, `args: ["c"]`.
fn lists(text: &str, word: &str) -> Vec<Vec<String>> {
    let after = text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let (before, list) = line.split_once('[')?;
        before.trim_end().ends_with(word).then(|| format!("[{list}"))
    });
    after.map(|list| serde_json::from_str(&list).unwrap_or_else(|error| panic!("{list}: {error}"))).collect()
}

#[test]
fn the_command_of_the_unit_is_understood() {
    let unit = text_of("contrib/systemd/berkeleyd.service");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let command = command.replace("%S", "/var/lib").replace("%t", "/run");
    assert!(command.starts_with("/usr/bin/berkeleyd ") && command.contains(SETTINGS), "{command}");
    let words: Vec<&str> = command.split_whitespace().collect();
    assert!(is_a_node(&asked(&words, &text_of("contrib/berkeleyd.toml"))));
}

#[test]
fn the_commands_of_the_container_are_understood() {
    let file = text_of("contrib/container/Containerfile");
    let [entry] = lists(&file, "ENTRYPOINT").try_into().expect("one");
    let commands = lists(&file, "CMD");
    // What it runs, and what says whether it is well.
    assert_eq!((entry.len(), commands.len()), (1, 2), "{entry:?} {commands:?}");
    for (command, is_node) in commands.into_iter().zip([true, false]) {
        let command = if is_node { [entry.clone(), command].concat() } else { command };
        let invocation = asked(&command, "");
        assert_eq!(is_a_node(&invocation), is_node, "{command:?}");
        assert!(is_node || matches!(invocation, Invocation::Status(_)), "{command:?}");
    }
}

#[test]
fn the_commands_of_the_daemon_set_are_understood() {
    let file = text_of("contrib/kubernetes/daemonset.yaml");
    let settings: Vec<&str> = file
        .lines()
        .skip_while(|line| !line.ends_with("berkeleyd.toml: |"))
        .skip(1)
        .map_while(|line| line.strip_prefix("    "))
        .collect();
    assert!(settings.iter().any(|line| line.starts_with("key-file = ")), "{settings:?}");
    let entry = vec!["/usr/bin/berkeleyd".to_owned()];
    let settings = settings.join("\n");
    let [node, exporter] = lists(&file, "args:").try_into().expect("two containers");
    assert!(is_a_node(&asked(&[entry.clone(), node].concat(), &settings)));
    assert!(matches!(asked(&[entry, exporter].concat(), ""), Invocation::Exporter(_)));
    let probes = lists(&file, "command:");
    assert_eq!(probes.len(), 2, "{probes:?}");
    for probe in probes {
        assert!(matches!(asked(&probe, ""), Invocation::Status(_)), "{probe:?}");
    }
}

/// Every line of the document's commands that runs this program, up to where the shell takes over.
#[test]
fn the_commands_of_the_document_are_understood() {
    let document = text_of("docs/install.md");
    let commands = document.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let lines = commands.flat_map(str::lines).flat_map(|line| line.split("&&"));
    let mut found = 0;
    for line in lines {
        let Some((_, rest)) = line.split_once("berkeleyd ").filter(|(before, _)| is_a_prefix(before)) else { continue };
        let words = rest.split_whitespace().take_while(|word| !word.starts_with(['#', '>', '|', ')', ';']));
        let words: Vec<&str> = std::iter::once("berkeleyd").chain(words).collect();
        asked(&words, "");
        found += 1;
    }
    assert!(found >= 5, "{found} commands");
}

/// What stands before the program's name when it is run, and not when it is a package or a user.
fn is_a_prefix(before: &str) -> bool {
    matches!(before.trim(), "" | "sudo" | "(umask 077;" | "/usr/bin/" | "target/release/")
}

#[test]
fn the_package_tells_of_this_version() {
    let changelog = text_of("contrib/deb/changelog");
    let version = format!("berkeleyd ({}-", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&version), "contrib/deb/changelog begins with another version than {version}");
}
