//! Arrows between the files point one way. The core knows no sockets, clocks, files or threads, and no file imports one that stands
//! above it, so that a stranger can read from the bottom up.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The files of the core from the bottom up: each may use those above it in this list (its own line included), no others.
const LAYERS: [&[&str]; 14] = [
    &["time", "identity"],
    &["stamp", "timers", "exchange", "protocol", "round_trip", "keys"],
    &["auth"],
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

/// The text of a source file up to its tests.
fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(format!("{name}.rs"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
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
fn the_core_imports_only_what_stands_below_it() {
    let mut below: BTreeSet<String> = BTreeSet::new();
    for layer in LAYERS {
        for name in layer {
            let found = imports(&source(name));
            let allowed = |import: &String| below.contains(import) || layer.contains(&import.as_str());
            let wrong: Vec<&String> = found.iter().filter(|import| !allowed(import)).collect();
            assert!(wrong.is_empty(), "{name}.rs imports {wrong:?}, which do not stand below it");
        }
        below.extend(layer.iter().map(|name| (*name).to_owned()));
    }
    assert!(!imports(&source("master")).contains("slave") && !imports(&source("slave")).contains("master"));
    assert!(imports(&source("node")).contains("master"), "the test sees imports");
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
