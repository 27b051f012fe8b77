//! What stands behind the body of an authenticated frame. Here is only where it lies; `auth.rs` makes the code and checks it.

use bytes::{Buf, BufMut, BytesMut};

use super::layout::{HEADER_LEN, MAC_LEN, TRAILER_LEN};
use super::{DecodeError, FLAG_AUTHENTICATED, MAX_FRAME_LEN};
use crate::identity::Incarnation;

/// Where the flags and, right behind them, the length lie in the header, for [`begin_trailer`] and [`split_trailer`].
const FLAGS_OFFSET: usize = 4;

/// The trailer of an authenticated frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer<'a> {
    /// Which key made the code.
    pub key_id: u32,
    /// Which life of a node alone the frame is for; `None`: whoever hears it.
    pub recipient: Option<Incarnation>,
    /// Above that of every frame that this life of the sender has sent before.
    pub sequence: u64,
    /// The code over everything before it.
    pub mac: &'a [u8; MAC_LEN],
}

/// Makes an authenticated frame of an encoded one, but for the code, which goes behind what is then in `frame`.
pub fn begin_trailer(frame: &mut BytesMut, key_id: u32, recipient: Option<Incarnation>, sequence: u64) {
    // No frame is longer than MAX_FRAME_LEN with its trailer, so that it fits.
    let length = u16::try_from(frame.len() + TRAILER_LEN).unwrap_or(0);
    if let Some(mut fields) = frame.get_mut(FLAGS_OFFSET..HEADER_LEN) {
        fields.put_u16(FLAG_AUTHENTICATED);
        fields.put_u16(length);
    }
    frame.put_u32(key_id);
    frame.put_u32(0);
    frame.put_u64(recipient.map_or(0, Incarnation::get));
    frame.put_u64(sequence);
}

/// An authenticated frame without its code, and its trailer; `None` when there is none.
///
/// # Errors
/// The length field is not the datagram's length, or that is no frame's. So nobody makes us compute the code of 64 KiB.
pub fn split_trailer(datagram: &[u8]) -> Result<Option<(&[u8], Trailer<'_>)>, DecodeError> {
    let Some(mut fields) = datagram.get(FLAGS_OFFSET..HEADER_LEN) else {
        return Err(DecodeError::TooShort { need: HEADER_LEN, got: datagram.len() });
    };
    if fields.get_u16() & FLAG_AUTHENTICATED == 0 {
        return Ok(None);
    }
    let (stated, got) = (usize::from(fields.get_u16()), datagram.len());
    let need = got.clamp(HEADER_LEN + TRAILER_LEN, MAX_FRAME_LEN);
    match datagram.split_last_chunk::<MAC_LEN>() {
        Some((covered, mac)) if stated == got && need == got => {
            let mut fields = covered.get(got - TRAILER_LEN..).unwrap_or_default();
            let key_id = fields.get_u32();
            fields.advance(4);
            let recipient = Some(Incarnation::new(fields.get_u64())).filter(|recipient| recipient.get() != 0);
            Ok(Some((covered, Trailer { key_id, recipient, sequence: fields.get_u64(), mac })))
        }
        _ => Err(DecodeError::Length { need, stated, got }),
    }
}
