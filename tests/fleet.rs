//! The load tool, as CI runs it: a few hundred slaves, and no limit that depends on what else the machine does.

#![expect(clippy::expect_used, reason = "what fails here is a broken test or a red one")]

// What it concludes from has its tests in these files, and cargo runs none in an example.
#[path = "../examples/fleet/look.rs"]
#[expect(dead_code, reason = "the tool uses all of it")]
mod look;
#[path = "../examples/fleet/report.rs"]
mod report;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `examples/fleet` in a shell, behind what else the shell has to do.
fn fleet(before: &str, options: &str) -> Output {
    let tool = Path::new(env!("CARGO_BIN_EXE_berkeleyd")).with_file_name("examples/fleet");
    let script = format!("{before} exec {} {options}", tool.display());
    let output = Command::new("sh").args(["-c", &script]).env_clear().stdin(Stdio::null()).output();
    output.expect("cargo build --example fleet")
}

#[test]
#[ignore = "for some seconds it takes a processor, which tests beside it would miss"]
fn three_hundred_slaves_are_corrected_in_every_round_and_nothing_is_lost() {
    let output = fleet("", "--slaves 300 --duration 5s --keys --slaves-first --busy --json");
    let said = String::from_utf8_lossy(&output.stderr);
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((output.status.code(), &figures["missed"]), (Some(0), &Value::Array(Vec::new())), "{figures:#} {said}");
    assert!(figures["rounds"].as_u64() >= Some(1) && figures["looks"].as_u64() >= Some(10), "{figures:#}");
}

#[test]
#[ignore = "as above"]
fn a_missed_limit_is_told() {
    let output = fleet("", "--slaves 30 --duration 1ms --interval 125ms --busy -- --quorum 1000");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("\nmissed: not all slaves were ever corrected\n"), "{text}");
}

#[test]
fn what_is_not_allowed_or_mistyped_is_told_in_one_line() {
    for (before, options, code, told) in [
        ("ulimit -n 100;", "--slaves 300", 1, "as root, ulimit -Hn 3"),
        ("", "--slaves 0", 2, "invalid value '0' for '--slaves <N>'"),
        ("", "--slave 5", 2, "unexpected argument '--slave'; did you mean '--slaves'? (see --help)"),
    ] {
        let output = fleet(before, options);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.lines().count()), (Some(code), 1), "{output:?}");
        assert!(text.contains(told), "{text}");
    }
}
