//! What is legal on the wire and what is not, and that nothing is lost on it.

use bytes::BytesMut;
use proptest::prelude::*;

use super::correction::FLAG_BY_RESPONSE;
use super::mastership::FLAG_HAND_OVER;
use super::membership::FLAG_HEARS_GROUP;
use super::polling::{FLAG_NEAR_THE_WIRE, FLAG_SYNCHRONISED};
use super::values::FLAG_REFERENCE;
use super::*;
use crate::time::{LocalTime, Skew, Span, WIRE_LIMIT};

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.to_vec()
}

const HEADER: Header = Header {
    domain: Domain::new(7),
    round: Round::new(42),
    term: Term::new(3),
    sender: NodeId::new(11),
    incarnation: Incarnation::new(12),
};

const ENTRY: Entry = Entry {
    node: NodeId::new(21),
    node_incarnation: Incarnation::new(22),
    reference: LocalTime::from_nanos(1),
    correction: Span::from_secs(-20),
    rate: Skew::from_ppt(-1),
    error_bound: Span::MAX,
    rate_error: Skew::from_ppt(1),
    adjustment: 5,
};

const RESPONSE: Response = Response {
    t1: LocalTime::from_nanos(1),
    t2: LocalTime::from_nanos(2),
    t3: LocalTime::from_nanos(3),
    ahead: Span::from_nanos(-4),
    slew: Span::from_nanos(5),
    rate: Skew::from_ppt(-6),
    error_bound: Span::from_nanos(7),
    adjustment: 8,
    applied_round: Round::new(9),
    previous: Some(Departure { t1: LocalTime::from_nanos(10), late: Span::from_nanos(11) }),
    is_reference: false,
    is_synchronised: false,
    is_stamped_near_the_wire: false,
};

const JOIN: Join = Join {
    priority: -1,
    is_reference: false,
    hears_group: false,
    master: None,
    merit: None,
    corrected_in: None,
    rate_error: Skew::ZERO,
};

const ANNOUNCE: Announce = Announce {
    interval: Span::from_secs(1),
    priority: 0,
    merit: Merit::Plausible,
    heartbeat: Heartbeat::SHORTEST,
    members: 2,
    successors: Successors::NONE,
};

/// One of each type.
fn examples() -> [Frame<'static>; 9] {
    [
        Message::Request(Request::bare(LocalTime::from_nanos(1))),
        Message::Response(RESPONSE),
        Message::Correction(Corrections::of(&[ENTRY, ENTRY])),
        Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Slewed }),
        Message::Join(JOIN),
        Message::Leave(Leave { successor: None }),
        Message::Announce(ANNOUNCE),
        Message::Claim(Claim { priority: 1, merit: Merit::Established, is_handover: false }),
        Message::Refusal(Refusal { master: None }),
    ]
    .map(|message| Frame { header: HEADER, message })
}

fn example(kind: u8) -> Vec<u8> {
    examples().iter().find(|frame| frame.message.kind() == kind).map(bytes_of).unwrap()
}

/// The frame of type `kind` with `value` written at `offset`.
fn spoilt(kind: u8, offset: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = example(kind);
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

fn error(bytes: &[u8]) -> DecodeError {
    Frame::decode(bytes).unwrap_err()
}

#[test]
fn fewer_bytes_than_a_header_are_too_short() {
    for got in [0, 1, HEADER_LEN - 1] {
        assert_eq!(error(&example(kind::LEAVE)[..got]), DecodeError::TooShort { need: HEADER_LEN, got });
    }
}

#[test]
fn another_magic_is_refused() {
    assert_eq!(error(&spoilt(kind::REQUEST, 0, &[0x42, 0x4A])), DecodeError::Magic(0x424A));
    assert_eq!(error(&[0; 112]), DecodeError::Magic(0));
}

#[test]
fn another_version_is_refused() {
    assert_eq!(error(&spoilt(kind::REQUEST, 2, &[0])), DecodeError::Version(0));
    assert_eq!(error(&spoilt(kind::REQUEST, 2, &[2])), DecodeError::Version(2));
}

#[test]
fn a_trailer_is_refused_before_type_and_body_are_read() {
    assert_eq!(error(&spoilt(kind::REQUEST, 4, &[0, 1])), DecodeError::Authenticated);
    assert_eq!(error(&spoilt(kind::REQUEST, 3, &[99, 0, 1])), DecodeError::Authenticated);
    assert_eq!(error(&spoilt(kind::REQUEST, 40, &[0xFF; 8])), DecodeError::OutOfRange("t1"));
    let mut trailed = spoilt(kind::REQUEST, 4, &[0, 1]);
    trailed.extend([0; TRAILER_LEN]);
    assert_eq!(error(&trailed), DecodeError::Authenticated);
}

#[test]
fn unknown_types_are_refused() {
    for kind in (0..=u8::MAX).filter(|kind| !(kind::REQUEST..=kind::REFUSAL).contains(kind)) {
        assert_eq!(error(&spoilt(kind::REQUEST, 3, &[kind])), DecodeError::Type(kind));
    }
}

#[test]
fn a_correction_holds_one_to_24_entries() {
    for count in [0, 25, u16::MAX] {
        assert_eq!(error(&spoilt(kind::CORRECTION, 40, &count.to_be_bytes())), DecodeError::Count(count));
    }
    let need = correction_len(24);
    let got = correction_len(2);
    assert_eq!(error(&spoilt(kind::CORRECTION, 40, &[0, 24])), DecodeError::Length { need, stated: got, got });
    // Too short for a count: there is none to complain of.
    let expected = DecodeError::Length { need: correction_len(1), stated: got, got: HEADER_LEN + 1 };
    assert_eq!(error(&example(kind::CORRECTION)[..HEADER_LEN + 1]), expected);
}

#[test]
fn more_entries_than_fit_are_not_sent() {
    let entries = [ENTRY; MAX_ENTRIES + 1];
    let bytes = bytes_of(&Frame { header: HEADER, message: Message::Correction(Corrections::of(&entries)) });
    assert_eq!(bytes.len(), correction_len(MAX_ENTRIES));
    let full = Corrections::of(&entries[..MAX_ENTRIES]);
    assert_eq!(Frame::decode(&bytes), Ok(Frame { header: HEADER, message: Message::Correction(full) }));
}

#[test]
fn datagram_length_field_and_type_must_agree() {
    for frame in examples() {
        let bytes = bytes_of(&frame);
        let need = bytes.len();
        assert_eq!(need, frame.message.wire_len());
        for stated in [0, need - 1, need + 1, 0xFFFF] {
            let field = u16::try_from(stated).unwrap().to_be_bytes();
            let bytes = spoilt(frame.message.kind(), 6, &field);
            assert_eq!(error(&bytes), DecodeError::Length { need, stated, got: need });
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(error(&longer), DecodeError::Length { need, stated: need, got: need + 1 });
    }
}

#[test]
fn every_field_has_its_range() {
    const TOO_LARGE: i64 = WIRE_LIMIT;
    const TOO_FAST: i64 = Skew::MAX.as_ppt() + 1;
    let span = [-WIRE_LIMIT, TOO_LARGE, i64::MIN, i64::MAX];
    let bound = [-1, TOO_LARGE, i64::MIN, i64::MAX - 1];
    let local_time = [-1, TOO_LARGE, i64::MIN, i64::MAX];
    let rate = [-TOO_FAST, TOO_FAST, i64::MIN, i64::MAX];
    let interval = [0, -1, TOO_LARGE, i64::MAX];
    let entry = correction_len(1); // The second entry: all of them are looked at.
    for (kind, offset, field, values) in [
        (kind::REQUEST, 40, "t1", local_time),
        (kind::CORRECTION, 56, "previous_t4", bound),
        (kind::RESPONSE, 40, "t1", local_time),
        (kind::RESPONSE, 48, "t2", local_time),
        (kind::RESPONSE, 56, "t3", local_time),
        (kind::RESPONSE, 64, "ahead", span),
        (kind::RESPONSE, 72, "slew", span),
        (kind::RESPONSE, 80, "rate", rate),
        (kind::RESPONSE, 88, "error_bound", bound),
        (kind::RESPONSE, 104, "previous_t1", local_time),
        (kind::CORRECTION, entry + 16, "reference", local_time),
        (kind::CORRECTION, entry + 24, "correction", span),
        (kind::CORRECTION, entry + 32, "rate", rate),
        (kind::CORRECTION, entry + 40, "error_bound", bound),
        (kind::ANNOUNCE, 40, "interval", interval),
    ] {
        for value in values {
            let bytes = spoilt(kind, offset, &value.to_be_bytes());
            assert_eq!(error(&bytes), DecodeError::OutOfRange(field), "type {kind}, {value}");
        }
    }
    for merit in [5, 255] {
        assert_eq!(error(&spoilt(kind::JOIN, 46, &[merit])), DecodeError::OutOfRange("merit"));
    }
    for merit in [0, 5, 255] {
        assert_eq!(error(&spoilt(kind::ANNOUNCE, 52, &[merit])), DecodeError::OutOfRange("merit"));
        assert_eq!(error(&spoilt(kind::CLAIM, 44, &[merit])), DecodeError::OutOfRange("merit"));
    }
    for heartbeat in [0, 9, 101, 255] {
        assert_eq!(error(&spoilt(kind::ANNOUNCE, 53, &[heartbeat])), DecodeError::OutOfRange("heartbeat"));
    }
    let above = Term::LIMIT.get() + 1;
    assert_eq!(error(&spoilt(kind::JOIN, 64, &above.to_be_bytes())), DecodeError::OutOfRange("corrected_term"));
    for outcome in [0, 4, 255] {
        assert_eq!(error(&spoilt(kind::ACKNOWLEDGEMENT, 44, &[outcome])), DecodeError::OutOfRange("outcome"));
    }
    for kind in kind::REQUEST..=kind::REFUSAL {
        let above = Term::LIMIT.get() + 1;
        assert_eq!(error(&spoilt(kind, 16, &above.to_be_bytes())), DecodeError::OutOfRange("term"));
        assert_eq!(error(&spoilt(kind, 24, &[0; 8])), DecodeError::OutOfRange("sender"));
        assert_eq!(error(&spoilt(kind, 32, &[0; 8])), DecodeError::OutOfRange("incarnation"));
    }
}

#[test]
fn the_ends_of_every_range_are_legal() {
    let (least, most) = (-WIRE_LIMIT + 1, WIRE_LIMIT - 1);
    let low = Response {
        t1: LocalTime::from_nanos(0),
        t2: LocalTime::from_nanos(0),
        t3: LocalTime::from_nanos(0),
        ahead: Span::from_nanos(least),
        slew: Span::from_nanos(least),
        rate: Skew::ZERO - Skew::MAX,
        error_bound: Span::ZERO,
        previous: Some(Departure { t1: LocalTime::from_nanos(0), late: Span::ZERO }),
        ..RESPONSE
    };
    let high = Response {
        t1: LocalTime::from_nanos(most),
        t2: LocalTime::from_nanos(most),
        t3: LocalTime::from_nanos(most),
        ahead: Span::from_nanos(most),
        slew: Span::from_nanos(most),
        rate: Skew::MAX,
        error_bound: Span::from_nanos(most),
        previous: Some(Departure { t1: LocalTime::from_nanos(most), late: Span::from_nanos(i64::from(u32::MAX) - 1) }),
        ..RESPONSE
    };
    let header = Header { term: Term::LIMIT, ..HEADER };
    for response in [low, high, Response { error_bound: Span::MAX, ..RESPONSE }] {
        let frame = Frame { header, message: Message::Response(response) };
        assert_eq!(Frame::decode(&bytes_of(&frame)), Ok(frame));
    }
}

#[test]
fn bounds_that_no_frame_can_carry_are_sent_as_unknown() {
    for bound in [Span::from_nanos(WIRE_LIMIT), Span::MAX - Span::from_nanos(1), Span::from_nanos(-1)] {
        let response = Response { error_bound: bound, ..RESPONSE };
        let bytes = bytes_of(&Frame { header: HEADER, message: Message::Response(response) });
        let unknown = Message::Response(Response { error_bound: Span::MAX, ..RESPONSE });
        assert_eq!(Frame::decode(&bytes), Ok(Frame { header: HEADER, message: unknown }));
    }
}

#[test]
fn rate_errors_beyond_the_field_stop_at_its_end() {
    for (rate_error, carried) in [(Skew::MAX, i64::from(u32::MAX)), (Skew::from_ppt(-1), 0)] {
        let sent = [Entry { rate_error, ..ENTRY }];
        let bytes = bytes_of(&Frame { header: HEADER, message: Message::Correction(Corrections::of(&sent)) });
        let expected = [Entry { rate_error: Skew::from_ppt(carried), ..ENTRY }];
        let message = Message::Correction(Corrections::of(&expected));
        assert_eq!(Frame::decode(&bytes), Ok(Frame { header: HEADER, message }));
    }
}

#[test]
fn reserved_bits_and_bytes_are_ignored() {
    // The bits that mean something, by the field they stand in.
    let known = |name| match name {
        "flags" => Some(FLAG_AUTHENTICATED),
        "response_flags" => Some(FLAG_REFERENCE | FLAG_SYNCHRONISED | FLAG_NEAR_THE_WIRE),
        "join_flags" => Some(FLAG_REFERENCE | FLAG_HEARS_GROUP),
        "correction_flags" => Some(FLAG_BY_RESPONSE),
        "claim_flags" => Some(FLAG_HAND_OVER),
        _ => None,
    };
    let bodies = [
        layout::REQUEST,
        layout::RESPONSE,
        layout::CORRECTION,
        layout::ACKNOWLEDGEMENT,
        layout::JOIN,
        layout::LEAVE,
        layout::ANNOUNCE,
        layout::CLAIM,
        layout::REFUSAL,
    ];
    for (frame, body) in examples().iter().zip(bodies) {
        let clean = bytes_of(frame);
        let mut bytes = clean.clone();
        for field in layout::HEADER.iter().chain(body) {
            let place = &mut bytes[field.offset..field.offset + field.size];
            if field.name == "reserved" {
                place.fill(0xFF);
            } else if let Some(known) = known(field.name) {
                place.copy_from_slice(&(!known).to_be_bytes());
            }
        }
        assert_ne!(bytes, clean);
        assert_eq!(Frame::decode(&bytes), Ok(*frame));
        // And they are not handed on.
        assert_eq!(bytes_of(&Frame::decode(&bytes).unwrap()), clean);
    }
}

#[test]
fn each_flag_has_its_own_bit() {
    for [is_reference, is_synchronised, is_stamped_near_the_wire] in
        [[true, false, false], [false, true, false], [false, false, true], [true; 3]]
    {
        let message =
            Message::Response(Response { is_reference, is_synchronised, is_stamped_near_the_wire, ..RESPONSE });
        let frame = Frame { header: HEADER, message };
        assert_eq!(Frame::decode(&bytes_of(&frame)), Ok(frame));
    }
    for (is_reference, hears_group) in [(true, false), (false, true), (true, true)] {
        let frame = Frame { header: HEADER, message: Message::Join(Join { is_reference, hears_group, ..JOIN }) };
        assert_eq!(Frame::decode(&bytes_of(&frame)), Ok(frame));
    }
}

#[test]
fn an_incarnation_without_a_master_is_ignored() {
    let frame = Frame { header: HEADER, message: Message::Join(JOIN) };
    assert_eq!(Frame::decode(&spoilt(kind::JOIN, 56, &[0, 0, 0, 0, 0, 0, 0, 9])), Ok(frame));
}

#[test]
fn a_departure_that_is_not_known_has_no_exchange() {
    let unknown = Frame { header: HEADER, message: Message::Response(Response { previous: None, ..RESPONSE }) };
    assert_eq!(Frame::decode(&bytes_of(&unknown)), Ok(unknown));
    let mut bytes = bytes_of(&unknown);
    bytes[104..112].copy_from_slice(&[0xFF; 8]);
    assert_eq!(Frame::decode(&bytes), Ok(unknown));
    // What the field cannot carry is not said, rather than said wrongly.
    for late in [i64::MIN, -1, i64::from(u32::MAX), i64::MAX] {
        let previous = Some(Departure { t1: LocalTime::from_nanos(10), late: Span::from_nanos(late) });
        let message = Message::Response(Response { previous, ..RESPONSE });
        assert_eq!(Frame::decode(&bytes_of(&Frame { header: HEADER, message })), Ok(unknown), "{late}");
    }
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let len = |kind| example(kind).len();
    assert!(len(kind::RESPONSE) <= len(kind::REQUEST));
    assert!(len(kind::REQUEST) <= len(kind::JOIN));
    assert!(len(kind::JOIN) <= len(kind::ANNOUNCE));
    // A join of a higher term is answered by an announce.
    assert!(len(kind::ANNOUNCE) <= len(kind::JOIN));
    assert!(len(kind::REFUSAL) <= len(kind::CLAIM));
    assert!(len(kind::ACKNOWLEDGEMENT) <= correction_len(1));
}

#[test]
fn the_domain_is_seen_before_anything_else_of_a_frame() {
    for kind in kind::REQUEST..=kind::REFUSAL {
        assert_eq!(peek_domain(&example(kind)), Some(HEADER.domain));
        assert_eq!(peek_domain(&spoilt(kind, 2, &[99, 99])), Some(HEADER.domain));
        assert_eq!(peek_domain(&spoilt(kind, 0, &[0])), None);
        assert_eq!(peek_domain(&example(kind)[..HEADER_LEN - 1]), None);
    }
}

fn local_times() -> impl Strategy<Value = LocalTime> {
    (0..WIRE_LIMIT).prop_map(LocalTime::from_nanos)
}

fn spans() -> impl Strategy<Value = Span> {
    (-WIRE_LIMIT + 1..WIRE_LIMIT).prop_map(Span::from_nanos)
}

fn bounds() -> impl Strategy<Value = Span> {
    prop_oneof![9 => (0..WIRE_LIMIT).prop_map(Span::from_nanos), 1 => Just(Span::MAX)]
}

fn rates() -> impl Strategy<Value = Skew> {
    (-Skew::MAX.as_ppt()..=Skew::MAX.as_ppt()).prop_map(Skew::from_ppt)
}

fn headers() -> impl Strategy<Value = Header> {
    (any::<u32>(), any::<u32>(), 0..=Term::LIMIT.get(), 1_u64.., 1_u64..).prop_map(
        |(domain, round, term, sender, incarnation)| Header {
            domain: Domain::new(domain),
            round: Round::new(round),
            term: Term::new(term),
            sender: NodeId::new(sender),
            incarnation: Incarnation::new(incarnation),
        },
    )
}

fn responses() -> impl Strategy<Value = Response> {
    let times = (local_times(), local_times(), local_times());
    let clock = (spans(), spans(), rates(), bounds());
    let previous = prop::option::of((local_times(), 0..u32::MAX));
    (times, clock, any::<(u32, u32, bool, bool, bool)>(), previous).prop_map(
        |((t1, t2, t3), (ahead, slew, rate, error_bound), rest, previous)| {
            let (adjustment, applied_round, is_reference, is_synchronised, is_stamped_near_the_wire) = rest;
            let previous = previous.map(|(t1, late)| Departure { t1, late: Span::from_nanos(i64::from(late)) });
            let applied_round = Round::new(applied_round);
            Response {
                t1,
                t2,
                t3,
                ahead,
                slew,
                rate,
                error_bound,
                adjustment,
                applied_round,
                previous,
                is_reference,
                is_synchronised,
                is_stamped_near_the_wire,
            }
        },
    )
}

fn entries() -> impl Strategy<Value = Entry> {
    (any::<(u64, u64, u32, u32)>(), local_times(), spans(), rates(), bounds()).prop_map(
        |((node, node_incarnation, rate_error, adjustment), reference, correction, rate, error_bound)| Entry {
            node: NodeId::new(node),
            node_incarnation: Incarnation::new(node_incarnation),
            reference,
            correction,
            rate,
            error_bound,
            rate_error: Skew::from_ppt(i64::from(rate_error)),
            adjustment,
        },
    )
}

fn acknowledgements() -> impl Strategy<Value = Acknowledgement> {
    (any::<u32>(), prop::sample::select(vec![Outcome::Stepped, Outcome::Slewed, Outcome::Refused]))
        .prop_map(|(adjustment, outcome)| Acknowledgement { adjustment, outcome })
}

fn joins() -> impl Strategy<Value = Join> {
    let corrected = prop::option::of((0..=Term::LIMIT.get(), 1_u64..));
    let master = prop::option::of((1_u64.., any::<u64>()));
    (any::<(i32, bool, bool, u32)>(), master, prop::option::of(merits()), corrected).prop_map(
        |((priority, is_reference, hears_group, rate_error), master, merit, corrected)| Join {
            priority,
            is_reference,
            hears_group,
            master: master.map(|(node, life)| (NodeId::new(node), Incarnation::new(life))),
            merit,
            corrected_in: corrected.map(|(term, node)| (Term::new(term), NodeId::new(node))),
            rate_error: Skew::from_ppt(i64::from(rate_error)),
        },
    )
}

fn merits() -> impl Strategy<Value = Merit> {
    prop::sample::select(vec![Merit::Implausible, Merit::Plausible, Merit::Established, Merit::Appointed])
}

fn announces() -> impl Strategy<Value = Announce> {
    let successors = prop::collection::vec(any::<u64>(), 0..SUCCESSORS + 2);
    (1..WIRE_LIMIT, any::<i32>(), merits(), 10_i64..=100, any::<u16>(), successors).prop_map(
        |(interval, priority, merit, heartbeat, members, successors)| Announce {
            interval: Span::from_nanos(interval),
            priority,
            merit,
            heartbeat: Heartbeat::new(Span::from_millis(10 * heartbeat)),
            members,
            successors: Successors::new(successors.into_iter().map(NodeId::new)),
        },
    )
}

/// A message that owns its entries, so that a strategy can make it.
#[derive(Clone, Debug)]
enum Owned {
    Plain(Message<'static>),
    Correction { entries: Vec<Entry>, previous: Option<Answered>, by_response: bool },
}

impl Owned {
    fn message(&self) -> Message<'_> {
        match self {
            Self::Plain(message) => *message,
            Self::Correction { entries, previous, by_response } => {
                let (previous, by_response) = (*previous, *by_response);
                Message::Correction(Corrections { previous, by_response, ..Corrections::of(entries) })
            }
        }
    }
}

fn answered() -> impl Strategy<Value = Option<Answered>> {
    prop::option::of((local_times(), local_times()).prop_map(|(t1, t4)| Answered { t1, t4 }))
}

/// Every legal message.
fn messages() -> impl Strategy<Value = Owned> {
    let nodes = || prop::option::of((1_u64..).prop_map(NodeId::new));
    prop_oneof![
        (local_times(), spans(), rates(), bounds(), answered(), prop::option::of(1..=u32::MAX)).prop_map(
            |(t1, ahead, rate, error_bound, previous, window)| {
                let window = window.map(|micros| Window::new(Span::from_micros(i64::from(micros))));
                Owned::Plain(Message::Request(Request { t1, ahead, rate, error_bound, previous, window }))
            }
        ),
        responses().prop_map(|response| Owned::Plain(Message::Response(response))),
        (prop::collection::vec(entries(), 1..=MAX_ENTRIES), answered(), any::<bool>())
            .prop_map(|(entries, previous, by_response)| Owned::Correction { entries, previous, by_response }),
        acknowledgements().prop_map(|it| Owned::Plain(Message::Acknowledgement(it))),
        joins().prop_map(|join| Owned::Plain(Message::Join(join))),
        nodes().prop_map(|successor| Owned::Plain(Message::Leave(Leave { successor }))),
        announces().prop_map(|announce| Owned::Plain(Message::Announce(announce))),
        (any::<(i32, bool)>(), merits()).prop_map(|((priority, is_handover), merit)| {
            Owned::Plain(Message::Claim(Claim { priority, merit, is_handover }))
        }),
        nodes().prop_map(|master| Owned::Plain(Message::Refusal(Refusal { master }))),
    ]
}

/// What holds of all bytes: they are refused, or they are a frame that survives encoding and decoding.
fn decodes_soundly(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(frame) = Frame::decode(bytes) {
        let again = bytes_of(&frame);
        prop_assert_eq!(again.len(), bytes.len());
        prop_assert_eq!(Frame::decode(&again), Ok(frame));
        prop_assert_eq!(peek_domain(bytes), Some(frame.header.domain));
    }
    Ok(())
}

proptest! {
    #[test]
    fn legal_frames_survive_the_wire(header in headers(), owned in messages()) {
        let frame = Frame { header, message: owned.message() };
        let bytes = bytes_of(&frame);
        prop_assert_eq!(bytes.len(), frame.message.wire_len());
        prop_assert!(bytes.len() + TRAILER_LEN <= MAX_FRAME_LEN);
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
        // What was decoded encodes to the same bytes, entries still in the datagram included.
        prop_assert_eq!(bytes_of(&Frame::decode(&bytes).unwrap()), bytes);
    }

    #[test]
    fn appending_leaves_what_was_there(header in headers(), owned in messages(), before: [u8; 3]) {
        let frame = Frame { header, message: owned.message() };
        let mut out = BytesMut::from(before.as_slice());
        frame.encode(&mut out);
        prop_assert_eq!(&out[..3], before.as_slice());
        prop_assert_eq!(&out[3..], bytes_of(&frame));
    }

    #[test]
    fn any_bytes_decode_soundly(bytes in prop::collection::vec(any::<u8>(), 0..=MAX_FRAME_LEN + 1)) {
        decodes_soundly(&bytes)?;
    }

    #[test]
    fn any_body_behind_a_fair_header_decodes_soundly(
        header in headers(), owned in messages(), body in prop::collection::vec(any::<u8>(), MAX_FRAME_LEN)
    ) {
        let mut bytes = bytes_of(&Frame { header, message: owned.message() });
        let len = bytes.len();
        bytes[HEADER_LEN..].copy_from_slice(&body[HEADER_LEN..len]);
        decodes_soundly(&bytes)?;
    }

    #[test]
    fn truncated_and_extended_frames_are_refused(
        header in headers(), owned in messages(), more in prop::collection::vec(any::<u8>(), 1..64)
    ) {
        let bytes = bytes_of(&Frame { header, message: owned.message() });
        for len in 0..bytes.len() {
            prop_assert!(Frame::decode(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
        }
        let longer = [bytes, more].concat();
        prop_assert!(Frame::decode(&longer).is_err());
    }

    #[test]
    fn one_wrong_byte_decodes_soundly(header in headers(), owned in messages(), flip in 1..=u8::MAX) {
        let mut bytes = bytes_of(&Frame { header, message: owned.message() });
        for index in 0..bytes.len() {
            bytes[index] ^= flip;
            decodes_soundly(&bytes)?;
            bytes[index] ^= flip;
        }
    }
}
