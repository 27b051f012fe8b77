//! `berkeleyd simulate` as the real binary: what is wrong is one line and exit status 2, and what is written is whole.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_berkeleyd");

fn simulate(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("simulate").args(arguments).env_clear().current_dir(dir).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{BINARY}: {error}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn mistakes_are_one_line_and_exit_2_and_nothing_is_written() {
    let dir = TempDir::new().unwrap();
    let scenario = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    scenario("good.toml", "nodes = 4\nliars = 1\nduration = '1s'\n");
    scenario("key.toml", "nodes = 4\n[link]\ndelai = '1ms'\n");
    scenario("type.toml", "nodes = 'four'\n");
    scenario("negative.toml", "duration = '-5s'\n");
    scenario("zero.toml", "nodes = 0\n");
    scenario("loss.toml", "[link]\nloss = 1.5\n");
    scenario("liars.toml", "liars = 1\n");
    scenario("fault.toml", "[[faults]]\nat = '1s'\nwhat = 'crash'\nnodes = [8]\n");
    fs::write(dir.path().join("binary.toml"), [b'a', 0xff]).unwrap();
    let before = fs::read_dir(dir.path()).unwrap().count();
    let mistakes: &[(&str, &[&str])] = &[
        ("--nodes 0", &["'0'", "--nodes", "whole number from 1"]),
        ("--nodes -3", &["'-3'", "--nodes"]),
        ("--nodes 99999999", &["--nodes", "to 10000"]),
        ("--duration -5s", &["--duration must be positive", "-5.000 s"]),
        ("--duration 0", &["--duration must be positive"]),
        ("--duration 5", &["'5'", "--duration", "the unit must be"]),
        ("--delay -1ms", &["--delay must not be negative"]),
        ("--jitter -1ms", &["--jitter must not be negative"]),
        ("--interval 1ms", &["--interval must lie between 62.5ms and 64s"]),
        ("--settle-below 0", &["--settle-below must be positive"]),
        ("--loss 1.5", &["--loss must be a fraction from 0 to 1, not 1.5"]),
        ("--loss nan", &["'nan'", "--loss"]),
        ("--drift 1e9", &["--drift must be a rate"]),
        ("--wander -1", &["--wander must be a rate from 0"]),
        ("--tiers 100", &["'100'", "--tiers", "two tiers at least"]),
        ("--tiers 10x0", &["'10x0'", "--tiers", "whole numbers from 1"]),
        ("--tiers 10x10000", &["--tiers", "at most 10000 in one ensemble"]),
        ("--tiers 1000x1000x1000", &["--tiers", "at most 20000000 nodes"]),
        ("--tiers 3x3 --nodes 9", &["--tiers", "--nodes", "cannot be used with"]),
        ("--tiers 3x3 --duration 10s", &["--duration must be more than 20.000 s with --tiers"]),
        ("--tiers 3x3 --scenario liars.toml", &["liars.toml:1:9", "`liars` is nothing that --tiers simulates"]),
        ("--liars 8", &["--liars must be fewer than the 8 nodes, not 8"]),
        ("--scenario good.toml --nodes 1", &["--nodes", "good.toml:2:9", "`liars`", "fewer"]),
        ("--average median", &["'median'", "--average"]),
        ("--seed -1", &["'-1'", "--seed"]),
        ("--seeds 0", &["'0'", "--seeds"]),
        ("--seeds 2 --seed 18446744073709551615", &["--seeds 2", "too many"]),
        ("--scenario none.toml", &["none.toml: cannot be read: No such file"]),
        ("--scenario .", &[".: cannot be read: Is a directory"]),
        ("--scenario key.toml", &["key.toml:3:1: unknown key `delai`, did you mean `delay`?"]),
        ("--scenario type.toml", &["type.toml:1:9: invalid type: string"]),
        ("--scenario negative.toml", &["negative.toml:1:12: `duration` must be positive, not -5.000 s"]),
        ("--scenario zero.toml", &["zero.toml:1:9: "]),
        ("--scenario loss.toml", &["loss.toml:2:8: `loss` must be a fraction from 0 to 1, not 1.5"]),
        ("--scenario fault.toml", &["fault.toml:4:9: `nodes` must be numbers from 0 to 7, not 8"]),
        ("--scenario binary.toml", &["binary.toml:1:2: not UTF-8 text"]),
        ("--plot none/a.svg", &["--plot none/a.svg: cannot be written: No such file or directory"]),
        ("--plot a.jpg", &["--plot a.jpg", "must end in .svg or .png"]),
        ("--plot a", &["--plot a", "must end in .svg or .png"]),
        ("--plot a.svg --csv none/a.csv", &["--csv none/a.csv: cannot be written"]),
        ("--csv .", &["--csv .: cannot be written: is a directory"]),
        ("--csv /dev/null", &["--csv /dev/null: cannot be written: not a regular file"]),
        ("--plot a.svg --seeds 3", &["--seeds", "cannot be used with", "--plot"]),
        ("--compare-averages --average mean", &["--compare-averages", "cannot be used with"]),
        ("--secnario x", &["'--secnario'", "'--scenario'"]),
        ("now", &["unexpected argument 'now'"]),
    ];
    for (arguments, parts) in mistakes {
        let output = simulate(dir.path(), &arguments.split_whitespace().collect::<Vec<_>>());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
        assert!(output.stdout.is_empty(), "{arguments}: {output:?}");
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{arguments} takes one line:\n{text}");
        for part in *parts {
            assert!(text.contains(part), "{arguments} must say {part:?}: {text}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "{arguments} left a file");
    }
}

#[test]
fn one_run_as_json_has_the_promised_fields() {
    let dir = TempDir::new().unwrap();
    let output = simulate(dir.path(), &["--nodes", "4", "--duration", "30s", "--seed", "7", "--json"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["seed"].as_u64(), json["nodes"].as_u64()), (Some(7), Some(4)));
    assert!(json["settle_ms"].is_u64(), "{json}");
    for figure in ["final", "rms", "p99", "max"] {
        assert!(json["spread_ns"][figure].is_u64(), "{figure}: {json}");
    }
    assert!(json["frames_sent"].is_u64() && json["bytes_sent"].is_u64() && json["violations"].is_array(), "{json}");
    assert_eq!(
        stdout(&simulate(dir.path(), &["--nodes", "4", "--duration", "30s", "--seed", "7", "--json"])),
        stdout(&output)
    );
}

#[test]
fn tiers_as_text_and_as_json_have_the_promised_figures() {
    let dir = TempDir::new().unwrap();
    let run = |more: &[&str]| {
        let output = simulate(dir.path(), &[&["--tiers", "4x3x2", "--duration", "30s", "--check"], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let text = run(&[]);
    assert!(text.starts_with("OK: 40 nodes in 3 tiers, settled after "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let tiers = json["tiers"].as_array().unwrap();
    let of = |key: &str| tiers.iter().map(|tier| tier[key].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((of("nodes"), of("ensembles"), of("outside_bound")), (vec![4, 12, 24], vec![1, 4, 12], vec![0; 3]));
    for tier in tiers {
        for place in ["/distance_ns/rms", "/bound_ns/median", "/spread_ns/max", "/ensemble/bytes_per_second"] {
            assert!(tier.pointer(place).is_some_and(|figure| figure.as_f64() > Some(0.0)), "{place} in {tier}");
        }
    }
    let missed = simulate(dir.path(), &["--tiers", "4x3", "--settle-below", "1ns", "--check"]);
    assert_eq!((missed.status.code(), stderr(&missed).contains("never settled below 1 ns")), (Some(1), true));
}

#[test]
fn pictures_and_tables_are_written_whole() {
    let dir = TempDir::new().unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    for (name, start, end) in
        [("a.svg", "<svg ", "</svg>\n"), ("a.svg", "<svg ", "</svg>\n"), ("b.PNG", "\u{89}PNG", "")]
    {
        let output = simulate(dir.path(), &["--duration", "20s", "--liars", "2", "--plot", name, "--csv", "a.csv"]);
        assert!(output.status.success() && stdout(&output).contains(name), "{output:?}");
        let bytes = read(name);
        let starts = start.chars().map(|c| u8::try_from(u32::from(c)).unwrap());
        assert!(bytes.iter().copied().zip(starts).all(|(found, expected)| found == expected), "{name}");
        assert!(bytes.ends_with(end.as_bytes()), "{name}");
    }
    let table = String::from_utf8(read("a.csv")).unwrap();
    assert!(table.starts_with("time_ns,node,error_ns,bound_ns,standing\n0,0,"), "{table}");
    assert!(table.contains(",honest\n") && table.contains(",liar\n"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left over");
}

#[test]
fn what_misses_its_limits_fails_the_check_with_the_command_that_repeats_it() {
    let dir = TempDir::new().unwrap();
    let strict = ["--duration", "10s", "--settle-below", "1ns", "--seed", "3"];
    let output = simulate(dir.path(), &strict);
    assert!(output.status.success() && stdout(&output).starts_with("NOT OK"), "{output:?}");
    let output = simulate(dir.path(), &[&strict[..], &["--check"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let replay = "berkeleyd simulate --duration 10s --settle-below 1ns --seed 3 --trace";
    assert!(stderr(&output).contains(replay) && stderr(&output).lines().count() == 1, "{output:?}");
    let output = simulate(dir.path(), &[&strict[..], &["--check", "--seeds", "4"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("NOT OK: 4 of 4 seeds") && text.contains("--seed 6 --trace"), "{text}");
}

#[test]
fn averages_are_compared() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--compare-averages", "--nodes", "4", "--duration", "10s", "--seeds", "2"];
    let text = stdout(&simulate(dir.path(), &arguments));
    for part in ["mean", "fault-tolerant", "midpoint", "weighted", "no liars", "one loud liar", "two camps"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = simulate(dir.path(), &[&arguments[..], &["--json"]].concat());
    let cells: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(cells.len(), 20);
    for cell in &cells {
        for figure in ["settle_ms", "spread_rms_ns", "dragged_ns", "drag_ppb"] {
            assert!(cell[figure]["median"].is_u64() && cell[figure]["worst"].is_u64(), "{figure}: {cell}");
        }
    }
    // A liar a second ahead among four is believed by the mean, once: a quarter of a second.
    let dragged = |average, trial| {
        let cell = cells.iter().find(|cell| cell["average"] == average && cell["trial"] == trial).unwrap();
        cell["dragged_ns"]["median"].as_i64().unwrap()
    };
    assert!((240_000_000..260_000_000).contains(&dragged("mean", "one loud liar")), "{text}");
    assert!(dragged("fault-tolerant", "one loud liar") < 10_000_000, "{text}");
}
