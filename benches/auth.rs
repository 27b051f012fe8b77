//! What authenticating a frame costs, beside the same frame without.
//!
//! `cargo bench --bench auth`. For a request (120 bytes, as long as a response) and for a full correction (1,392 bytes):
//!
//! - `send_plain`: encode into a `BytesMut` that has room, as a node does; `send_sealed`: encode and seal;
//! - `receive_plain`: decode; `receive_sealed`: open, decode, and look whether it is a repetition;
//!
//! and, alone, `code`: the AES-128-CMAC over as many bytes as a sealed request has without it; `admit` with as many members
//! as a master takes.

#[path = "../tests/support/messages.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is shared, and here a part of it is used")]
mod messages;

use berkeleyd::auth::{Sequence, Sequencer};
use berkeleyd::identity::{Incarnation, NodeId};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::protocol::{Corrections, Frame, Header, MAC_LEN, MAX_FRAME_LEN, Message, Request, TRAILER_LEN};
use berkeleyd::replay::ReplayGuard;
use berkeleyd::time::LocalTime;
use bytes::BytesMut;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Whom the frames are for.
const RECIPIENT: Option<Incarnation> = Some(Incarnation::new(77));

fn frame(message: Message<'static>) -> Frame<'static> {
    Frame { header: messages::header(), message }
}

fn request() -> Frame<'static> {
    frame(Message::Request(Request::bare(LocalTime::from_nanos(5_000_000_123))))
}

fn correction() -> Frame<'static> {
    frame(Message::Correction(Corrections::of(&messages::ENTRIES)))
}

/// Two keys, as while one follows the other.
fn ring() -> KeyRing {
    let key = |id| (KeyId::new(id), Key::new([7; 16]), Lifetime::default());
    KeyRing::new([key(1), key(2)]).unwrap_or_else(|error| panic!("{error}"))
}

macro_rules! columns {
    ($module:ident, $frame:ident) => {
        mod $module {
            use super::*;

            #[divan::bench]
            fn send_plain(bencher: Bencher<'_, '_>) {
                let (frame, mut bytes) = ($frame(), BytesMut::with_capacity(MAX_FRAME_LEN));
                bencher.bench_local(|| {
                    bytes.clear();
                    black_box(&frame).encode(&mut bytes);
                    black_box(&bytes);
                });
            }

            #[divan::bench]
            fn send_sealed(bencher: Bencher<'_, '_>) {
                let (frame, mut bytes) = ($frame(), BytesMut::with_capacity(MAX_FRAME_LEN));
                let (mut ring, mut sequencer) = (ring(), Sequencer::default());
                bencher.bench_local(|| {
                    bytes.clear();
                    black_box(&frame).encode(&mut bytes);
                    ring.seal(&mut bytes, RECIPIENT, sequencer.next(LocalTime::from_nanos(0)), None);
                    black_box(&bytes);
                });
            }

            #[divan::bench]
            fn receive_plain(bencher: Bencher<'_, '_>) {
                let mut bytes = BytesMut::new();
                $frame().encode(&mut bytes);
                bencher.bench_local(|| {
                    black_box(&Frame::decode(black_box(&bytes)));
                });
            }

            #[divan::bench]
            fn receive_sealed(bencher: Bencher<'_, '_>) {
                let mut bytes = BytesMut::new();
                $frame().encode(&mut bytes);
                let (mut ring, mut guard, mut sequencer) = (ring(), ReplayGuard::new(1), Sequencer::default());
                ring.seal(&mut bytes, RECIPIENT, Sequence::new(1), None);
                bencher.bench_local(|| {
                    let opened = ring.open(black_box(&bytes), None);
                    let Ok(frame) = Frame::decode_authenticated(black_box(&bytes)) else { unreachable!() };
                    let Header { sender, incarnation, .. } = black_box(&frame).header;
                    // Each datagram would bring a number of its own.
                    let sequence = sequencer.next(LocalTime::from_nanos(0));
                    let now = LocalTime::from_nanos(0);
                    black_box((opened, guard.admit(now, sender, incarnation, sequence, true)))
                });
            }
        }
    };
}

columns!(request_120, request);
columns!(correction_1392, correction);

#[divan::bench]
fn code(bencher: Bencher<'_, '_>) {
    let cmac = berkeleyd::cmac::Cmac::new(&[7; 16]);
    let bytes = [1; 120 + TRAILER_LEN - MAC_LEN];
    bencher.bench_local(|| black_box(cmac.code(black_box(&bytes))));
}

#[divan::bench(args = [1, 100, 10_000])]
fn admit(bencher: Bencher<'_, '_>, members: u64) {
    let (mut guard, mut sequencer) = (ReplayGuard::new(16_384), Sequencer::default());
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % members;
        let sequence = sequencer.next(LocalTime::from_nanos(0));
        black_box(guard.admit(LocalTime::from_nanos(0), NodeId::new(next), Incarnation::new(5), sequence, true))
    });
}
