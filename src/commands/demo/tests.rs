use super::ensemble::draw;
use super::record::{JUDGED_FROM, Statuses};
use super::screen::{GREEN, RED, SCALE, signed};
use super::*;
use crate::status::Status;

fn millis(millis: i64) -> Span {
    Span::from_millis(millis)
}

/// Clocks in microseconds, the master's first.
fn sample(at: Span, clocks: [i64; 6]) -> Sample {
    Sample { at, clocks: (PREFERRED..).zip(clocks.map(Span::from_micros)).collect(), master: Some(PREFERRED) }
}

/// All agree within 40 µs but the liar, from 0.5 s on; the victim is killed at 5 s, and back at 7.3 s.
fn fine() -> Record {
    let clocks_at = |at: Span| match at {
        at if at < millis(500) => [0, -2_000_000, 1_500_000, 7, 8, 2_000_000],
        at if at >= millis(7_000) && at < millis(7_300) => [10, -10, 1_900_000, 30, 0, 2_000_000],
        _ => [10, -10, 20, 30, 0, 2_000_000],
    };
    let samples = (0..131).map(|tick| millis(tick * 100)).map(|at| sample(at, clocks_at(at)));
    let mut record = Record {
        samples: samples.collect(),
        killed: Some(Span::from_secs(5)),
        restarted: Some(Span::from_secs(7)),
        ..Record::default()
    };
    for sample in record.samples.iter_mut().filter(|sample| (millis(5_100)..millis(7_100)).contains(&sample.at)) {
        sample.clocks.remove(&VICTIM);
    }
    record
}

fn at(record: &mut Record, at: Span) -> &mut Sample {
    record.samples.iter_mut().find(|sample| sample.at == at).unwrap()
}

#[test]
fn an_ensemble_that_agrees_passes_and_its_figures_are_told() {
    let record = fine();
    assert_eq!(record.missed(), None);
    let figures: Vec<_> = record.summary().lines().map(|line| line.chars().skip(22).collect::<String>()).collect();
    let figures: Vec<_> = figures.iter().map(|figure| figure.trim()).collect();
    assert_eq!(figures[1..5], ["3.500 s", "40.0 µs", "40.0 µs", "40.0 µs"]);
    assert_eq!(figures[5], "never");
    assert_eq!(figures[7..9], ["500.0 ms", "300.0 ms"]);
    assert_eq!(figures[10], "never");
    let replaced =
        Record { beheaded: Some((PREFERRED, Span::from_secs(10))), successor: Some((5, millis(10_450))), ..fine() };
    assert_eq!((replaced.missed(), replaced.summary().contains("until node 5 led     450.0 ms")), (None, true));
    assert!(Record { successor: None, ..replaced }.missed().is_some_and(|missed| missed.contains("nobody took over")));
}

#[test]
fn one_clock_that_strays_once_is_enough_to_fail() {
    for node in PREFERRED..LIAR {
        let mut record = fine();
        // Without the master's own 10 µs: 1 ms from the farthest of the others.
        at(&mut record, millis(9_000)).clocks.insert(node, Span::from_micros(1_030));
        let missed = record.missed().unwrap();
        assert!(missed.contains("ms apart 9.000 s after"), "{missed}");
    }
    let mut record = fine();
    at(&mut record, millis(9_000)).clocks.insert(LIAR, Span::from_secs(-9));
    at(&mut record, millis(4_900)).clocks.insert(PREFERRED, Span::from_secs(-9));
    assert_eq!(record.missed(), None, "neither the liar counts, nor what is before 5 s");
}

#[test]
fn a_node_that_does_not_answer_fails() {
    for (node, name) in [(PREFERRED, "node 1"), (2, "node 2"), (VICTIM, "node 3")] {
        let mut record = fine();
        at(&mut record, millis(12_000)).clocks.remove(&node);
        assert_eq!(record.missed().unwrap(), format!("{name} did not answer 12.000 s after the start"));
    }
}

#[test]
fn the_victim_is_let_off_for_one_second_and_no_longer() {
    for (back, is_fine) in [(7_000, true), (8_000, true), (8_100, false), (14_000, false)] {
        let mut record = fine();
        for sample in record.samples.iter_mut().filter(|sample| sample.at >= millis(7_000)) {
            if sample.at < millis(back) {
                sample.clocks.insert(VICTIM, Span::from_secs(1));
            }
        }
        assert_eq!(record.missed().is_none(), is_fine, "back at {back} ms");
    }
}

#[test]
fn what_was_not_shown_is_not_passed() {
    let cut = |end, restarted| {
        let mut record = Record { restarted, ..fine() };
        record.samples.retain(|sample| sample.at < end);
        record.missed()
    };
    assert!(cut(JUDGED_FROM, Some(Span::from_secs(7))).is_some());
    assert!(cut(Span::MAX, None).is_some());
    assert!(Record::default().summary().contains("never"));
}

#[test]
fn spans_fit_their_columns() {
    for (nanos, text) in [
        (0, "0.0 µs"),
        (95_240, "95.2 µs"),
        (999_949, "999.9 µs"),
        (999_950, "1.0 ms"),
        (-150_044_000, "-150.0 ms"),
        (999_949_999, "999.9 ms"),
        (999_950_000, "1.000 s"),
        (-4_200_000_000, "-4.200 s"),
    ] {
        assert_eq!(short(Span::from_nanos(nanos)), text);
        assert!(signed(Span::from_nanos(nanos)).chars().count() <= 9, "{text}");
    }
    assert_eq!((signed(Span::from_micros(1)), signed(Span::ZERO)), ("+1.0 µs".to_owned(), "0.0 µs".to_owned()));
}

/// A status, from the contract's own form. `reasons`: why the slaves are left out, from node 2 on.
fn status(node: u64, adjustment: u32, bound: i64, refused: Option<i64>, reasons: &[Option<&str>]) -> Status {
    let peer = |(node_id, reason): (u64, &Option<&str>)| {
        serde_json::json!({
            "node_id": node_id, "incarnation": 1, "address": "127.0.0.1:1", "offset_ns": 0, "delay_ns": 0,
            "skew_ppb": 0, "error_bound_ns": 0, "offset_error_ns": 0, "timestamping": "kernel", "counted": reason.is_none(),
            "reason": reason, "last_heard_ms": 0, "retransmissions": 0,
        })
    };
    let form = serde_json::json!({
        "version": "1", "node_id": node, "incarnation": 1, "domain": 0, "address": "127.0.0.1:1",
        "role": if node == PREFERRED { "master" } else { "listening" }, "term": 1, "master_id": 1, "round": 1,
        "synchronised": true, "error_bound_ns": bound, "last_correction_ns": -999_949_000, "slew_ns": 0,
        "skew_ppb": 0, "adjustment": adjustment, "timestamping": "user", "refused_correction_ns": refused,
        "clock": { "kind": "virtual", "system_ns": 5, "disciplined_ns": 5, "uncertainty_ns": 0 },
        "privileges": { "uid": 0, "gid": 0, "capabilities": [], "no_new_privs": true, "seccomp": true },
        "counters": { "sent": {}, "received": {}, "dropped": {}, "send_errors": 0, "unreachable": 0, "socket_drops": 0, "wake_ups": 0 },
        "peers": (2..).zip(reasons).map(peer).collect::<Vec<_>>(),
    });
    serde_json::from_value(form).unwrap()
}

/// Every kind of row: node 4 does not answer, node 3 is dead.
fn crowd() -> (Sample, Statuses) {
    let reasons = [Some("not-reference"), None, None, Some("newcomer"), Some("disagrees")];
    let statuses = [
        status(PREFERRED, 1, 999_949, None, &reasons),
        status(2, 0, i64::MAX, None, &[]),
        status(5, 1, 999_949_000, None, &[]),
        status(LIAR, 0, i64::MAX, Some(-1), &[]),
    ];
    let statuses: Statuses = statuses.into_iter().map(|status| (status.node_id, status)).collect();
    let mut sample = sample(Span::from_secs(13), [-2_000_000, 1_999_999, 0, 0, -2_000_040, 2_000_000]);
    sample.clocks.retain(|node, _| statuses.contains_key(node));
    (sample, statuses)
}

fn view<'a>(sample: &'a Sample, statuses: &'a Statuses) -> View<'a> {
    View { sample, statuses, spread: Some(millis(-150)), dead: vec![VICTIM] }
}

#[test]
fn a_table_fits_80_columns_and_says_what_is_the_matter() {
    let (sample, statuses) = crowd();
    let lines = view(&sample, &statuses).lines(false);
    assert!(lines.iter().all(|line| line.chars().count() < 80), "{lines:#?}");
    assert!(TITLE.lines().all(|line| line.chars().count() < 80));
    let expected = [
        "node 1  master       0.0 µs                  -999.9 ms 999.9 µs  averages",
        "node 2  listening  +4.000 s  ■■■■■■■■■■■■■■          -        -  no: not-refer",
        "node 3  dead              -                          -        -  no answer",
        "node 4  starting          -                          -        -  yes",
        "node 5  listening  -40.0 µs  ■■■■            -999.9 ms 999.9 ms  no: newcomer",
        "node 6  liar       +4.000 s  ■■■■■■■■■■■■■■    refused        -  no: disagrees",
    ];
    assert_eq!(lines[2..], expected);
}

#[test]
fn the_bar_ends_at_its_mark_of_the_scale() {
    let (mut sample, statuses) = crowd();
    for (micros, cells) in [(0, 0), (1, 1), (999, 6), (1_000, 7), (999_999, 12), (1_000_000, 13), (9_000_000, 14)] {
        sample.clocks.insert(2, Span::from_micros(micros - 2_000_000));
        let row = view(&sample, &statuses).row(2, false);
        assert_eq!(row.matches('■').count(), cells, "{row}");
    }
    let marks: Vec<_> = SCALE.chars().enumerate().filter(|(_, c)| *c == '1').map(|(place, _)| place + 1).collect();
    assert_eq!(marks, [1, 7, 13]);
}

fn screen(is_terminal: bool, has_colours: bool) -> Screen {
    Screen { is_terminal, has_colours, events: Vec::new(), drawn: 0, next_block: Span::ZERO }
}

#[test]
fn plain_lines_come_once_a_second_and_have_no_escape_codes() {
    let (mut sample, statuses) = crowd();
    let mut screen = screen(false, false);
    let mut blocks = 0;
    for tick in 0..40 {
        sample.at = millis(tick * 50);
        let text = screen.frame(&view(&sample, &statuses)) + &screen.event(sample.at, "news");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        blocks += text.matches("offset").count();
    }
    assert_eq!(blocks, 2);
}

#[test]
fn a_terminal_is_drawn_over_and_left_as_it_was() {
    let (sample, statuses) = crowd();
    let mut screen = screen(true, true);
    let first = screen.frame(&view(&sample, &statuses));
    assert_eq!(screen.event(sample.at, "news"), "");
    let (second, third) = (screen.frame(&view(&sample, &statuses)), screen.frame(&view(&sample, &statuses)));
    assert!(!first.contains("news") && second.contains("13.0 s  news"));
    for (before, after) in [(&first, &second), (&second, &third)] {
        assert!(after.contains(&format!("\x1b[{}A\r", before.lines().count() - 1)), "{after:?}");
    }
    // Wrapping is on again, and each colour is switched off.
    assert!(first.ends_with("\n\x1b[?7h"));
    assert_eq!(first.matches(RED).count() + first.matches(GREEN).count(), first.matches("\x1b[0m").count());
    assert_eq!((first.matches(RED).count(), first.matches(GREEN).count()), (2, 2));
    let plain = self::screen(true, false).frame(&view(&sample, &statuses));
    assert!(![RED, GREEN, "\x1b[0m"].iter().any(|colour| plain.contains(colour)), "{plain:?}");
}

#[test]
fn draws_stay_in_their_range_and_reach_its_ends() {
    let drawn: Vec<i64> = (0..200).map(|_| draw(-1..=1).unwrap()).collect();
    assert!([-1, 0, 1].iter().all(|number| drawn.contains(number)));
    assert!(drawn.iter().all(|number| (-1..=1).contains(number)));
}
