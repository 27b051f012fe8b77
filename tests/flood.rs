//! A flood at one node of a running ensemble, real processes and sockets: nobody loses the time, and neither memory nor log grow.
//!
//! `bench/flood.py` measures the same for longer and at a rate; here nothing depends on how fast the machine sends.

#![expect(clippy::expect_used, reason = "what fails here is a broken test or a red one")]

mod support;

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use berkeleyd::counters::DropReason;
use berkeleyd::status::Status;
use berkeleyd::time::Span;
use support::lab::{BINARY, Daemon, Lab, ahead, berkeleyd};

/// Datagrams a second that are tried.
const RATE: &str = "50000";
/// For so long.
const SECONDS: &str = "4";
/// What flooding may add to what a node keeps resident, in KiB.
const GROWTH: u64 = 512;
/// What the ensemble has been through before it is looked at.
const CORRECTIONS: u32 = 8;
/// What a mixed flood is dropped for by a node that has keys.
const REASONS: [DropReason; 5] =
    [DropReason::TooShort, DropReason::Magic, DropReason::Unauthenticated, DropReason::WrongCode, DropReason::Replayed];

/// In KiB.
fn resident(node: &Daemon) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("what is resident");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// How far ahead of the system's clock a node's was at `instant` (of the system's clock), which lies between two looks at it, and how far it may
/// have been from ensemble time: nodes are looked at one after the other, and an ensemble does not run at the machine's rate.
fn lead(before: &Status, after: &Status, instant: i64) -> (Span, Span) {
    let from = before.clock.system_ns;
    let gained = i128::from((ahead(after) - ahead(before)).as_nanos()) * i128::from(instant - from);
    let gained = gained / i128::from((after.clock.system_ns - from).max(1));
    let bound = [before, after].map(|status| status.error_bound_ns + status.clock.uncertainty_ns).into_iter().max();
    (ahead(before) + Span::from_nanos(gained.try_into().expect("small")), Span::from_nanos(bound.expect("two")))
}

/// Two nodes that stood further apart than their bounds say, between two looks at all.
fn beyond_bounds(before: &[Status], after: &[Status]) -> Option<String> {
    let instant = before.iter().map(|status| status.clock.system_ns).max().expect("nodes");
    let leads: Vec<_> = before.iter().zip(after).map(|(before, after)| lead(before, after, instant)).collect();
    let pairs = leads.iter().flat_map(|one| leads.iter().map(move |other| (one, other)));
    let apart = |((one, bound), (other, other_bound)): &(&(Span, Span), &(Span, Span))| {
        (*one - *other).abs() > *bound + *other_bound
    };
    pairs.into_iter().find(apart).map(|pair| format!("{pair:?}"))
}

#[test]
#[ignore = "for some seconds it takes two processors, which tests beside it would miss"]
fn a_flood_of_every_kind_takes_nobody_the_time_nor_memory_nor_the_log() {
    let lab = Lab::new();
    let keys = lab.path("keys");
    fs::write(&keys, berkeleyd(&["keygen"]).stdout).expect("written");
    fs::set_permissions(&keys, Permissions::from_mode(0o600)).expect("ours");
    let join = |name: &str, options: &str| lab.join(name, &format!("--key-file {} {options}", keys.display()));
    let nodes = [
        join("master", "--role master"),
        join("target", "--role slave --inject-offset 10ms"),
        join("second", "--role slave --inject-offset 20ms"),
        join("third", "--role slave --inject-offset 30ms"),
    ];
    let all = nodes.each_ref();
    lab.agree(&all);
    let look = || all.map(Daemon::status);
    lab.within(Span::from_secs(60), "they have agreed for a while", || {
        look().iter().all(|status| status.adjustment >= CORRECTIONS).then_some(())
    });
    let target = &nodes[1];
    let (counters, lines, memory) = (target.status().counters, target.log().lines().count(), resident(target));

    let sender = Path::new(BINARY).with_file_name("examples/flood");
    let group = format!("239.255.5.25:{}", lab.group_port);
    let mut flood = Command::new(sender)
        .args([target.status().address.as_str(), &group, &lab.group_port.to_string(), "mixed", RATE, SECONDS])
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo build --example flood");
    let (mut before, mut looks) = (look(), 0);
    let ended = lab.within(Span::from_secs(60), "the flood ends", || {
        let now = look();
        assert!(now.iter().all(|status| status.synchronised), "{now:?}");
        assert_eq!(beyond_bounds(&before, &now), None);
        (before, looks) = (now, looks + 1);
        flood.try_wait().expect("a child")
    });
    let mut sent = String::new();
    flood.stdout.take().expect("piped").read_to_string(&mut sent).expect("a number");
    let dropped = |reason: DropReason| {
        target.look().map(|status| status.counters.dropped[reason.name()] - counters.dropped[reason.name()])
    };
    lab.within(Span::from_secs(60), "all kinds have been counted", || {
        REASONS.iter().all(|reason| dropped(*reason).is_some_and(|count| count > 100)).then_some(())
    });
    let told = target.log().lines().count() - lines;
    let grown = resident(target).saturating_sub(memory);
    println!("{} sent, {looks} looks, {grown} KiB, {told} lines", sent.trim());
    assert!(ended.success() && grown < GROWTH && told < 10, "{grown} KiB, {told} lines: {}", target.log());
}
