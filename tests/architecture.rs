//! Arrows between the files point one way. The core knows no sockets, clocks, files or threads, and no file imports one that stands
//! above it, so that a stranger can read from the bottom up.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of the core from the bottom up: each may use those above it in this list (its own line included), no others.
const LAYERS: [&[&str]; 15] = [
    &["time", "identity", "cmac"],
    &["stamp", "timers", "exchange", "protocol", "round_trip", "keys"],
    &["auth", "guarantee", "strangers", "unanswered"],
    &["replay"],
    &["average", "estimator"],
    &["config"],
    &["clock", "counters"],
    &["guard", "witness"],
    &["context", "election"],
    &["member"],
    &["master", "slave"],
    &["node"],
    &["tiers"],
    &["status"],
    &["observation"],
];

/// And what stands above the core: the system, the drivers, the commands.
const ABOVE: [&[&str]; 8] = [
    &["failure", "interfaces", "local_clock", "log_allowance", "seccomp"],
    &["privileges"],
    &[
        "net",
        "state_dir",
        "system_clock",
        "status_client",
        "status_socket",
        "settings",
        "run_config",
        "service_manager",
    ],
    &["config_file"],
    &["key_file", "event_log", "log_output", "sources", "sim"],
    &["event_loop", "exporter"],
    &["commands"],
    &["cli"],
];

/// What a state machine without I/O has no business with.
const FORBIDDEN: [&str; 12] = [
    "mio",
    "socket2",
    "nix",
    "log::",
    "env_logger",
    "getrandom",
    "std::fs",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "UdpSocket",
];

/// The text of a source file and of all files in the folder of that name, each up to its tests.
fn source(name: &str) -> String {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
    let own = Some(place.with_extension("rs")).filter(|file| file.exists());
    let inside = if place.is_dir() { files(&place) } else { Vec::new() };
    let files: Vec<PathBuf> = own.into_iter().chain(inside).filter(|file| !file.ends_with("tests.rs")).collect();
    assert!(!files.is_empty(), "{name} is no module");
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let code = |text: String| text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    files.iter().map(read).map(code).collect()
}

/// All files in a folder and the folders in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files of this crate that a text names in its code: `crate::NAME`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = code.flat_map(|line| {
        line.split("crate::")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>())
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_file_imports_only_what_stands_below_it() {
    let mut below: BTreeSet<String> = BTreeSet::new();
    for layer in LAYERS.into_iter().chain(ABOVE) {
        for name in layer {
            let found = imports(&source(name));
            let allowed = |import: &String| below.contains(import) || layer.contains(&import.as_str());
            let wrong: Vec<&String> = found.iter().filter(|import| !allowed(import)).collect();
            assert!(wrong.is_empty(), "{name} imports {wrong:?}, which do not stand below it");
        }
        below.extend(layer.iter().map(|name| (*name).to_owned()));
    }
    assert!(!imports(&source("master")).contains("slave") && !imports(&source("slave")).contains("master"));
    assert!(
        imports(&source("node")).contains("master") && imports(&source("sim")).contains("tiers"),
        "the test sees imports"
    );
    for name in ["mio", "net::", "event_loop", "status_socket"] {
        assert!(!source("sim").contains(&format!("use {name}")), "the simulator needs no {name}");
    }
    let unlisted: Vec<String> = modules().into_iter().filter(|module| !below.contains(module)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?} have no place");
}

/// The modules that the library has.
fn modules() -> Vec<String> {
    let lib = source("lib");
    let names = lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

#[test]
fn the_core_touches_no_system() {
    for name in LAYERS.into_iter().flatten() {
        for (number, line) in (1..).zip(source(name).lines()) {
            let code = line.split("//").next().unwrap_or_default();
            for forbidden in FORBIDDEN {
                assert!(!code.contains(forbidden), "{name}.rs:{number} uses {forbidden}");
            }
        }
    }
}
