//! The layouts of PROTOCOL.md as data, so that a test can hold the two against each other.

/// One field of a layout: its name in PROTOCOL.md, where it starts in the frame, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As in PROTOCOL.md and, but for `reserved`, in the struct.
    pub name: &'static str,
    /// Bytes from the start of the frame (in an entry or a trailer: from its own start).
    pub offset: usize,
    /// Bytes.
    pub size: usize,
}

const fn field(name: &'static str, offset: usize, size: usize) -> Field {
    Field { name, offset, size }
}

/// Where the last field ends; refuses to compile unless the fields tile the range from `start` without gap or overlap.
#[expect(clippy::indexing_slicing, reason = "runs at compile time only, bounded by the loop")]
pub(super) const fn end_of(start: usize, fields: &[Field]) -> usize {
    let mut end = start;
    let mut index = 0;
    while index < fields.len() {
        assert!(fields[index].offset == end, "the fields of a frame must tile it");
        end += fields[index].size;
        index += 1;
    }
    end
}

/// The header of every frame.
pub const HEADER: &[Field] = &[
    field("magic", 0, 2),
    field("version", 2, 1),
    field("type", 3, 1),
    field("flags", 4, 2),
    field("length", 6, 2),
    field("domain", 8, 4),
    field("round", 12, 4),
    field("term", 16, 8),
    field("sender", 24, 8),
    field("incarnation", 32, 8),
];
/// What stands behind the body of an authenticated frame.
pub const TRAILER: &[Field] = &[
    field("key_id", 0, 4),
    field("reserved", 4, 4),
    field("recipient", 8, 8),
    field("sequence", 16, 8),
    field("mac", 24, MAC_LEN),
];
/// The body of a request.
pub const REQUEST: &[Field] = &[
    field("t1", 40, 8),
    field("ahead", 48, 8),
    field("rate", 56, 8),
    field("error_bound", 64, 8),
    field("previous_t1", 72, 8),
    field("previous_t4", 80, 8),
    field("window", 88, 4),
    field("reserved", 92, 28),
];
/// The body of a response.
pub const RESPONSE: &[Field] = &[
    field("t1", 40, 8),
    field("t2", 48, 8),
    field("t3", 56, 8),
    field("ahead", 64, 8),
    field("slew", 72, 8),
    field("rate", 80, 8),
    field("error_bound", 88, 8),
    field("adjustment", 96, 4),
    field("applied_round", 100, 4),
    field("previous_t1", 104, 8),
    field("t3_late", 112, 4),
    field("response_flags", 116, 2),
    field("reserved", 118, 2),
];
/// The fixed part of a correction's body; entries follow.
pub const CORRECTION: &[Field] = &[
    field("count", 40, 2),
    field("correction_flags", 42, 2),
    field("reserved", 44, 4),
    field("previous_t1", 48, 8),
    field("previous_t4", 56, 8),
];
/// One entry of a correction.
pub const ENTRY: &[Field] = &[
    field("node", 0, 8),
    field("node_incarnation", 8, 8),
    field("reference", 16, 8),
    field("correction", 24, 8),
    field("rate", 32, 8),
    field("error_bound", 40, 8),
    field("rate_error", 48, 4),
    field("adjustment", 52, 4),
];
/// The body of an acknowledgement.
pub const ACKNOWLEDGEMENT: &[Field] = &[field("adjustment", 40, 4), field("outcome", 44, 1), field("reserved", 45, 3)];
/// The body of a join.
pub const JOIN: &[Field] = &[
    field("priority", 40, 4),
    field("join_flags", 44, 2),
    field("merit", 46, 1),
    field("reserved", 47, 1),
    field("master", 48, 8),
    field("master_incarnation", 56, 8),
    field("corrected_term", 64, 8),
    field("corrected_master", 72, 8),
    field("rate_error", 80, 4),
    field("reserved", 84, 36),
];
/// The body of a leave.
pub const LEAVE: &[Field] = &[field("successor", 40, 8)];
/// The body of an announce.
pub const ANNOUNCE: &[Field] = &[
    field("interval", 40, 8),
    field("priority", 48, 4),
    field("merit", 52, 1),
    field("heartbeat", 53, 1),
    field("members", 54, 2),
    field("successor_1", 56, 8),
    field("successor_2", 64, 8),
    field("successor_3", 72, 8),
    field("successor_4", 80, 8),
    field("successor_5", 88, 8),
    field("successor_6", 96, 8),
    field("successor_7", 104, 8),
    field("successor_8", 112, 8),
];
/// The body of a claim.
pub const CLAIM: &[Field] =
    &[field("priority", 40, 4), field("merit", 44, 1), field("reserved", 45, 1), field("claim_flags", 46, 2)];
/// The body of a refusal.
pub const REFUSAL: &[Field] = &[field("master", 40, 8)];

/// The header in front of every body.
pub const HEADER_LEN: usize = end_of(0, HEADER);
/// One entry of a correction.
pub const ENTRY_LEN: usize = end_of(0, ENTRY);
/// A correction without its entries.
pub(super) const CORRECTION_LEN: usize = end_of(HEADER_LEN, CORRECTION);
/// Key, sequence and MAC at the end of an authenticated frame.
pub const TRAILER_LEN: usize = end_of(0, TRAILER);
/// The message authentication code, the last field of the trailer.
pub const MAC_LEN: usize = 16;
