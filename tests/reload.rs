//! SIGHUP, with real nodes: settings that change while an ensemble runs, those that need a restart, and files that cannot be read again.

#![expect(clippy::expect_used, reason = "what fails here is a broken test or a red one")]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use berkeleyd::status::RoleName;
use berkeleyd::time::{Skew, Span};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use support::lab::{BINARY, Course, Daemon, Lab, agreed_master, skip};

/// For a machine that does many other things at the same time.
const LONG: Span = Span::from_secs(60);

/// Puts a file in place at once, as an operator should.
fn install(file: &Path, text: &str) {
    let new = file.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo (coreutils)").success());
}

fn config_file(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let file = lab.path(&format!("{name}.toml"));
    install(&file, text);
    file
}

/// Starts a node in the lab's group with a configuration file of its own.
fn join(lab: &Lab, name: &str, text: &str, options: &str) -> (Daemon, PathBuf) {
    let file = config_file(lab, name, text);
    let node = lab.join(name, &format!("--config {} {options}", file.display()));
    // All that it logs at its start has been read by then.
    lab.within(LONG, "it runs", || node.log().contains("INFO  started").then_some(()));
    (node, file)
}

/// The lines that a node logs from its next SIGHUP on, once one of them contains `awaited`.
fn reload(lab: &Lab, node: &Daemon, awaited: &str) -> Vec<String> {
    let before = node.log().len();
    node.signal(Signal::SIGHUP);
    lab.within(LONG, awaited, || {
        let log = node.log();
        let lines: Vec<String> = log[before..].lines().map(str::to_owned).collect();
        lines.iter().any(|line| line.contains(awaited)).then_some(lines)
    })
}

#[test]
fn settings_change_in_a_running_ensemble_and_nobody_begins_anew() {
    let lab = Lab::new();
    let (master, file) = join(&lab, "master", "interval = '500ms'\n", "--role master --node-id 1 --gamma 15ms");
    let slaves = [2, 3].map(|number| lab.join(&format!("s{number}"), &format!("--role slave --node-id {number}")));
    let all = [&master, &slaves[0], &slaves[1]];
    lab.agree(&all);
    let before = master.status();
    let mut course = Course::of(all, Skew::ZERO);

    // The command line wins, as at the start: what the file says of gamma changes nothing.
    install(&file, "interval = '100ms'\nmin-interval = '100ms'\ngamma = '1ms'\nquorum = 2\n");
    let lines = reload(&lab, &master, "settings changed");
    let expected = "INFO  settings changed: interval=500.000 ms -> 100.000 ms min-interval=125.000 ms -> 100.000 ms \
        max-interval=500.000 ms -> 100.000 ms quorum=1 -> 2";
    assert!(lines.iter().any(|line| line.ends_with(expected)), "{lines:#?}");
    let rounds = |count| {
        let first = master.status().round;
        let (start, end) = (lab.clock.now(), first + count);
        lab.within(LONG, "rounds go on", || (master.status().round >= end).then(|| lab.clock.now() - start))
    };
    let quick = rounds(20);
    course.look();

    // Nobody is heard less often than promised, and a quorum that is not reached stops the corrections.
    install(&file, "interval = '2s'\nmin-interval = '2s'\nquorum = 4\n");
    reload(&lab, &master, "settings changed");
    lab.within(LONG, "it holds over", || master.log().contains("below quorum: holdover heard=3").then_some(()));
    install(&file, "interval = '2s'\nmin-interval = '2s'\n");
    reload(&lab, &master, "settings changed: quorum=4 -> 1");
    let slow = rounds(3);
    assert!(slow > quick.part(3), "3 rounds in {slow} and 20 in {quick}");
    course.look();
    lab.agree(&all);
    let after = master.status();
    assert_eq!((after.incarnation, after.term, after.node_id), (before.incarnation, before.term, 1));
    for slave in &slaves {
        assert!(!slave.log().contains("master silent"), "{}", slave.log());
        assert_eq!(slave.log().matches("following").count(), 1, "{}", slave.log());
        assert_eq!(slave.log().matches("stepped by=").count(), 1, "the first correction: {}", slave.log());
    }
}

#[test]
fn a_priority_that_is_raised_moves_the_mastership_without_a_restart() {
    let lab = Lab::new();
    let (low, file) = join(&lab, "low", "", "--node-id 1");
    let others = [2, 3].map(|number| lab.join(&format!("n{number}"), &format!("--node-id {number}")));
    let all = [&low, &others[0], &others[1]];
    lab.agree(&all);
    let first = lab.within(LONG, "they have a master", || agreed_master(&all));
    let mut course = Course::of(all, Skew::ZERO);
    if first != 1 {
        install(&file, "priority = 7\npreempt = true\n");
        reload(&lab, &low, "settings changed: priority=0 -> 7 preempt=false -> true");
        lab.within(LONG, "it is master", || agreed_master(&all).filter(|master| *master == 1));
    }
    course.look();
    let statuses = lab.agree(&all);
    assert!(statuses.iter().all(|status| status.adjustment > 0));
    assert_eq!(low.status().role, RoleName::Master);
}

#[test]
fn what_takes_a_restart_is_named_each_time_and_the_rest_is_taken_over() {
    let lab = Lab::new();
    let (node, file) = join(&lab, "node", "", "--role slave");
    let lines = reload(&lab, &node, "settings read again: nothing has changed");
    assert_eq!(lines.len(), 1, "{lines:#?}");

    install(&file, "gamma = '5ms'\nnode-id = 9\nstate-dir = '/x'\nclock = 'virtual'\nrole = 'master'\n");
    let lines = reload(&lab, &node, "setting=state-dir");
    let told: Vec<&str> = lines.iter().filter_map(|line| line.get(25..)).collect();
    assert_eq!(
        told,
        [
            "INFO  settings changed: gamma=20.000 ms -> 5.000 ms",
            "WARN  a setting needs a restart setting=node-id now=none wanted=9",
            "WARN  a setting needs a restart setting=state-dir now=none wanted=/x",
        ]
    );
    let lines = reload(&lab, &node, "setting=state-dir");
    assert_eq!(lines.len(), 2, "it still does: {lines:#?}");
    assert_ne!(node.status().node_id, 9);
}

#[test]
fn the_log_level_follows_the_file() {
    let lab = Lab::new();
    let file = config_file(&lab, "master", "log-level = 'warn'\n");
    let master = lab.join("master", &format!("--config {} --role master --interval 100ms", file.display()));
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    assert!(!master.log().contains(" INFO "), "{}", master.log());
    install(&file, "log-level = 'debug'\n");
    master.signal(Signal::SIGHUP);
    lab.within(LONG, "it tells every round", || master.log().contains("DEBUG averaged round=").then_some(()));
    install(&file, "log-level = 'info'\n");
    reload(&lab, &master, "settings changed: log-level=debug -> info");
    let before = master.log().matches("averaged").count();
    let round = master.status().round;
    lab.within(LONG, "rounds go on", || (master.status().round > round + 3).then_some(()));
    assert_eq!(master.log().matches("averaged").count(), before);
}

#[test]
fn a_file_that_has_become_wrong_changes_nothing_and_all_of_its_mistakes_are_told() {
    let lab = Lab::new();
    let (node, file) = join(&lab, "node", "gamma = '7ms'\n", "--role slave");
    let name = file.display();
    let complaint =
        |line: &String| line.split_once("ERROR the settings stay as they were: ").map(|(_, rest)| rest.to_owned());
    install(&file, "gamma = 5\n\nintervall = '1s'\npriority = 'high'\n");
    let lines = reload(&lab, &node, ":4:12: ");
    let told: Vec<String> = lines.iter().filter_map(complaint).collect();
    assert_eq!(told.len(), 3, "{lines:#?}");
    for (line, place) in told.iter().zip([
        "1:9: `gamma` must be",
        "3:1: unknown key `intervall`, did you mean `interval`?",
        "4:12: `priority`",
    ]) {
        assert!(line.starts_with(&format!("{name}:{place}")), "{line}");
    }
    install(&file, "gamma = '0s'\nmin-interval = '2s'\ngroup = '192.0.2.1:1'\nbind = '224.0.0.1:1'\n");
    let lines = reload(&lab, &node, "`min-interval` must not be longer than interval");
    assert_eq!(lines.iter().filter_map(complaint).count(), 2, "the lab's --bind and --group win: {lines:#?}");
    type Spoil = fn(&Path);
    let wrong: [(&str, Spoil); 5] = [
        (": cannot be read: No such file", |file| fs::remove_file(file).expect("removed")),
        (": not a regular file", |file| fs::create_dir(file).expect("made")),
        (": not a regular file", |file| {
            fs::remove_dir(file).expect("removed");
            make_pipe(file);
        }),
        (":1:10: not UTF-8 text", |file| {
            fs::remove_file(file).expect("removed");
            fs::write(file, b"gamma = '\xff'").expect("written");
        }),
        (": larger than a configuration file can be", |file| install(file, &"#".repeat((1 << 20) + 1))),
    ];
    for (part, make) in wrong {
        make(&file);
        let lines = reload(&lab, &node, part);
        assert_eq!(lines.iter().filter_map(complaint).count(), 1, "{lines:#?}");
    }
    // And what is right again counts, from where it stood.
    install(&file, "\u{feff}gamma = '6ms'\r\n");
    reload(&lab, &node, "settings changed: gamma=7.000 ms -> 6.000 ms");
}

/// `--config <(...)` of a shell: what has been read once is empty, and must not be taken for a file without settings.
#[test]
fn a_pipe_is_read_once_and_said_to_be_none_that_can_be_read_again() {
    let lab = Lab::new();
    let pipe = lab.path("pipe");
    make_pipe(&pipe);
    let mut command = Command::new(BINARY);
    command.args(format!("{} --role slave --config {}", lab.group(), pipe.display()).split_whitespace());
    let socket = lab.path("node.sock");
    command.arg("--status-socket").arg(&socket);
    let node = lab.spawn("node", command, socket);
    fs::File::options().write(true).open(&pipe).expect("it reads").write_all(b"gamma = '7ms'\n").expect("written");
    lab.within(LONG, "it warns", || node.log().contains("WARN  SIGHUP will change no settings: ").then_some(()));
    lab.within(LONG, "it runs", || node.look());
    reload(&lab, &node, "the settings stay as they were: ");
}

#[test]
fn a_node_that_may_not_read_its_file_again_warns_at_once_and_goes_on() {
    if !geteuid().is_root() {
        return skip("only root can become somebody else");
    }
    let lab = Lab::new();
    fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).expect("ours");
    let file = config_file(&lab, "node", "gamma = '7ms'\n");
    let mode = |mode| fs::set_permissions(&file, Permissions::from_mode(mode)).expect("ours");
    mode(0o600);
    let node = lab.join("node", &format!("--role slave --user 65534:65534 --config {}", file.display()));
    let reason = format!("{}: user 65534 may not read it: Permission denied", file.display());
    lab.within(LONG, "it warns", || {
        node.log().contains(&format!("SIGHUP will change no settings: {reason}")).then_some(())
    });
    lab.within(LONG, "it runs", || node.look());
    reload(&lab, &node, &format!("ERROR the settings stay as they were: {reason}"));
    // Under all protections, as another user, behind the filter.
    mode(0o644);
    assert!(node.status().privileges.seccomp);
    reload(&lab, &node, "settings read again: nothing has changed");
}
