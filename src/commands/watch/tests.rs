//! The screens, from made-up statuses: all of `watch` but the terminal and the socket.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use crate::commands::watch::app::{App, Flow};
use crate::commands::watch::keys::Key;
use crate::commands::watch::looks::Seen;
use crate::commands::watch::view::{Palette, draw};
use crate::local_clock::Pair;
use crate::status::Status;
use crate::time::{LocalTime, Span, Time};

/// 2026-11-22 14:31:00 UTC.
const START: i64 = 1_795_357_860_000_000_000;

/// Node 1, a slave of node 9.
fn slave() -> Value {
    json!({
        "version": "0.1.0", "node_id": 1, "incarnation": 11, "domain": 4, "address": "192.0.2.1:5525", "role": "slave",
        "term": 7, "master_id": 9, "master_for_ms": 200_000, "round": 132, "synchronised": true, "error_bound_ns": 52_100,
        "last_correction_ns": -420, "slew_ns": 0, "skew_ppb": 12_345, "adjustment": 140, "timestamping": "kernel",
        "refused_correction_ns": null, "pause_ns": null, "pause_reason": null,
        "clock": { "kind": "virtual", "system_ns": START, "disciplined_ns": START, "uncertainty_ns": 20 },
        "privileges": { "uid": 0, "gid": 0, "capabilities": [], "no_new_privs": true, "seccomp": true }, "keys": null,
        "counters": { "sent": {}, "received": {}, "dropped": {}, "send_errors": 0, "unreachable": 0, "socket_drops": 0, "wake_ups": 0 },
        "peers": [], "upper": null,
    })
}

fn peer(node: u64, offset: i64, reason: Option<&str>) -> Value {
    json!({
        "node_id": node, "incarnation": node, "address": format!("192.0.2.{node}:5525"), "offset_ns": offset,
        "delay_ns": 250_000 - node, "skew_ppb": 1_000 * node, "error_bound_ns": 51_000, "offset_error_ns": 9,
        "sample": null, "timestamping": "kernel", "counted": reason.is_none(), "reason": reason, "last_heard_ms": 100,
        "retransmissions": 0,
    })
}

/// Node 1, master of these.
fn master(peers: &[Value]) -> Value {
    changed(slave(), &[("/role", json!("master")), ("/master_id", json!(1)), ("/peers", json!(peers))])
}

/// Node 1, master of three; `wave` moves their offsets.
fn master_of_three(wave: i64) -> Value {
    master(&[
        peer(2, 1_000 * wave, None),
        peer(3, 1_300_000_000, Some("disagrees")),
        peer(12, -2_500 - 300 * wave, None),
    ])
}

fn changed(mut status: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        *status.pointer_mut(pointer).unwrap() = value.clone();
    }
    status
}

/// An app, and how far its time is.
struct Course {
    app: App,
    millis: i64,
}

impl Course {
    fn new() -> Self {
        Self { app: App::new(), millis: 0 }
    }

    /// A look half a second after the last one. The node's clocks go on meanwhile.
    fn see(&mut self, seen: Result<Value, &str>) {
        self.millis += 500;
        let passed = Span::from_millis(self.millis);
        let system = Time::from_nanos(START) + passed;
        let at = Pair { local: LocalTime::from_nanos(0) + passed, system, uncertainty: Span::ZERO };
        let status = seen.map(|value| {
            let mut status: Status = serde_json::from_value(value).unwrap();
            status.clock.system_ns += passed.as_nanos();
            status.clock.disciplined_ns += passed.as_nanos();
            Box::new(status)
        });
        self.app.see(Seen { at, took: Span::from_millis(1), status: status.map_err(str::to_owned) });
    }

    fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            assert_eq!(self.app.press(Key::Char(key)), Flow::GoOn);
        }
    }

    fn drawn(&self, width: u16, height: u16, has_colours: bool) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &self.app, Palette { has_colours })).unwrap();
        terminal.backend().buffer().clone()
    }

    fn screen(&self, width: u16, height: u16) -> Vec<String> {
        let buffer = self.drawn(width, height, true);
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    /// The numbers of the slaves that are listed, from top to bottom.
    fn listed(&self) -> Vec<u64> {
        let screen = self.screen(80, 24);
        let table = screen.iter().skip_while(|line| !line.starts_with("slave")).skip(1);
        table.map_while(|line| line.split_whitespace().next()?.parse().ok()).collect()
    }
}

/// A master of three for ten seconds.
fn ten_seconds() -> Course {
    let mut course = Course::new();
    for wave in 0..20 {
        course.see(Ok(master_of_three((wave % 5) - 2)));
    }
    course
}

fn assert_shows(screen: &[String], parts: &[&str]) {
    let text = screen.join("\n");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

#[test]
fn a_master_at_80_by_24() {
    let mut course = ten_seconds();
    course.see(Ok(master(&[
        peer(2, 1_000, None),
        peer(3, 1_300_000_000, Some("disagrees")),
        peer(12, -2_500, Some("silent")),
        peer(15, 0, Some("newcomer")),
    ])));
    let expected = "\
node 1 at 192.0.2.1:5525, domain 4, version 0.1.0                   14:31:10 UTC
role         master for 3 min 20 s, term 7, round 132
synchronised yes, within 52.100 µs of ensemble time
correction   -420 ns last, 140 in all, rate +12.345 ppm
offsets, 1 of 4 counted
   2 µs                                                            ⠈⠁⠉⠁⠁⠉⠁⠉⠈⠁⠉⠈⠁

                                                                     ⠈  ⠈  ⠈  ⠈⠈
   0 ns
                                                                     ⠁  ⠁ ⠈  ⠈ ⠈
                                                                    ⡀  ⡀  ⡀  ⡀

  -2 µs                                                            ⢀⡀⣀⢀⡀⣀⢀⣀⢀⢀⣀⢀⣀
        1 min ago                                                            now
slave↓       offset    ± at most        delay         skew  counted
2          1.000 µs    51.000 µs   249.998 µs   +2.000 ppm  yes
3           1.300 s    51.000 µs   249.997 µs   +3.000 ppm  no: disagrees
12        -2.500 µs    51.000 µs   249.988 µs  +12.000 ppm  no: silent
15             0 ns    51.000 µs   249.985 µs  +15.000 ppm  no: newcomer
what happened (UTC)
14:31:10  left out node=12 reason=silent
14:31:10  joined node=15 at=192.0.2.15:5525
14:31:10  left out node=15 reason=newcomer
q quit  ? help  space pause  s sort  r reverse  ↑↓ select
";
    assert_eq!(course.screen(80, 24).join("\n"), expected.trim_end());
}

#[test]
fn a_slave_shows_its_own_clock() {
    let mut course = Course::new();
    for round in 0..20 {
        course.see(Ok(changed(slave(), &[("/last_correction_ns", json!(round * 40 - 420))])));
    }
    let screen = course.screen(80, 24);
    assert_shows(
        &screen,
        &[
            "node 1 at 192.0.2.1:5525, domain 4, version 0.1.0",
            "slave of 9 for 3 min 20 s, term 7, round 132",
            "yes, within 52.100 µs of ensemble time",
            "340 ns last",
            "corrections of this clock",
            "-500 ns",
            "its error bound",
            "100 µs",
        ],
    );
    assert!(!screen.join("\n").contains("sort"), "there is nothing to be sorted");
}

#[test]
fn every_size_of_a_screen_shows_what_there_is_room_for() {
    let mut course = ten_seconds();
    let small = course.screen(40, 10);
    assert_shows(&small, &["node 1 at", "master for", "slave↓", "1.300 s", "q quit"]);
    assert!(!small.join("\n").contains("what happened"));
    let large = course.screen(200, 50);
    let all = ["address", "stamps", "heard", "100.000 ms ago", "+12.000 ppm", "192.0.2.12:5525", "what happened"];
    assert_shows(&large, &all);
    // Whatever size it is, and whatever is shown, nothing panics.
    let sizes = [0, 1, 2, 3, 5, 9, 14, 24, 33, 90];
    for keys in ["", "jj", "?"] {
        course.press(keys);
        for (width, height) in sizes.iter().flat_map(|width| sizes.map(|height| (*width, height))) {
            course.drawn(width, height, true);
        }
    }
    let nobody = Course::new();
    nobody.drawn(1, 1, true);
}

#[test]
fn a_node_that_is_not_there_yet_is_waited_for() {
    let mut course = Course::new();
    assert_shows(&course.screen(80, 24), &["berkeleyd watch", "q quit"]);
    let reason = "no node runs here: there is no status socket /run/berkeleyd.sock, /tmp/berkeleyd.sock; start one, or name its socket (--socket)";
    for _ in 0..5 {
        course.see(Err(reason));
    }
    let screen = course.screen(80, 24);
    assert_shows(&screen, &["no answer for 2 s: no node runs here", "start one, or name its"]);
    course.see(Ok(slave()));
    let screen = course.screen(80, 24).join("\n");
    assert!(!screen.contains("no answer for"), "{screen}");
    assert!(screen.contains("slave of 9") && screen.contains("no answer: no node runs here"), "{screen}");
}

#[test]
fn a_daemon_that_goes_is_said_to_be_gone_and_one_that_comes_back_is_another() {
    let mut course = ten_seconds();
    course.see(Err("no node runs here: it has left its status socket /x behind; start it again"));
    course.see(Err("the node at /x has version 9.9.9, and 0.1.0 cannot read its status"));
    let screen = course.screen(80, 24);
    assert_shows(&screen, &["no answer for 0 s: the node at /x has version 9.9.9", "slave↓", "1.300 s"]);
    let buffer = course.drawn(80, 24, true);
    assert!(buffer[(0, 3)].modifier.contains(Modifier::DIM), "what was known may have changed");
    course.see(Ok(changed(slave(), &[("/incarnation", json!(99))])));
    let screen = course.screen(80, 24);
    assert_shows(&screen, &["14:31:10  no answer: no node runs here", "14:31:11  restarted node=1 incarnation=99"]);
    assert!(!screen.join("\n").contains("no answer for"));
}

#[test]
fn a_pause_holds_the_screen_and_forgets_nothing() {
    let mut course = ten_seconds();
    course.press(" ");
    let before = course.screen(80, 24);
    assert_shows(&before, &["PAUSED at 14:31:10 UTC", "space go on"]);
    course.see(Ok(changed(master_of_three(0), &[("/term", json!(8))])));
    assert_eq!(course.screen(80, 24), before);
    course.press("s");
    assert_shows(&course.screen(80, 24), &["counted↓"]);
    course.press(" ");
    assert_shows(&course.screen(80, 24), &["term 8", "14:31:10  term 7 -> 8 master=1", "space pause"]);
}

#[test]
fn slaves_are_sorted_by_every_column_and_the_other_way_round() {
    let mut course = Course::new();
    let with = |node: u64, offset: i64, reason, bound: i64, heard: i64| {
        changed(peer(node, offset, reason), &[("/error_bound_ns", json!(bound)), ("/last_heard_ms", json!(heard))])
    };
    course.see(Ok(master(&[
        with(2, 5, None, 30, 100),
        with(3, -90, Some("silent"), 10, 9_000),
        with(4, 20, None, 20, 200),
    ])));
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(course.listed());
        course.press("s");
    }
    let expected = [
        [2, 3, 4], // its number
        [3, 2, 4], // not counted
        [3, 4, 2], // offset
        [2, 4, 3], // bound
        [2, 3, 4], // delay
        [4, 3, 2], // skew
        [3, 4, 2], // heard
    ];
    assert_eq!(seen, expected);
    assert_eq!(course.listed(), [2, 3, 4], "round again");
    course.press("r");
    assert_eq!(course.listed(), [4, 3, 2]);
    assert_shows(&course.screen(80, 24), &["slave↑"]);
}

#[test]
fn a_hundred_slaves_are_scrolled_through() {
    let mut course = Course::new();
    let peers: Vec<Value> = (2..=101).map(|node| peer(node, 10 * i64::try_from(node).unwrap(), None)).collect();
    course.see(Ok(master(&peers)));
    let rows = course.listed();
    assert_eq!((rows.first(), rows.len()), (Some(&2), 6));
    assert_shows(&course.screen(80, 24), &["1-6 of 100", "offsets, 100 of 100 counted"]);
    course.app.press(Key::End);
    assert_eq!(course.listed().last(), Some(&101));
    assert_shows(&course.screen(80, 24), &["95-100 of 100", "the line is 101"]);
    course.app.press(Key::PageUp);
    assert_shows(&course.screen(80, 24), &["the line is 91"]);
    assert!(course.listed().contains(&91));
    // It stays selected wherever it is listed, and is not when it has gone.
    course.press("r");
    assert_shows(&course.screen(80, 24), &["the line is 91"]);
    course.app.press(Key::Up);
    assert_shows(&course.screen(80, 24), &["the line is 92"]);
    course.see(Ok(master(&peers[..10])));
    assert!(!course.screen(80, 24).join("\n").contains("the line is"));
    course.app.press(Key::Home);
    assert_shows(&course.screen(80, 24), &["the line is 11"]);
    course.app.press(Key::Escape);
    assert!(!course.screen(80, 24).join("\n").contains("the line is"));
}

#[test]
fn a_submaster_has_two_sides() {
    let mut course = Course::new();
    let mut upper = changed(master_of_three(1), &[("/domain", json!(2)), ("/node_id", json!(1))]);
    upper["state"] = json!("heard");
    upper["offset_ns"] = json!(3);
    let below = |state: &str, term: u64| {
        let mut upper = changed(upper.clone(), &[("/term", json!(term))]);
        upper["state"] = json!(state);
        changed(master(&[peer(77, 5, None)]), &[("/upper", upper)])
    };
    course.see(Ok(below("heard", 7)));
    assert_shows(&course.screen(80, 24), &["above        domain 2 heard: master", "77 ", "Tab other domain"]);
    course.see(Ok(below("lost", 8)));
    course.app.press(Key::Char('\t'));
    let screen = course.screen(80, 24);
    assert_shows(
        &screen,
        &[
            "domain       2, above that of this node",
            "12 ",
            "domain above lost domain=2",
            "domain 2: term 7 -> 8 master=1",
        ],
    );
    course.app.press(Key::Char('\t'));
    assert_shows(&course.screen(80, 24), &["77 "]);
    // No submaster any more.
    course.app.press(Key::Char('\t'));
    course.see(Ok(slave()));
    assert_shows(&course.screen(80, 24), &["slave of 9"]);
}

#[test]
fn where_nobody_is_to_be_counted_nobody_stands_out() {
    let mut course = Course::new();
    course.see(Ok(master(&[peer(7, 900, Some("not-reference")), peer(8, 300_000, Some("silent"))])));
    let screen = course.screen(80, 24);
    assert_shows(&screen, &["offsets, 0 of 2 counted", "  1 µs", "no: not-reference"]);
    let row = |number| screen.iter().position(|line| line.starts_with(number)).unwrap();
    let buffer = course.drawn(80, 24, true);
    let colour = |number| buffer[(0, u16::try_from(row(number)).unwrap())].fg;
    assert_eq!((colour("7 "), colour("8 ")), (Color::Reset, Color::Yellow));
}

#[test]
fn a_master_of_nobody_has_no_chart() {
    let mut course = Course::new();
    course.see(Ok(master(&[])));
    let screen = course.screen(80, 24);
    assert_shows(&screen, &["no slaves", "nothing since this was started"]);
    assert!(!screen.join("\n").contains("offsets"));
}

#[test]
fn what_is_refused_and_what_is_not_synchronised_is_said() {
    let mut course = Course::new();
    let bad = [
        ("/refused_correction_ns", json!(-5_000_000_000i64)),
        ("/synchronised", json!(false)),
        ("/role", json!("listening")),
        ("/master_id", json!(null)),
        ("/error_bound_ns", json!(i64::MAX)),
    ];
    course.see(Ok(changed(slave(), &bad)));
    assert_shows(
        &course.screen(80, 24),
        &["refused      a correction of -5.000 s", "no, not corrected yet", "listening: no master is heard"],
    );
    let buffer = course.drawn(80, 24, true);
    assert_eq!((buffer[(13, 1)].fg, buffer[(13, 2)].fg), (Color::Yellow, Color::Red));
}

#[test]
fn no_colour_is_shown_to_whoever_wants_none_and_nothing_that_a_socket_slips_in() {
    let mut course = ten_seconds();
    let evil = [("/version", json!("\u{1b}]0;title\u{7}")), ("/address", json!("\n\u{9b}31m"))];
    course.see(Ok(changed(master_of_three(0), &evil)));
    course.see(Err("\u{1b}[31mred"));
    course.press("j");
    for has_colours in [true, false] {
        let buffer = course.drawn(80, 24, has_colours);
        let colours = buffer.content().iter().filter(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset));
        assert_eq!(colours.count() > 0, has_colours);
        let is_clean = |cell: &ratatui::buffer::Cell| !cell.symbol().contains(char::is_control);
        assert!(buffer.content().iter().all(is_clean));
    }
}

#[test]
fn help_is_shown_and_goes() {
    let mut course = ten_seconds();
    let before = course.screen(80, 24);
    course.press("?");
    let screen = course.screen(80, 24);
    assert_shows(&screen, &["keys", "q, Ctrl-C   quit", "strays are at its edge"]);
    course.app.press(Key::Escape);
    assert_eq!(course.screen(80, 24), before);
    assert_eq!(course.app.press(Key::Char('q')), Flow::Quit);
}
