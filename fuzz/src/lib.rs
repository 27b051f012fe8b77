//! What the targets share that run whole nodes: frames drawn from the fuzzer's bytes, and keys to seal them with.

use berkeleyd::auth::Sequence;
use berkeleyd::context::TERM_LEAP;
use berkeleyd::identity::{Incarnation, NodeId, Round, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::protocol::{
    Acknowledgement, Announce, Answered, Claim, Corrections, Departure, Entry, Frame, Header, Heartbeat, Join, Leave,
    Merit, Message, Outcome, Refusal, Request, Response, Successors, Window,
};
use berkeleyd::time::{LocalTime, Skew, Span, WIRE_LIMIT};
use bytes::BytesMut;
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// A ring of one key with this number, whose bytes are all `byte`.
pub fn ring(id: u32, byte: u8) -> KeyRing {
    KeyRing::new([(KeyId::new(id), Key::new([byte; 16]), Lifetime::default())]).expect("one key")
}

/// The frame's bytes, with a trailer by the first key of the ring if there is one.
pub fn bytes_of(frame: &Frame<'_>, seal: Option<(&mut KeyRing, Option<Incarnation>, Sequence)>) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    if let Some((keys, recipient, sequence)) = seal {
        keys.seal(&mut bytes, recipient, sequence, None);
    }
    bytes
}

/// The frame in a datagram, sealed or not; its trailer is not checked.
pub fn frame_in(datagram: &[u8]) -> Option<Frame<'_>> {
    Frame::decode(datagram).or_else(|_| Frame::decode_authenticated(datagram)).ok()
}

/// What somebody may know of a node, so that what it says has a chance to matter: numbers drawn from all there are never fit.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub adjustment: u32,
    pub term: Term,
    pub round: Round,
    pub now: LocalTime,
    /// Of the last request that the node sent.
    pub t1: LocalTime,
}

/// One of `choices` numbers from zero.
pub fn choice(u: &mut Unstructured<'_>, choices: u8) -> Result<u8> {
    Ok(u.arbitrary::<u8>()? % choices)
}

/// A span: mostly a short one.
pub fn span(u: &mut Unstructured<'_>) -> Result<Span> {
    Ok(match choice(u, 5)? {
        0 => Span::ZERO,
        1 => Span::from_nanos(u.arbitrary::<i16>()?.into()),
        2 => Span::from_micros(u.arbitrary::<i16>()?.into()),
        3 => Span::from_millis(u.arbitrary::<i16>()?.into()),
        _ => Span::from_nanos(u.arbitrary::<i64>()? % WIRE_LIMIT),
    })
}

/// A local time: mostly one of the recent past.
pub fn local_time(u: &mut Unstructured<'_>, known: &Knowledge) -> Result<LocalTime> {
    let time = match choice(u, 4)? {
        0 => known.now,
        1 => known.t1,
        2 => known.now + span(u)?,
        _ => LocalTime::from_nanos(u.arbitrary()?),
    };
    Ok(LocalTime::from_nanos(time.as_nanos().rem_euclid(WIRE_LIMIT)))
}

fn bound(u: &mut Unstructured<'_>) -> Result<Span> {
    Ok(if choice(u, 4)? == 0 { Span::MAX } else { span(u)?.abs() })
}

/// A rate, mostly that of an oscillator.
pub fn rate(u: &mut Unstructured<'_>) -> Result<Skew> {
    let ppt = match choice(u, 3)? {
        0 => 0,
        1 => i64::from(u.arbitrary::<i32>()?),
        _ => u.arbitrary()?,
    };
    Ok(Skew::from_ppt(ppt).clamped(Skew::MAX))
}

fn node(u: &mut Unstructured<'_>, known: &Knowledge) -> Result<NodeId> {
    Ok(match choice(u, 4)? {
        0 | 1 => known.node,
        2 => NodeId::new(choice(u, 16)?.into()),
        _ => NodeId::new(u.arbitrary()?),
    })
}

fn term(u: &mut Unstructured<'_>, known: &Knowledge) -> Result<Term> {
    let term = match choice(u, 7)? {
        0..=2 => known.term,
        3 => known.term.next(),
        4 => Term::new(known.term.get().saturating_sub(1)),
        5 => Term::new(known.term.get() + TERM_LEAP),
        _ => Term::new(u.arbitrary()?),
    };
    Ok(Term::new(term.get() % (Term::LIMIT.get() + 1)))
}

fn round(u: &mut Unstructured<'_>, known: &Knowledge) -> Result<Round> {
    Ok(match choice(u, 4)? {
        0 | 1 => known.round,
        2 => known.round.next(),
        _ => Round::new(u.arbitrary()?),
    })
}

fn merit(u: &mut Unstructured<'_>) -> Result<Merit> {
    Ok(*u.choose(&[Merit::Implausible, Merit::Plausible, Merit::Established, Merit::Appointed])?)
}

fn entry(u: &mut Unstructured<'_>, known: &Knowledge) -> Result<Entry> {
    let is_apt = choice(u, 4)? != 0;
    Ok(Entry {
        node: if is_apt { known.node } else { node(u, known)? },
        node_incarnation: if is_apt { known.incarnation } else { Incarnation::new(u.arbitrary()?) },
        reference: local_time(u, known)?,
        correction: span(u)?,
        rate: rate(u)?,
        error_bound: bound(u)?,
        rate_error: Skew::from_ppt(u.arbitrary::<u32>()?.into()),
        adjustment: if is_apt { known.adjustment } else { u.arbitrary()? },
    })
}

/// A message of any kind with any legal fields. Of a correction these are the entries.
pub fn message<'e>(u: &mut Unstructured<'_>, known: &Knowledge, entries: &'e mut Vec<Entry>) -> Result<Message<'e>> {
    Ok(match choice(u, 9)? {
        0 => Message::Request(Request {
            t1: local_time(u, known)?,
            ahead: span(u)?,
            rate: rate(u)?,
            error_bound: bound(u)?,
            previous: match u.arbitrary()? {
                true => Some(Answered { t1: local_time(u, known)?, t4: local_time(u, known)? }),
                false => None,
            },
            window: match u.arbitrary()? {
                true => Some(Window::new(span(u)?)),
                false => None,
            },
        }),
        1 => Message::Response(Response {
            t1: if choice(u, 4)? == 0 { local_time(u, known)? } else { known.t1 },
            t2: local_time(u, known)?,
            t3: local_time(u, known)?,
            ahead: span(u)?,
            slew: span(u)?,
            rate: rate(u)?,
            error_bound: bound(u)?,
            adjustment: u.arbitrary::<u8>()?.into(),
            applied_round: round(u, known)?,
            previous: match u.arbitrary()? {
                true => {
                    let late = Span::from_nanos(i64::from(u.arbitrary::<u32>()?.min(u32::MAX - 1)));
                    Some(Departure { t1: local_time(u, known)?, late })
                }
                false => None,
            },
            is_reference: u.arbitrary()?,
            is_synchronised: u.arbitrary()?,
            is_stamped_near_the_wire: u.arbitrary()?,
        }),
        2 => {
            for _ in 0..=choice(u, 3)? {
                entries.push(entry(u, known)?);
            }
            Message::Correction(Corrections::of(entries))
        }
        3 => Message::Acknowledgement(Acknowledgement {
            adjustment: u.arbitrary::<u8>()?.into(),
            outcome: *u.choose(&[Outcome::Stepped, Outcome::Slewed, Outcome::Refused])?,
        }),
        4 => Message::Join(Join {
            priority: u.arbitrary()?,
            is_reference: u.arbitrary()?,
            hears_group: u.arbitrary()?,
            master: match node(u, known)? {
                none if none.get() == 0 => None,
                master => Some((master, known.incarnation)),
            },
            merit: if u.arbitrary()? { Some(merit(u)?) } else { None },
            corrected_in: match node(u, known)? {
                none if none.get() == 0 => None,
                master => Some((term(u, known)?, master)),
            },
            rate_error: Skew::from_ppt(u.arbitrary::<u32>()?.into()),
        }),
        5 => Message::Leave(Leave { successor: Some(node(u, known)?).filter(|node| node.get() != 0) }),
        6 => Message::Announce(Announce {
            interval: match choice(u, 2)? {
                0 => Span::from_secs(1),
                _ => span(u)?.abs().max(Span::from_nanos(1)),
            },
            priority: u.arbitrary()?,
            merit: merit(u)?,
            heartbeat: Heartbeat::new(Span::from_millis(u.arbitrary::<u16>()?.into())),
            members: u.arbitrary()?,
            successors: Successors::new([node(u, known)?, node(u, known)?]),
        }),
        7 => Message::Claim(Claim { priority: u.arbitrary()?, merit: merit(u)?, is_handover: u.arbitrary()? }),
        _ => Message::Refusal(Refusal { master: Some(node(u, known)?).filter(|node| node.get() != 0) }),
    })
}

/// The header of somebody's frame, in a domain.
pub fn header(
    u: &mut Unstructured<'_>,
    known: &Knowledge,
    domain: berkeleyd::identity::Domain,
    sender: NodeId,
    incarnation: Incarnation,
) -> Result<Header> {
    Ok(Header { domain, round: round(u, known)?, term: term(u, known)?, sender, incarnation })
}
