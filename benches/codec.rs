//! What encoding and decoding one frame costs, beside a hand-written field-by-field copy of the same bytes.
//!
//! `cargo bench --bench codec`. Every frame appears with the same columns, so that ratios can be read off:
//!
//! - `encode_ours` writes into an array, `encode_ours_bytes_mut` into a `BytesMut` that has room, as a node does;
//! - `encode_copy` is each field's `to_be_bytes` at its fixed place in an array, with no layer in between, and
//!   `encode_copy_bytes_mut` appends that array to a `BytesMut`;
//! - `decode_ours` checks lengths and ranges and returns a typed frame;
//! - `decode_copy` is each field's `from_be_bytes`, nothing checked;
//! - `decode_checked_copy` is the same with the range checks that ours has.
//!
//! The goal is that ours costs at most twice the copy.

use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::protocol::{
    Acknowledgement, Announce, Frame, Header, Heartbeat, Join, Leave, MAX_FRAME_LEN, Merit, Message, Outcome, Request,
    Response, Successors,
};
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

// Written out again, so that the hand copy owes nothing to what it is compared with.
const TIME_LIMIT: i64 = 1 << 62;
const RATE_LIMIT: i64 = 100_000_000_000;
const TERM_LIMIT: u64 = 1 << 48;
const MAGIC: u16 = 0x424B;

fn frame(message: Message<'static>) -> Frame<'static> {
    Frame {
        header: Header {
            domain: Domain::new(7),
            round: Round::new(42),
            term: Term::new(3),
            sender: NodeId::new(11),
            incarnation: Incarnation::new(0x0000_BEEF_0000_0001),
        },
        message,
    }
}

fn request() -> Frame<'static> {
    frame(Message::Request(Request::bare(LocalTime::from_nanos(5_000_000_123))))
}

fn response() -> Frame<'static> {
    frame(Message::Response(Response {
        t1: LocalTime::from_nanos(5_000_000_123),
        t2: LocalTime::from_nanos(9_000_100_456),
        t3: LocalTime::from_nanos(9_000_112_789),
        ahead: Span::from_secs(1_700_000_000),
        slew: Span::from_micros(-20),
        rate: Skew::from_ppb(-31_000),
        error_bound: Span::from_micros(90),
        adjustment: 41,
        applied_round: Round::new(41),
        previous: None,
        is_reference: false,
        is_synchronised: true,
        is_stamped_near_the_wire: false,
    }))
}

fn acknowledgement() -> Frame<'static> {
    frame(Message::Acknowledgement(Acknowledgement { adjustment: 42, outcome: Outcome::Slewed }))
}

fn join() -> Frame<'static> {
    frame(Message::Join(Join {
        priority: -3,
        is_reference: false,
        hears_group: true,
        master: Some((NodeId::new(12), Incarnation::new(9))),
        merit: Some(Merit::Established),
        corrected_in: Some((Term::new(3), NodeId::new(12))),
        rate_error: Skew::from_ppm(1),
    }))
}

fn leave() -> Frame<'static> {
    frame(Message::Leave(Leave { successor: Some(NodeId::new(22)) }))
}

fn announce() -> Frame<'static> {
    frame(Message::Announce(Announce {
        interval: Span::from_secs(1),
        priority: 5,
        merit: Merit::Plausible,
        heartbeat: Heartbeat::SHORTEST,
        members: 2,
        successors: Successors::new([NodeId::new(22), NodeId::new(23)]),
    }))
}

/// A frame as bare numbers, and its copy to and from fixed places in a fixed array, field by field.
macro_rules! by_hand {
    (
        $name:ident, type $kind:literal, $len:literal bytes,
        { $($field:ident: $type:ty = $place:expr),* $(,)? }, reserved [$($reserved:expr),*],
        $this:ident => $legal:expr
    ) => {
        by_hand!(@fields $name, $len, {
            magic: u16 = 0..2,
            version: u8 = 2..3,
            kind: u8 = 3..4,
            flags: u16 = 4..6,
            length: u16 = 6..8,
            domain: u32 = 8..12,
            round: u32 = 12..16,
            term: u64 = 16..24,
            sender: u64 = 24..32,
            incarnation: u64 = 32..40
            $(, $field: $type = $place)*
        }, [$($reserved),*]);

        impl $name {
            #[inline]
            fn get_checked(bytes: &[u8; $len]) -> Option<Self> {
                let $this = Self::get(bytes);
                let legal = $this.magic == MAGIC
                    && $this.version == 1
                    && $this.kind == $kind
                    && $this.flags & 1 == 0
                    && $this.length == $len
                    && $this.term <= TERM_LIMIT
                    && $this.sender != 0
                    && $this.incarnation != 0
                    && $legal;
                legal.then_some($this)
            }
        }
    };
    (@fields $name:ident, $len:literal, { $($field:ident: $type:ty = $place:expr),* }, [$($reserved:expr),*]) => {
        struct $name {
            $($field: $type),*
        }

        impl $name {
            #[inline]
            fn put(&self, bytes: &mut [u8; $len]) {
                $(bytes[$place].copy_from_slice(&self.$field.to_be_bytes());)*
                $(bytes[$reserved].fill(0);)*
            }

            #[inline]
            fn get(bytes: &[u8; $len]) -> Self {
                $(
                    let mut number = [0; size_of::<$type>()];
                    number.copy_from_slice(&bytes[$place]);
                    let $field = <$type>::from_be_bytes(number);
                )*
                Self { $($field),* }
            }
        }
    };
}

fn is_local_time(nanos: i64) -> bool {
    (0..TIME_LIMIT).contains(&nanos)
}

fn is_span(nanos: i64) -> bool {
    -TIME_LIMIT < nanos && nanos < TIME_LIMIT
}

fn is_bound(nanos: i64) -> bool {
    is_local_time(nanos) || nanos == i64::MAX
}

fn is_rate(ppt: i64) -> bool {
    (-RATE_LIMIT..=RATE_LIMIT).contains(&ppt)
}

by_hand!(PlainRequest, type 1, 120 bytes, { t1: i64 = 40..48 }, reserved [48..120], this => is_local_time(this.t1));
by_hand!(PlainResponse, type 2, 120 bytes, {
    t1: i64 = 40..48,
    t2: i64 = 48..56,
    t3: i64 = 56..64,
    ahead: i64 = 64..72,
    slew: i64 = 72..80,
    rate: i64 = 80..88,
    error_bound: i64 = 88..96,
    adjustment: u32 = 96..100,
    applied_round: u32 = 100..104,
    previous_t1: i64 = 104..112,
    t3_late: u32 = 112..116,
    response_flags: u16 = 116..118,
}, reserved [118..120], this => is_local_time(this.t1)
    && is_local_time(this.t2)
    && is_local_time(this.t3)
    && is_span(this.ahead)
    && is_span(this.slew)
    && is_rate(this.rate)
    && is_bound(this.error_bound)
    && (this.t3_late == u32::MAX || is_local_time(this.previous_t1)));
by_hand!(PlainAcknowledgement, type 4, 48 bytes, {
    adjustment: u32 = 40..44,
    outcome: u8 = 44..45,
}, reserved [45..48], this => (1..=3).contains(&this.outcome));
by_hand!(PlainJoin, type 5, 120 bytes, {
    priority: i32 = 40..44,
    join_flags: u16 = 44..46,
    merit: u8 = 46..47,
    master: u64 = 48..56,
    master_incarnation: u64 = 56..64,
    corrected_term: u64 = 64..72,
    corrected_master: u64 = 72..80,
    rate_error: u32 = 80..84,
}, reserved [47..48, 84..120], this => this.merit <= 4 && this.corrected_term <= 1 << 48);
by_hand!(PlainLeave, type 6, 48 bytes, { successor: u64 = 40..48 }, reserved [], _this => true);
by_hand!(PlainAnnounce, type 7, 120 bytes, {
    interval: i64 = 40..48,
    priority: i32 = 48..52,
    merit: u8 = 52..53,
    heartbeat: u8 = 53..54,
    members: u16 = 54..56,
    successor_1: u64 = 56..64,
    successor_2: u64 = 64..72,
    successor_3: u64 = 72..80,
    successor_4: u64 = 80..88,
    successor_5: u64 = 88..96,
    successor_6: u64 = 96..104,
    successor_7: u64 = 104..112,
    successor_8: u64 = 112..120,
}, reserved [], this => is_span(this.interval)
    && this.interval > 0
    && (1..=4).contains(&this.merit)
    && (10..=100).contains(&this.heartbeat));
/// The columns for one frame of fixed length.
macro_rules! columns {
    ($module:ident, $frame:ident, $plain:ident, $len:literal) => {
        mod $module {
            use super::*;

            fn bytes() -> [u8; $len] {
                let mut bytes = [0; $len];
                $frame().encode(&mut bytes.as_mut_slice());
                bytes
            }

            #[divan::bench]
            fn encode_ours(bencher: Bencher<'_, '_>) {
                let frame = $frame();
                let mut bytes = [0; $len];
                bencher.bench_local(|| {
                    black_box(&frame).encode(&mut black_box(&mut bytes).as_mut_slice());
                    black_box(&bytes);
                });
            }

            #[divan::bench]
            fn encode_copy(bencher: Bencher<'_, '_>) {
                let plain = $plain::get(&bytes());
                let mut copy = [0xff; $len];
                plain.put(&mut copy);
                assert_eq!(copy, bytes());
                bencher.bench_local(|| {
                    black_box(&plain).put(black_box(&mut copy));
                    black_box(&copy);
                });
            }

            #[divan::bench]
            fn encode_ours_bytes_mut(bencher: Bencher<'_, '_>) {
                let frame = $frame();
                let mut bytes = BytesMut::with_capacity(MAX_FRAME_LEN);
                bencher.bench_local(|| {
                    bytes.clear();
                    black_box(&frame).encode(&mut bytes);
                    black_box(&bytes);
                });
            }

            #[divan::bench]
            fn encode_copy_bytes_mut(bencher: Bencher<'_, '_>) {
                let plain = $plain::get(&bytes());
                let mut bytes = BytesMut::with_capacity(MAX_FRAME_LEN);
                bencher.bench_local(|| {
                    bytes.clear();
                    let mut copy = [0; $len];
                    black_box(&plain).put(&mut copy);
                    bytes.extend_from_slice(&copy);
                    black_box(&bytes);
                });
            }

            #[divan::bench]
            fn decode_ours(bencher: Bencher<'_, '_>) {
                let bytes = bytes();
                assert_eq!(Frame::decode(&bytes), Ok($frame()));
                bencher.bench_local(|| {
                    black_box(&Frame::decode(black_box(&bytes)));
                });
            }

            #[divan::bench]
            fn decode_copy(bencher: Bencher<'_, '_>) {
                let bytes = bytes();
                bencher.bench_local(|| {
                    black_box(&$plain::get(black_box(&bytes)));
                });
            }

            #[divan::bench]
            fn decode_checked_copy(bencher: Bencher<'_, '_>) {
                let bytes = bytes();
                assert!($plain::get_checked(&bytes).is_some());
                bencher.bench_local(|| {
                    black_box(&$plain::get_checked(black_box(&bytes)));
                });
            }
        }
    };
}

columns!(request_120, request, PlainRequest, 120);
columns!(response_120, response, PlainResponse, 120);
columns!(acknowledgement_48, acknowledgement, PlainAcknowledgement, 48);
columns!(join_120, join, PlainJoin, 120);
columns!(leave_48, leave, PlainLeave, 48);
columns!(announce_120, announce, PlainAnnounce, 120);
