//! A master asks, a slave answers: the four stamps of an exchange, and what both say of their clocks with them.

use std::num::NonZeroU32;

use bytes::{Buf, BufMut};

use super::DecodeError;
use super::layout::{self, HEADER_LEN, end_of};
use super::values::{FLAG_REFERENCE, bound, carried, flag, local_time, rate, span};
use crate::identity::Round;
use crate::time::{LocalTime, Skew, Span};

/// Response flag: the node has been corrected and its error bound is within what counts as agreeing.
pub(super) const FLAG_SYNCHRONISED: u16 = 1 << 1;
/// Response flag: t2 was taken by the kernel or the network interface, not by the program.
pub(super) const FLAG_NEAR_THE_WIRE: u16 = 1 << 2;

/// The master asks a slave for its time, and tells its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When the master sent it, on the master's local clock. Different in every transmission.
    pub t1: LocalTime,
    /// How far the target of the master's disciplined clock stands ahead of its local clock at `t1`.
    pub ahead: Span,
    /// The rate of that target relative to the local clock.
    pub rate: Skew,
    /// How far the target can be from ensemble time; [`Span::MAX`] when the master does not know.
    pub error_bound: Span,
    /// The last exchange with this slave, for it to measure what the master has measured; `None` before the first, and in a request to
    /// the group.
    pub previous: Option<Answered>,
    /// Over how long the answers of all who hear it are to be spread; `None`: it asks one slave, which answers at once.
    pub window: Option<Window>,
}

impl Request {
    /// Bytes of a whole request without a trailer: as long as a response, so that no answer is longer than its question.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::REQUEST);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let t1 = local_time(body.get_i64(), "t1")?;
        let ahead = span(body.get_i64(), "ahead")?;
        let rate = rate(body.get_i64(), "rate")?;
        let error_bound = bound(body.get_i64(), "error_bound")?;
        let previous = Answered::decode(body.get_i64(), body.get_i64())?;
        let window = NonZeroU32::new(body.get_u32()).map(Window);
        Ok(Self { t1, ahead, rate, error_bound, previous, window })
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_i64(self.t1.as_nanos());
        out.put_i64(self.ahead.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(carried(self.error_bound));
        Answered::carried(self.previous).into_iter().for_each(|stamp| out.put_i64(stamp));
        out.put_u32(self.window.map_or(0, |window| window.0.get()));
    }

    /// The request of a master that says nothing of its clock.
    pub const fn bare(t1: LocalTime) -> Self {
        Self { t1, ahead: Span::ZERO, rate: Skew::ZERO, error_bound: Span::MAX, previous: None, window: None }
    }
}

/// Over how long the answers to a request to the group are to be spread, in whole microseconds. Not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(NonZeroU32);

impl Window {
    /// The nearest that there is.
    pub fn new(span: Span) -> Self {
        let micros = u32::try_from((span.as_nanos() / 1_000).max(1)).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(micros).unwrap_or(NonZeroU32::MIN))
    }

    /// As a span.
    pub fn span(self) -> Span {
        Span::from_micros(i64::from(self.0.get()))
    }
}

/// An exchange as the master knows it: when it asked, and when the answer arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The `t1` that it carried: it names the exchange.
    pub t1: LocalTime,
    /// When the response arrived, on the master's local clock.
    pub t4: LocalTime,
}

impl Answered {
    /// A `t4` that no local clock shows: there is no exchange.
    const NONE: i64 = i64::MAX;

    /// The fields as they are written.
    pub(super) fn carried(answered: Option<Self>) -> [i64; 2] {
        answered.map_or([0, Self::NONE], |answered| [answered.t1.as_nanos(), answered.t4.as_nanos()])
    }

    /// And as they are read.
    pub(super) fn decode(t1: i64, t4: i64) -> Result<Option<Self>, DecodeError> {
        if t4 == Self::NONE {
            return Ok(None);
        }
        Ok(Some(Self { t1: local_time(t1, "previous_t1")?, t4: local_time(t4, "previous_t4")? }))
    }
}

/// When the response before the one that says so really left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The `t1` that it carried: it names the exchange.
    pub t1: LocalTime,
    /// How much later than its `t3` it left. Not negative; what does not fit the field is not said.
    pub late: Span,
}

impl Departure {
    /// The largest number of the field says that nothing is known.
    const NOT_KNOWN: u32 = u32::MAX;

    /// The fields as they are written.
    fn carried(departure: Option<Self>) -> (i64, u32) {
        let fields = departure.and_then(|departure| {
            let late = u32::try_from(departure.late.as_nanos()).ok().filter(|late| *late != Self::NOT_KNOWN)?;
            Some((departure.t1.as_nanos(), late))
        });
        fields.unwrap_or((0, Self::NOT_KNOWN))
    }
}

/// The slave's answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's `t1`, given back unchanged: it names the transmission that is answered.
    pub t1: LocalTime,
    /// When the request arrived, on the slave's local clock.
    pub t2: LocalTime,
    /// When the response was sent, on the slave's local clock.
    pub t3: LocalTime,
    /// How far the slave's disciplined clock stands ahead of its local clock at `t3`.
    pub ahead: Span,
    /// What the disciplined clock still has to gain by slewing at `t3`; zero when no slew is in progress.
    pub slew: Span,
    /// The rate of the disciplined clock relative to the local clock, a slew in progress not included.
    pub rate: Skew,
    /// How far the slave's disciplined clock can be from ensemble time; [`Span::MAX`] when it does not know.
    pub error_bound: Span,
    /// How many corrections this incarnation of the slave has applied.
    pub adjustment: u32,
    /// The round of this term whose correction the slave applied last; zero when none.
    pub applied_round: Round,
    /// When the last response before this one left; `None` when nobody has told the slave.
    pub previous: Option<Departure>,
    /// True when the slave has a time source of its own.
    pub is_reference: bool,
    /// True when the slave has been corrected and its error bound is small enough to claim agreement.
    pub is_synchronised: bool,
    /// True when `t2` was taken by the kernel or the network interface.
    pub is_stamped_near_the_wire: bool,
}

impl Response {
    /// Bytes of a whole response without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::RESPONSE);

    // In line, so that the numbers go from the datagram straight to their place in the frame: 11 ns, not 18.
    #[inline(always)]
    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let t1 = local_time(body.get_i64(), "t1")?;
        let t2 = local_time(body.get_i64(), "t2")?;
        let t3 = local_time(body.get_i64(), "t3")?;
        let ahead = span(body.get_i64(), "ahead")?;
        let slew = span(body.get_i64(), "slew")?;
        let rate = rate(body.get_i64(), "rate")?;
        let error_bound = bound(body.get_i64(), "error_bound")?;
        let adjustment = body.get_u32();
        let applied_round = Round::new(body.get_u32());
        let (previous_t1, late) = (body.get_i64(), body.get_u32());
        let previous = match late {
            Departure::NOT_KNOWN => None,
            late => {
                Some(Departure { t1: local_time(previous_t1, "previous_t1")?, late: Span::from_nanos(i64::from(late)) })
            }
        };
        let flags = body.get_u16();
        Ok(Self {
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
            is_reference: flags & FLAG_REFERENCE != 0,
            is_synchronised: flags & FLAG_SYNCHRONISED != 0,
            is_stamped_near_the_wire: flags & FLAG_NEAR_THE_WIRE != 0,
        })
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_i64(self.t1.as_nanos());
        out.put_i64(self.t2.as_nanos());
        out.put_i64(self.t3.as_nanos());
        out.put_i64(self.ahead.as_nanos());
        out.put_i64(self.slew.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(carried(self.error_bound));
        out.put_u32(self.adjustment);
        out.put_u32(self.applied_round.get());
        let (previous_t1, t3_late) = Departure::carried(self.previous);
        out.put_i64(previous_t1);
        out.put_u32(t3_late);
        out.put_u16(
            flag(self.is_reference, FLAG_REFERENCE)
                | flag(self.is_synchronised, FLAG_SYNCHRONISED)
                | flag(self.is_stamped_near_the_wire, FLAG_NEAR_THE_WIRE),
        );
    }
}
