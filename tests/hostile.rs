//! Hostile datagrams on real sockets: garbage, forgeries, liars and floods. Each is counted under its name, and no clock moves.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration as StdDuration;

use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::net::RECEIVE_BUFFER;
use berkeleyd::protocol::{
    Acknowledgement, Announce, Claim, Corrections, Entry, Frame, Heartbeat, Leave, Merit, Message, Outcome, Request,
    Response, Successors,
};
use berkeleyd::status::RoleName;
use berkeleyd::time::{LocalTime, Skew, Span};
use nix::sys::signal::Signal;
use support::actor::{Actor, Attack, StraightLine};
use support::lab::{CLOSE, Daemon, Lab, ahead, free_port, spread};
use support::messages;

/// Reasons of a slave.
const OF_A_SLAVE: [DropReason; 12] = [
    DropReason::WrongRole,
    DropReason::Rival,
    DropReason::VainClaim,
    DropReason::StaleTerm,
    DropReason::Stranger,
    DropReason::StaleIncarnation,
    DropReason::StaleRound,
    DropReason::DuplicateCorrection,
    DropReason::StaleAdjustment,
    DropReason::LateCorrection,
    DropReason::Contradicted,
    DropReason::TooLarge,
];
/// Reasons of a node that has keys: see `authentication.rs` and the tests in `src/auth.rs`.
const WITH_KEYS: [DropReason; 7] = [
    DropReason::Unauthenticated,
    DropReason::UnknownKey,
    DropReason::ExpiredKey,
    DropReason::WrongCode,
    DropReason::Replayed,
    DropReason::HeldBack,
    DropReason::Unproven,
];
/// Reasons of a master.
const OF_A_MASTER: [DropReason; 10] = [
    DropReason::OwnFrame,
    DropReason::Rival,
    DropReason::VainClaim,
    DropReason::DuplicateNodeId,
    DropReason::WrongRole,
    DropReason::Stranger,
    DropReason::StaleIncarnation,
    DropReason::Unsolicited,
    DropReason::ImplausibleTimes,
    DropReason::TableFull,
];

fn names(reasons: &[DropReason]) -> BTreeSet<&'static str> {
    reasons.iter().map(|reason| reason.name()).collect()
}

/// Reasons that any node without keys has, master or slave, to refuse a datagram by its bytes alone.
fn of_bytes() -> BTreeSet<&'static str> {
    let reasons = DropReason::ALL.iter().filter(|reason| reason.takes_no_key() && !WITH_KEYS.contains(reason));
    reasons.map(|reason| reason.name()).collect()
}

#[test]
fn every_reason_to_drop_is_tried() {
    // See `amplification.rs` for the last.
    let others = [DropReason::NotAPeer, DropReason::TooMany];
    let tried = [of_bytes(), names(&OF_A_SLAVE), names(&OF_A_MASTER), names(&WITH_KEYS), names(&others)];
    assert_eq!(tried.into_iter().flatten().collect::<BTreeSet<_>>(), names(DropReason::ALL));
}

/// The bytes of the vectors that no node may take, and the counter that each must raise. They are of domain 7.
fn bad_vectors() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let files = fs::read_dir(&dir).expect("the vectors").map(|entry| entry.expect("a file").path());
    let bad = files.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"bad_")));
    let vectors: Vec<_> = bad
        .map(|path| {
            let text = fs::read_to_string(&path).expect("text");
            let (head, hex) = text.split_once("\nhex\n").expect("a hex block");
            let error = head.lines().find_map(|line| line.strip_prefix("error = ")).expect("an error");
            // `TooShort { .. }` is counted as `too_short`.
            let variant = error.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let mut counter = String::new();
            for (index, c) in variant.char_indices() {
                if c.is_uppercase() && index > 0 {
                    counter.push('_');
                }
                counter.push(c.to_ascii_lowercase());
            }
            let words = hex.lines().flat_map(|row| {
                let row = row.split('#').next().unwrap_or_default();
                let name = usize::from(!row.starts_with(char::is_whitespace));
                row.split_whitespace().skip(name)
            });
            let digits: String = words.collect();
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex");
            (counter, (0..digits.len()).step_by(2).map(byte).collect())
        })
        .collect();
    assert!(vectors.len() >= 15, "{}", vectors.len());
    vectors
}

/// What must not be taken, by itself: no node need know the sender.
fn garbage(actor: &Actor) -> Vec<(DropReason, Vec<u8>)> {
    let leave = actor.frame(&Message::Leave(Leave { successor: None }));
    let patched = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let response =
        actor.frame(&actor.response_to(&actor.frame(&Message::Request(Request::bare(LocalTime::default()))), |_| {}));
    let entry = Entry {
        node: NodeId::new(1),
        node_incarnation: Incarnation::new(1),
        reference: LocalTime::default(),
        correction: Span::ZERO,
        rate: Skew::ZERO,
        error_bound: Span::ZERO,
        rate_error: Skew::ZERO,
        adjustment: 0,
    };
    let correction = actor.frame(&Message::Correction(Corrections::of(&[entry])));
    let mut all = vec![
        (DropReason::TooShort, Vec::new()),
        (DropReason::TooShort, b"hello".to_vec()),
        (DropReason::TooShort, leave[..39].to_vec()),
        (DropReason::Magic, vec![0; 120]),
        (DropReason::Magic, vec![0xff; 1_452]),
        (DropReason::Magic, vec![7; 60_000]),
        (DropReason::OtherDomain, patched(&leave, 8, &[0xff; 4])),
        (DropReason::Version, patched(&leave, 2, &[2])),
        (DropReason::Type, patched(&leave, 3, &[0])),
        (DropReason::Type, patched(&leave, 3, &[15])),
        (DropReason::Length, patched(&leave, 6, &[0, 47])),
        (DropReason::Length, patched(&leave, 6, &[0xff, 0xff])),
        (DropReason::Length, leave[..47].to_vec()),
        (DropReason::Length, [&leave[..], &[0; 2_000]].concat()),
        (DropReason::Length, patched(&correction, 40, &[0, 2])),
        (DropReason::Count, [&patched(&correction, 40, &[0, 0])[..64]].concat()),
    ];
    // The length of a frame without entries has to be right for the count to be looked at.
    if let Some((_, frame)) = all.last_mut() {
        frame[6..8].copy_from_slice(&64_u16.to_be_bytes());
    }
    // Absurd times in each field that holds one; none of these values is legal in it.
    for (frame, fields) in [(&response, [40, 48, 56, 64, 72, 80].as_slice()), (&correction, &[56, 80, 88, 96, 104])] {
        for (at, value) in fields.iter().flat_map(|at| [i64::MIN, i64::MIN + 1, 1 << 62].map(|value| (*at, value))) {
            all.push((DropReason::OutOfRange, patched(frame, at, &value.to_be_bytes())));
        }
    }
    all
}

#[test]
fn what_is_no_frame_is_counted_and_moves_nobody() {
    let mut lab = Lab::new();
    // That of the vectors.
    lab.group_port = 7;
    let port = free_port();
    // Rounds so rare that no correction falls into the test: clocks that nobody moves are straight lines.
    let options = format!(
        "--bind 127.0.0.1:0 --group 239.255.5.25:{port} --domain 7 --interval 60s --min-interval 60s --inject-drift 20"
    );
    let mut nodes = [
        lab.start("master", &format!("{options} --role master")),
        lab.start("slave", &format!("{options} --role slave --inject-offset 1s")),
    ];
    lab.agree(&nodes.each_ref());
    let lines = nodes.each_ref().map(|node| StraightLine::of(&lab, node, &nodes[0]));
    let actor = Actor::new(&lab, 1234);
    let vectors = bad_vectors();
    for node in &nodes {
        let address = node.address(&lab);
        let mut attack = Attack::on(&lab, node);
        for (reason, bytes) in garbage(&actor) {
            attack.expect(reason, 1, || actor.send(address, &bytes));
        }
        for (name, bytes) in &vectors {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
            let reason = reason.unwrap_or_else(|| panic!("no counter is called {name}"));
            attack.expect(*reason, 1, || actor.send(address, bytes));
        }
        assert_eq!(attack.raised, of_bytes());
    }

    // And ten thousand of them: the log stays as it is.
    let mut bad = garbage(&actor);
    bad.retain(|(_, bytes)| bytes.len() < 1_500);
    let dropped = |node: &Daemon| node.status().counters.dropped.values().sum::<u64>();
    for node in &nodes {
        let (address, before) = (node.address(&lab), dropped(node));
        for round in 1..=100 {
            for (_, bytes) in bad.iter().cycle().skip(round).take(100) {
                actor.send(address, bytes);
            }
            // So many at a time as fit a socket's buffer.
            let sent = 100 * u64::try_from(round).expect("few");
            lab.until("all are counted", || (dropped(node) >= before + sent).then_some(()));
        }
    }
    for (line, node) in lines.iter().zip(&mut nodes) {
        line.assert_goes_on(node);
        assert!(node.is_alive());
        assert!(node.log().lines().count() < 20, "{} lines for 10,000 datagrams", node.log().lines().count());
    }
}

/// A master of the test's own makes corrections of every wrong kind.
#[test]
fn a_slave_applies_no_correction_that_is_not_for_it_now() {
    let lab = Lab::new();
    let slave = lab.join("slave", "--role slave --node-id 5 --max-correction 1s");
    let address = slave.address(&lab);
    let master = Actor::new(&lab, 1).with(|header| header.term = Term::new(9));
    let announce = Message::Announce(messages::announce());
    let adrift = slave.status();
    // Its local clock is the machine's, as ours is.
    let entry = |adjustment: u32| Entry {
        node: NodeId::new(5),
        node_incarnation: Incarnation::new(adrift.incarnation),
        reference: lab.clock.now(),
        correction: Span::from_millis(300),
        rate: Skew::ZERO,
        error_bound: Span::from_micros(10),
        rate_error: Skew::ZERO,
        adjustment,
    };
    let correction = |from: &Actor, round: u32, entry: Entry| {
        let from = from.with(|header| header.round = Round::new(round));
        from.frame(&Message::Correction(Corrections::of(&[entry])))
    };
    let mut attack = Attack::on(&lab, &slave);
    // Before it follows anybody.
    attack.expect(DropReason::Stranger, 1, || master.send(address, &correction(&master, 1, entry(0))));

    // From here on somebody has to say every second that the master is there.
    let is_over = Arc::new(AtomicBool::new(false));
    let heartbeat = {
        let (is_over, pulse) = (Arc::clone(&is_over), master.with(|_| {}));
        let frame = master.frame(&announce);
        thread::spawn(move || {
            let (_sender, never) = mpsc::channel::<()>();
            while !is_over.load(Ordering::Relaxed) {
                pulse.send(address, &frame);
                let _ = never.recv_timeout(StdDuration::from_millis(50));
            }
        })
    };
    master.hear("join").expect("it joins");
    let asking = master.with(|header| header.round = Round::new(3));
    asking.say(address, &Message::Request(Request::bare(LocalTime::from_nanos(1))));
    let response = asking.hear("response").expect("a request is answered");
    let response = Frame::decode(&response).expect("a frame");
    assert_eq!((response.header.round, response.header.term), (Round::new(3), Term::new(9)));
    assert!(matches!(response.message, Message::Response(Response { t1, .. }) if t1 == LocalTime::from_nanos(1)));
    let first = correction(&master, 4, entry(0));
    master.send(address, &first);
    assert!(master.hear("acknowledgement").is_some(), "a correction is acknowledged");
    let status = slave.status();
    assert_eq!((status.adjustment, status.round, status.last_correction_ns), (1, 4, 300_000_000));
    assert!((ahead(&status) - ahead(&adrift) - Span::from_millis(300)).abs() < Span::from_micros(500), "{status:?}");
    let line = {
        let first = slave.status();
        let before = first.counters.received["announce"];
        lab.until("time passes", || (slave.status().counters.received["announce"] >= before + 3).then_some(()));
        StraightLine { first, second: slave.status() }
    };

    let stranger = Actor::new(&lab, 1).with(|header| header.term = Term::new(9));
    let with_reference = |reference| Entry { reference, ..entry(1) };
    let (now, far) = (lab.clock.now(), Span::from_secs(5));
    let other_life = Incarnation::new(adrift.incarnation + 1);
    let strikes: Vec<(DropReason, &Actor, Vec<u8>)> = vec![
        (DropReason::Stranger, &stranger, correction(&master, 5, entry(1))),
        (DropReason::Stranger, &stranger, stranger.frame(&announce)),
        (DropReason::Stranger, &stranger, correction(&master.with(|header| header.term = Term::new(10)), 5, entry(1))),
        (DropReason::StaleTerm, &master, correction(&master.with(|header| header.term = Term::new(8)), 5, entry(1))),
        (DropReason::StaleTerm, &stranger, stranger.as_node(2).frame(&announce)),
        (DropReason::StaleTerm, &master, master.with(|header| header.term = Term::default()).frame(&announce)),
        (DropReason::Rival, &stranger, stranger.as_node(2).with(|header| header.term = Term::new(10)).frame(&announce)),
        (
            DropReason::VainClaim,
            &stranger,
            stranger.as_node(2).with(|header| header.term = Term::new(10)).frame(&CLAIM),
        ),
        (DropReason::VainClaim, &stranger, stranger.as_node(2).with(|header| header.term = Term::LIMIT).frame(&CLAIM)),
        (DropReason::DuplicateCorrection, &master, first.clone()),
        (DropReason::StaleRound, &master, correction(&master, 3, entry(1))),
        (DropReason::StaleRound, &master, correction(&master, 0, entry(1))),
        (DropReason::StaleAdjustment, &master, correction(&master, 5, entry(0))),
        (DropReason::StaleAdjustment, &master, correction(&master, 5, entry(u32::MAX))),
        (DropReason::LateCorrection, &master, correction(&master, 5, with_reference(now - far))),
        (DropReason::LateCorrection, &master, correction(&master, 5, with_reference(now + far))),
        (DropReason::LateCorrection, &master, correction(&master, 5, with_reference(LocalTime::default()))),
        (
            DropReason::LateCorrection,
            &master,
            correction(&master, 5, with_reference(LocalTime::from_nanos((1 << 62) - 1))),
        ),
        (
            DropReason::StaleIncarnation,
            &master,
            correction(&master, 5, Entry { node_incarnation: other_life, ..entry(1) }),
        ),
        (DropReason::WrongRole, &master, master.frame(&Message::Acknowledgement(ACKNOWLEDGED))),
        (DropReason::Contradicted, &master, correction(&master, 5, entry(1))),
        (
            DropReason::TooLarge,
            &master,
            correction(&master, 6, Entry { correction: Span::from_nanos((1 << 62) - 1), ..entry(1) }),
        ),
        (
            DropReason::TooLarge,
            &master,
            correction(&master, 7, Entry { correction: Span::from_nanos(1 - (1 << 62)), ..entry(1) }),
        ),
    ];
    for (reason, from, bytes) in strikes {
        attack.expect(reason, 1, || from.send(address, &bytes));
    }
    // A leave in the master's name from elsewhere.
    stranger.say(address, &Message::Leave(Leave { successor: None }));
    lab.until("the leave has arrived", || (slave.status().counters.received["leave"] == 1).then_some(()));
    assert_eq!(slave.status().master_id, Some(1), "a forged leave takes nobody away");
    assert_eq!(attack.raised, names(&OF_A_SLAVE));
    line.assert_goes_on(&slave);
    assert!(slave.log().lines().count() < 20, "{}", slave.log());

    // The right one is still taken: nothing that was dropped has left a trace.
    let small = Entry { correction: Span::from_micros(50), ..entry(1) };
    master.send(address, &correction(&master, 8, small));
    lab.until("it is corrected", || (slave.status().adjustment == 2).then_some(()));
    is_over.store(true, Ordering::Relaxed);
    heartbeat.join().expect("the heartbeat ends");
}

/// The best claim there is.
const CLAIM: Message<'static> =
    Message::Claim(Claim { priority: i32::MAX, merit: Merit::Appointed, is_handover: false });

const ACKNOWLEDGED: Acknowledgement = Acknowledgement { adjustment: 1, outcome: Outcome::Slewed };

/// Slaves of the test's own answer a master with every wrong thing.
#[test]
fn a_master_is_moved_by_no_answer_that_it_did_not_ask_for() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --max-slaves 2 --interval 60s --min-interval 60s");
    let slave = lab.join("slave", "--role slave --node-id 5 --inject-offset 20ms");
    lab.agree(&[&master, &slave]);
    let line = StraightLine::of(&lab, &slave, &master);
    let own_line = StraightLine::of(&lab, &master, &master);
    let address = master.address(&lab);
    let term = Term::new(master.status().term);
    // A join with the master's own term would be another's mastership, and end this one.
    let newcomer = Actor::new(&lab, 70);
    let actor = newcomer.with(|header| header.term = term);
    let mut attack = Attack::on(&lab, &master);

    let nonsense = actor.response_to(&actor.frame(&Message::Request(Request::bare(LocalTime::default()))), |_| {});
    attack.expect(DropReason::Stranger, 1, || actor.say(address, &nonsense));
    attack.expect(DropReason::Stranger, 1, || actor.say(address, &Message::Acknowledgement(ACKNOWLEDGED)));
    attack.expect(DropReason::WrongRole, 1, || {
        actor.say(address, &Message::Request(Request::bare(LocalTime::default())))
    });
    // Neither an announce nor claims depose it, whatever they promise.
    let announce = Announce {
        interval: Span::from_secs(1),
        priority: i32::MAX,
        merit: Merit::Established,
        heartbeat: Heartbeat::SHORTEST,
        members: u16::MAX,
        successors: Successors::new([NodeId::new(70)]),
    };
    attack.expect(DropReason::Rival, 1, || newcomer.say(address, &Message::Announce(announce)));
    attack.expect(DropReason::VainClaim, 2, || {
        newcomer.with(|header| header.term = Term::LIMIT).say(address, &CLAIM);
        let handover = Claim { priority: i32::MAX, merit: Merit::Appointed, is_handover: true };
        actor.say(address, &Message::Claim(handover));
    });
    // The true slave's number from elsewhere, in its own and in another life.
    let five = Incarnation::new(slave.status().incarnation);
    let impostor = actor.as_node(5);
    attack.expect(DropReason::DuplicateNodeId, 1, || impostor.say(address, &nonsense));
    let double = impostor.with(|header| header.incarnation = five);
    attack.expect(DropReason::Stranger, 1, || double.say(address, &nonsense));
    // The master's own number.
    let mirror = newcomer.as_node(master.status().node_id);
    attack.expect(DropReason::DuplicateNodeId, 1, || mirror.say(address, &mirror.join()));

    // As a member: first whatever does not make it one, then an answer.
    newcomer.say(address, &newcomer.join());
    let request = actor.hear("request").expect("it is asked");
    attack.expect(DropReason::OwnFrame, 50, || (0..50).for_each(|_| actor.send(address, &request)));
    actor.say(address, &actor.response_to(&request, |_| {}));
    lab.until("it is a member", || (master.status().peers.len() == 2).then_some(()));
    attack.expect(DropReason::Unsolicited, 2, || {
        actor.say(address, &actor.response_to(&request, |_| {}));
        actor.say(address, &Message::Acknowledgement(ACKNOWLEDGED));
    });
    attack.expect(DropReason::StaleIncarnation, 1, || {
        let reborn = actor.with(|header| header.incarnation = Incarnation::new(78));
        reborn.say(address, &reborn.response_to(&request, |_| {}));
    });
    let second = actor.hear("request").expect("a burst goes on");
    attack.expect(DropReason::ImplausibleTimes, 1, || {
        let lie = |response: &mut Response| response.t2 = response.t3 + Span::from_nanos(1);
        actor.say(address, &actor.response_to(&second, lie));
    });
    let third = actor.hear("request").expect("a burst goes on");
    attack.expect(DropReason::ImplausibleTimes, 1, || {
        // It claims to have pondered for longer than the request was away.
        let lie = |response: &mut Response| response.t3 = response.t2 + Span::from_secs(100);
        actor.say(address, &actor.response_to(&third, lie));
    });
    attack.expect(DropReason::TableFull, 1, || newcomer.as_node(71).say(address, &newcomer.join()));
    assert_eq!(attack.raised, names(&OF_A_MASTER));
    own_line.assert_goes_on(&master);
    line.assert_goes_on(&slave);
    assert!(master.log().lines().count() < 20, "{}", master.log());
}

/// A member may lie in every field of every answer; the honest stay together.
#[test]
fn a_liar_among_the_slaves_moves_nobody() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --interval 62.5ms");
    let slaves = ["one", "two"].map(|name| lab.join(name, "--role slave"));
    let nodes = [&master, &slaves[0], &slaves[1]];
    let before = ahead(&lab.agree(&nodes)[0]);
    let address = master.address(&lab);
    let newcomer = Actor::new(&lab, 70);
    newcomer.say(address, &newcomer.join());
    let liar = newcomer.with(|header| header.term = Term::new(master.status().term));
    let largest = (1 << 62) - 1;
    // A little and much too far ahead and behind, and as far as a frame can say.
    let lies = [30_000_000, -30_000_000, 3_000_000_000, -3_000_000_000, largest, -largest];
    let fields = 6;
    let (mut told, mut worst, mut fastest) = (0, Span::ZERO, Skew::ZERO);
    while told < lies.len() * fields {
        let request = liar.hear("request").expect("it is asked, round after round");
        let lie = lies[told % lies.len()];
        let at = |shift: i64| LocalTime::from_nanos(lab.clock.now().as_nanos().saturating_add(shift).clamp(0, largest));
        let answer = liar.response_to(&request, |response| {
            // The truth, but for one field.
            let truth = lab.clock.pair();
            (response.t2, response.t3, response.ahead) = (at(0), at(0), truth.system.ahead_of(truth.local));
            match told / lies.len() {
                0 => response.ahead += Span::from_nanos(lie),
                1 => response.slew = Span::from_nanos(lie),
                2 => (response.t2, response.t3) = (at(lie), at(lie)),
                3 => response.rate = Skew::from_ppt(lie).clamped(Skew::MAX),
                4 => (response.adjustment, response.applied_round) = (u32::MAX, Round::new(u32::MAX)),
                _ => (response.error_bound, response.is_synchronised) = (Span::from_nanos(lie.abs()), true),
            }
            response.ahead = Span::from_nanos(response.ahead.as_nanos().clamp(-largest, largest));
        });
        liar.say(address, &answer);
        told += 1;
        let statuses = nodes.map(Daemon::status);
        assert!(spread(&statuses) < CLOSE, "lie {told}: {}", spread(&statuses));
        let listed = statuses[0].peers.iter().find(|peer| peer.node_id == 70);
        assert!(told > lies.len() || listed.is_none_or(|peer| !peer.counted), "lie {told}: {listed:?}");
        // What the liar talked them into would be slewed, slowly and by all: it shows here before their clocks show it.
        worst = statuses.iter().map(|status| Span::from_nanos(status.slew_ns).abs()).fold(worst, Span::max);
        fastest = statuses.iter().map(|status| Skew::from_ppb(status.skew_ppb).abs()).fold(fastest, Skew::max);
    }
    // All honest oscillators are one.
    assert!(worst < CLOSE && fastest < Skew::from_ppm(1_000), "they slew by {worst}, at {fastest}");
    let statuses = lab.agree(&nodes);
    assert!((ahead(&statuses[0]) - before).abs() < CLOSE, "{before} -> {}", ahead(&statuses[0]));
}

#[test]
fn a_node_with_peers_hears_nobody_else() {
    let lab = Lab::new();
    let peer = format!("127.0.0.1:{}", free_port());
    let slave =
        lab.start("slave", &format!("--role slave --bind 127.0.0.1:0 --peer {peer} --domain {}", lab.group_port));
    let address = slave.address(&lab);
    let stranger = Actor::new(&lab, 1).with(|header| header.term = Term::new(1));
    let mut attack = Attack::on(&lab, &slave);
    attack.expect(DropReason::NotAPeer, 2, || {
        stranger.say(address, &Message::Announce(messages::announce()));
        stranger.say(address, &Message::Request(Request::bare(LocalTime::default())));
    });
    assert_eq!(slave.status().role, RoleName::Listening);
    stranger.socket.set_nonblocking(true).expect("set");
    assert!(stranger.hear("response").is_none(), "it does not answer either");
}

/// As fast as loopback carries them: the loop must come round to its signals and its deadlines all the same.
#[test]
fn a_flood_does_not_stop_the_loop() {
    let lab = Lab::new();
    // It logs every datagram, so that it is slower than the flood on any machine.
    let mut master = lab.join("master", "--role master --interval 250ms -v");
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    let address = master.address(&lab);
    let is_over = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, actor) = (Arc::clone(&is_over), Actor::new(&lab, 9));
            thread::spawn(move || {
                let frame = actor
                    .with(|header| header.domain = Domain::new(0))
                    .frame(&Message::Leave(Leave { successor: None }));
                while !is_over.load(Ordering::Relaxed) {
                    actor.send(address, &frame);
                }
            })
        })
        .collect();
    let announced = slave.status().counters.received["announce"];
    // The slave is asked, so that nothing here depends on the master's serving its status.
    let heard = lab.clock.now();
    lab.until("the master goes on announcing", || {
        (slave.status().counters.received["announce"] >= announced + 12).then_some(())
    });
    let took = lab.clock.now() - heard;
    master.signal(Signal::SIGTERM);
    let told = lab.clock.now();
    let (code, log, _) = master.end(&lab);
    let stopping = lab.clock.now() - told;
    is_over.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|thread| thread.join().expect("the flood ends"));
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Span::from_secs(5) && stopping < Span::from_secs(2), "announces took {took}, the end {stopping}");
}

/// As when ten thousand slaves answer a master that does not run for a moment.
#[test]
fn a_buffer_that_was_too_small_is_told_once_with_the_setting_that_helps() {
    let lab = Lab::new();
    let node = lab.join("master", "--role master");
    let address = node.address(&lab);
    let actor = Actor::new(&lab, 9).with(|header| header.domain = Domain::new(0));
    let frame = actor.frame(&Message::Leave(Leave { successor: None }));
    for overflow in 1..=2 {
        let before = node.status().counters.socket_drops;
        node.signal(Signal::SIGSTOP);
        // Of 4 MiB, which the kernel doubles, a short datagram takes 768 bytes.
        (0..12_000).for_each(|_| actor.send(address, &frame));
        node.signal(Signal::SIGCONT);
        // The kernel tells of the loss with the first datagram that there was room for.
        lab.until(&format!("overflow {overflow} is counted"), || {
            actor.send(address, &frame);
            (node.status().counters.socket_drops > before).then_some(())
        });
    }
    let log = node.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("datagrams were lost")).collect();
    let largest: usize =
        fs::read_to_string("/proc/sys/net/core/rmem_max").expect("Linux").trim().parse().expect("bytes");
    let why =
        if largest < RECEIVE_BUFFER { "net.core.rmem_max" } else { "more arrived than this node could take in time" };
    assert!(matches!(told[..], [line] if line.contains(why)), "{told:?}");
}
