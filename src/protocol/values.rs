//! Which values fields may have, and how those are written that have no number of their own.

use super::DecodeError;
use crate::time::{LocalTime, Skew, Span, WIRE_LIMIT};

/// Response and join flag: the node has a time source of its own (`--reference`).
pub(super) const FLAG_REFERENCE: u16 = 1;

/// The local time in `nanos`, a field called `name`.
pub(super) fn local_time(nanos: i64, name: &'static str) -> Result<LocalTime, DecodeError> {
    if (0..WIRE_LIMIT).contains(&nanos) { Ok(LocalTime::from_nanos(nanos)) } else { Err(DecodeError::OutOfRange(name)) }
}

pub(super) fn span(nanos: i64, name: &'static str) -> Result<Span, DecodeError> {
    if (-WIRE_LIMIT < nanos) && (nanos < WIRE_LIMIT) {
        Ok(Span::from_nanos(nanos))
    } else {
        Err(DecodeError::OutOfRange(name))
    }
}

/// Bounds may be unknown, which is written as the largest number there is.
pub(super) fn bound(nanos: i64, name: &'static str) -> Result<Span, DecodeError> {
    if (0..WIRE_LIMIT).contains(&nanos) || nanos == i64::MAX {
        Ok(Span::from_nanos(nanos))
    } else {
        Err(DecodeError::OutOfRange(name))
    }
}

/// A bound as it is written: what no frame can carry says no more than that none is known.
pub(super) fn carried(bound: Span) -> i64 {
    let nanos = bound.as_nanos();
    if (0..WIRE_LIMIT).contains(&nanos) { nanos } else { Span::MAX.as_nanos() }
}

pub(super) fn rate(ppt: i64, name: &'static str) -> Result<Skew, DecodeError> {
    let limit = Skew::MAX.as_ppt();
    if (-limit..=limit).contains(&ppt) { Ok(Skew::from_ppt(ppt)) } else { Err(DecodeError::OutOfRange(name)) }
}

/// A `rate_error` as it is carried: what is larger than the field stops at its end.
pub(super) fn rate_error_carried(error: Skew) -> u32 {
    u32::try_from(error.as_ppt().max(0)).unwrap_or(u32::MAX)
}

pub(super) const fn flag(set: bool, bit: u16) -> u16 {
    if set { bit } else { 0 }
}
