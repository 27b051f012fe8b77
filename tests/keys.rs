//! Nodes with keys as real processes on 127.0.0.1: an ensemble that has them, who is kept out, keys that are replaced while it runs, files
//! that are wrong, and recordings of real frames.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a broken test or a red one")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use berkeleyd::counters::{DropReason, FRAME_NAMES};
use berkeleyd::protocol::Frame;
use berkeleyd::status::{RoleName, Status};
use berkeleyd::time::{Skew, Span};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use socket2::{Domain, Protocol, Socket, Type};
use support::lab::{CLOSE, Course, Daemon, Lab, agreed_master, ahead, free_port, skip};

/// What is dropped because of keys.
const KEY_REASONS: [DropReason; 6] = [
    DropReason::Authenticated,
    DropReason::Unauthenticated,
    DropReason::UnknownKey,
    DropReason::ExpiredKey,
    DropReason::WrongCode,
    DropReason::HeldBack,
];
const NOBODY: u32 = 65_534;

/// The text of a key file with these keys: a number, and a byte of which the key is made.
fn text(keys: &[(u32, u8)]) -> String {
    let key = |(id, byte): &(u32, u8)| format!("[[key]]\nid = {id}\nkey = \"{}\"\n", format!("{byte:02x}").repeat(16));
    keys.iter().map(key).collect()
}

/// Puts a file in place at once, as an operator should, that nobody else can read.
fn install(file: &Path, text: &str) {
    let new = file.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::set_permissions(&new, Permissions::from_mode(0o600)));
    written.and_then(|()| fs::rename(&new, file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// A key file of the lab's.
fn key_file(lab: &Lab, name: &str, keys: &[(u32, u8)]) -> PathBuf {
    let file = lab.path(&format!("{name}.keys"));
    install(&file, &text(keys));
    file
}

/// Starts a node in the lab's group with a key file of its own.
fn join(lab: &Lab, name: &str, keys: &[(u32, u8)], options: &str) -> Daemon {
    let file = key_file(lab, name, keys);
    lab.join(name, &format!("--key-file {} {options}", file.display()))
}

fn dropped(status: &Status, reason: DropReason) -> u64 {
    status.counters.dropped[reason.name()]
}

fn assert_nothing_dropped_for_keys(node: &Daemon) {
    let status = node.status();
    for reason in KEY_REASONS {
        assert_eq!(dropped(&status, reason), 0, "{} at {}", reason.name(), node.name);
    }
}

/// Has a node read its file again, and waits until it has these keys.
fn reload(lab: &Lab, node: &Daemon, ids: &[u32]) {
    node.signal(Signal::SIGHUP);
    lab.until("it has the keys", || (node.look()?.keys.as_deref() == Some(ids)).then_some(()));
}

#[test]
fn an_ensemble_with_a_key_elects_agrees_and_replaces_a_killed_master() {
    let lab = Lab::new();
    let nodes: Vec<Daemon> = (1..=4)
        .map(|number| join(&lab, &format!("n{number}"), &[(1, 7)], &format!("--inject-offset {number}00ms")))
        .collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let master = lab.until("they have a master", || agreed_master(&all));
    let statuses = lab.agree(&all);
    assert!(statuses.iter().all(|status| status.keys == Some(vec![1])));
    let (gone, rest): (Vec<&Daemon>, Vec<&Daemon>) = all.iter().partition(|node| node.status().node_id == master);
    lab.until("it names its successors", || {
        rest.iter().all(|node| node.look().is_some_and(|status| status.adjustment > 1)).then_some(())
    });
    let mut course = Course::of(rest.iter().copied(), Skew::ZERO);
    gone[0].signal(Signal::SIGKILL);
    lab.until("another one has taken over", || {
        course.look();
        agreed_master(&rest).filter(|heir| *heir != master)
    });
    lab.agree(&rest);
    course.look();
    for node in rest {
        assert_nothing_dropped_for_keys(node);
        assert!(node.log().contains("seccomp=on") && !node.log().contains("frames are not authenticated"));
        assert!(!node.log().contains("0707"), "a key is nothing for a log: {}", node.log());
    }
}

/// The lines in which a node names who is not authentic.
fn naming(node: &Daemon) -> Vec<String> {
    let log = node.log();
    log.lines().filter(|line| line.contains(" WARN ") && line.contains("dropped what is")).map(str::to_owned).collect()
}

#[test]
fn who_does_not_share_the_key_is_not_heard_and_each_side_says_so_once() {
    // The stranger's keys; what the others count and say of it, and what it counts and says of them.
    let cases: [(&[(u32, u8)], _, _, _, _); 3] = [
        (
            &[],
            DropReason::Unauthenticated,
            "not authenticated from=",
            DropReason::Authenticated,
            "authenticated with key 1, and this node has no keys",
        ),
        (&[(1, 8)], DropReason::WrongCode, "not authenticated with our key 1", DropReason::WrongCode, "our key 1"),
        (
            &[(2, 7)],
            DropReason::UnknownKey,
            "with key 2, which is not",
            DropReason::UnknownKey,
            "with key 1, which is not",
        ),
    ];
    let ensembles: Vec<(Lab, [Daemon; 2], Daemon)> = cases
        .iter()
        .map(|(keys, ..)| {
            let lab = Lab::new();
            let members = [1, 2].map(|n| join(&lab, &format!("member{n}"), &[(1, 7)], &format!("--node-id {n}")));
            let stranger = if keys.is_empty() {
                lab.join("stranger", "--node-id 9 --inject-offset 1s")
            } else {
                join(&lab, "stranger", keys, "--node-id 9 --inject-offset 1s")
            };
            (lab, members, stranger)
        })
        .collect();
    for ((_, ours, of_it, its, of_us), (lab, members, stranger)) in cases.iter().zip(&ensembles) {
        // A master of nobody announces itself four times a second: now others could have been named for a while.
        let has_dropped = |node: &Daemon, reason| node.look().is_some_and(|status| dropped(&status, reason) > 70);
        lab.within(Span::from_secs(60), "they drop each other's frames", || {
            (members.iter().all(|member| has_dropped(member, *ours)) && has_dropped(stranger, *its)).then_some(())
        });
        let both = members.each_ref();
        assert_eq!(agreed_master(&both), Some(2));
        lab.agree(&both);
        let status = stranger.status();
        assert_eq!((status.role, status.master_id, status.peers.len()), (RoleName::Master, Some(9), 0), "alone");
        for (node, text) in both.into_iter().map(|member| (member, of_it)).chain([(stranger, of_us)]) {
            let lines = naming(node);
            let is_named = |line: &String| line.contains(text) && line.contains("from=127.0.0.1:");
            assert!(lines.len() == 1 && lines.iter().all(is_named), "{text}: {lines:?}");
        }
        for member in both {
            let status = member.status();
            let others = KEY_REASONS.iter().filter(|reason| *reason != ours);
            assert_eq!(others.map(|reason| dropped(&status, *reason)).sum::<u64>(), 0, "{:?}", status.counters.dropped);
        }
    }
}

#[test]
fn keys_are_replaced_while_the_ensemble_runs() {
    let lab = Lab::new();
    let old = [(1, 7)];
    let nodes: Vec<Daemon> = (1..=3)
        .map(|number| join(&lab, &format!("n{number}"), &old, &format!("--inject-offset {number}00ms")))
        .collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let master = lab.until("they have a master", || agreed_master(&all));
    lab.agree(&all);
    let terms: BTreeSet<u64> = all.iter().map(|node| node.status().term).collect();
    let mut course = Course::of(all.iter().copied(), Skew::ZERO);
    // The new one in all files; sent with; alone. Nodes change one by one.
    let steps: [&[(u32, u8)]; 3] = [&[(1, 7), (2, 8)], &[(2, 8), (1, 7)], &[(2, 8)]];
    for keys in steps {
        let ids: Vec<u32> = keys.iter().map(|(id, _)| *id).collect();
        for node in &nodes {
            key_file(&lab, &node.name, keys);
            reload(&lab, node, &ids);
            let rounds: Vec<u32> = all.iter().map(|node| node.status().round).collect();
            lab.until("a round with these keys", || {
                let statuses = course.look();
                assert!(statuses.iter().all(|status| status.synchronised), "{statuses:?}");
                let has_passed = |(status, round): (&Status, &u32)| status.round > *round + 1;
                statuses.iter().zip(&rounds).all(has_passed).then_some(())
            });
        }
    }
    for node in &nodes {
        assert_nothing_dropped_for_keys(node);
        let status = node.status();
        assert_eq!(dropped(&status, DropReason::Replayed), 0);
        assert!(terms.contains(&status.term) && status.master_id == Some(master), "nobody failed over");
        assert!(node.log().contains("authenticating with keys=2,1"), "{}", node.log());
    }
    // Whoever has the old one alone is out.
    let late = join(&lab, "late", &old, "--role slave");
    lab.until("the old key is worth nothing", || {
        (dropped(&nodes[0].look()?, DropReason::UnknownKey) > 2 && late.look()?.master_id.is_none()).then_some(())
    });
}

/// Makes a file wrong, and what is said of it behind its name.
type Damage = (&'static str, fn(&Path));

const BAD_FILES: [Damage; 8] = [
    (": there is no key", |file| install(file, "")),
    (":4:1: key 2 has no `key`: the file may have been cut off", |file| {
        install(file, &text(&[(1, 7), (2, 8)]).replace(&format!("key = \"{}\"\n", "08".repeat(16)), ""));
    }),
    (":5:6: there is a key 1 already", |file| install(file, &text(&[(1, 7), (1, 8)]))),
    (": all keys have expired by this machine's clock", |file| {
        install(file, &text(&[(1, 7)]).replace("key = ", "accept-until = 2020-01-01T00:00:00Z\nkey = "));
    }),
    (": others may use it (its mode is 0644): chmod 600 it", |file| {
        fs::set_permissions(file, Permissions::from_mode(0o644)).expect("ours");
    }),
    (": not a regular file", |file| {
        fs::remove_file(file).expect("ours");
        nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
    }),
    (": not a regular file", |file| {
        fs::remove_file(file).expect("ours");
        fs::create_dir(file).expect("a directory");
    }),
    (": cannot be read: No such file or directory", |file| fs::remove_dir(file).expect("ours")),
];

#[test]
fn a_node_does_not_start_with_a_bad_key_file() {
    let lab = Lab::new();
    let file = key_file(&lab, "bad", &[(1, 7)]);
    for (number, (fault, damage)) in BAD_FILES.into_iter().enumerate() {
        damage(&file);
        let mut node = lab.join(&format!("n{number}"), &format!("--key-file {}", file.display()));
        let (code, log, _) = node.end(&lab);
        assert!(log.starts_with(&format!("berkeleyd: {}{fault}", file.display())), "{fault}: {log}");
        assert_eq!((code, log.lines().count()), (Some(2), 1), "{log}");
        assert!(!log.contains("0707"), "{log}");
    }
    if !geteuid().is_root() {
        return skip("only root can give a file away");
    }
    install(&file, &text(&[(1, 7)]));
    chown(&file, Some(NOBODY), None).expect("root may");
    let (code, log, _) = lab.join("theirs", &format!("--key-file {}", file.display())).end(&lab);
    // Without capabilities root cannot read what is not its own.
    assert!(log.contains(": user 0 may not read it: chown it to that user"), "{log}");
    assert_eq!((code, log.lines().count()), (Some(2), 1), "{log}");
}

#[test]
fn a_file_that_has_become_wrong_changes_nothing_but_a_line() {
    let lab = Lab::new();
    let nodes = [1, 2].map(|number| join(&lab, &format!("n{number}"), &[(1, 7)], &format!("--node-id {number}")));
    let both = nodes.each_ref();
    lab.until("they have a master", || agreed_master(&both));
    lab.agree(&both);
    let [node, _] = both;
    let file = lab.path("n1.keys");
    for (times, (fault, damage)) in (1..).zip(BAD_FILES) {
        damage(&file);
        node.signal(Signal::SIGHUP);
        let log = lab.until("it complains", || {
            let log = node.log();
            (log.matches("the keys stay as they were: ").count() == times).then_some(log)
        });
        let line = log.lines().rfind(|line| line.contains("the keys stay")).expect("counted");
        assert!(line.contains(&format!("ERROR the keys stay as they were: {}{fault}", file.display())), "{line}");
        assert_eq!(log.lines().filter(|line| line.contains(" ERROR ")).count(), times, "one line each: {log}");
        assert_eq!(node.status().keys, Some(vec![1]));
    }
    lab.agree(&both);
    nodes.iter().for_each(assert_nothing_dropped_for_keys);
    install(&file, &text(&[(1, 7), (3, 9)]));
    reload(&lab, node, &[1, 3]);
    // Who has no key file says so, and goes on.
    let without = lab.join("without", "--role slave");
    lab.until("it runs", || without.look());
    without.signal(Signal::SIGHUP);
    lab.until("it has nothing to read", || {
        without.log().contains("there is no configuration file and no key file to read again").then_some(())
    });
}

#[test]
fn a_submaster_has_a_key_for_each_domain() {
    let (lab, port) = (Lab::new(), free_port());
    let keys = key_file(&lab, "above", &[(10, 1)]);
    let above = format!("--bind 127.0.0.1:0 --group 239.255.5.25:{port} --domain 1 --key-file {}", keys.display());
    let roots =
        [1, 2].map(|number| lab.start(&format!("root{number}"), &format!("{above} --inject-offset {number}00ms")));
    let upper = format!("--upper-domain 1 --upper-bind 127.0.0.1:0 --upper-group 239.255.5.25:{port}");
    let submaster =
        join(&lab, "submaster", &[(20, 2)], &format!("--role master {upper} --upper-key-file {}", keys.display()));
    let leaf = join(&lab, "leaf", &[(20, 2)], "--inject-offset -1s");
    lab.agree(&[&roots[0], &roots[1], &submaster, &leaf]);
    let status = submaster.status();
    assert_eq!(status.keys, Some(vec![20]));
    assert_eq!(status.upper.expect("a submaster").node.keys, Some(vec![10]));
    for node in roots.iter().chain([&submaster, &leaf]) {
        assert_nothing_dropped_for_keys(node);
    }
    for line in
        ["authenticating with keys=10 domain=1", &format!("authenticating with keys=20 domain={}", lab.group_port)]
    {
        assert!(submaster.log().contains(line), "{}", submaster.log());
    }
    // Both files are read again, and the one that is wrong keeps its keys.
    install(&keys, "");
    key_file(&lab, "submaster", &[(20, 2), (21, 3)]);
    reload(&lab, &submaster, &[20, 21]);
    assert_eq!(submaster.status().upper.expect("a submaster").node.keys, Some(vec![10]));
    // Without a file of its own the domain above has the same.
    let both = key_file(&lab, "both", &[(10, 1), (20, 2)]);
    let other = lab.join("other", &format!("--role master {upper} --key-file {}", both.display()));
    lab.agree(&[&roots[0], &other]);
}

/// A socket that hears what is sent to the lab's group.
fn listener(lab: &Lab) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.set_reuse_address(true).expect("shared with the nodes");
    let group = Ipv4Addr::new(239, 255, 5, 25);
    socket.bind(&SocketAddr::from((group, lab.group_port)).into()).expect("the group's port");
    socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).expect("the group");
    socket.set_nonblocking(true).expect("a socket");
    socket.into()
}

fn kind(frame: &[u8]) -> &'static str {
    FRAME_NAMES[usize::from(frame[3]) - 1]
}

#[test]
fn a_recording_of_a_former_ensemble_moves_nobody_who_has_just_booted() {
    let lab = Lab::new();
    let mut recording: Vec<Vec<u8>> = Vec::new();
    let mut buffer = [0; 2_048];
    {
        let recorder = listener(&lab);
        // Right clocks, and a victim that is wrong: whatever moved it would show.
        let nodes: Vec<Daemon> = (1..=3)
            .map(|number| join(&lab, &format!("n{number}"), &[(1, 7)], &format!("--node-id {number}")))
            .collect();
        let mut is_killed = false;
        lab.within(Span::from_secs(30), "all that there is to record", || {
            while let Ok((len, _)) = recorder.recv_from(&mut buffer) {
                recording.push(buffer[..len].to_vec());
            }
            let count = |wanted: &str| recording.iter().filter(|frame| kind(frame) == wanted).count();
            if !is_killed && agreed_master(&nodes.iter().collect::<Vec<_>>()) == Some(3) && count("correction") > 2 {
                nodes[2].signal(Signal::SIGKILL);
                is_killed = true;
            }
            let is_of_the_second_term =
                |frame: &Vec<u8>| Frame::decode_authenticated(frame).expect("a real frame").header.term.get() > 1;
            let has_all = ["join", "claim"].iter().all(|wanted| count(wanted) > 1) && count("announce") > 80;
            (has_all && recording.iter().filter(|frame| is_of_the_second_term(frame)).count() > 20).then_some(())
        });
    }
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let wrong = Span::from_millis(700);
    for role in ["slave", "auto", "master"] {
        let victim = join(&lab, role, &[(1, 7)], &format!("--node-id 9 --role {role} --inject-offset 700ms"));
        let address = victim.address(&lab);
        // Twice, as fast as it is taken in.
        let mut sent = 0;
        for frame in recording.iter().chain(&recording) {
            sender.send_to(frame, address).expect("sent");
            sent += 1;
            if sent % 8 == 0 {
                lab.until("the victim has read them", || {
                    let counters = victim.look()?.counters;
                    let read: u64 = counters.received.values().chain(counters.dropped.values()).sum();
                    (read >= sent).then_some(())
                });
            }
        }
        let status = if role == "slave" {
            victim.status()
        } else {
            lab.until("it is its own master", || victim.look().filter(|status| status.role == RoleName::Master))
        };
        assert!((ahead(&status) - wrong).abs() < CLOSE, "{role}: {} of {wrong} are left", ahead(&status));
        assert_eq!(status.peers.len(), 0, "{role}: a recording is a member: {:?}", status.peers);
        let expected = if role == "slave" { (None, 0) } else { (Some(9), 1) };
        assert_eq!((status.master_id, status.term), expected, "{role}");
        assert!(
            status.counters.dropped["unproven"] + status.counters.dropped["replayed"] > 20,
            "{:?}",
            status.counters
        );
        // Somebody alive is followed, or follows, at once.
        let alive = join(&lab, &format!("alive{role}"), &[(1, 7)], "--node-id 20");
        lab.agree(&[&victim, &alive]);
    }
}
