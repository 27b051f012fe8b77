//! Arbitrary bytes never panic: not when they are decoded, not when what came of it is used.

#![no_main]

use berkeleyd::protocol::{Frame, Message, peek_domain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let domain = peek_domain(datagram);
    match Frame::decode(datagram) {
        Ok(frame) => {
            assert_eq!(domain, Some(frame.header.domain));
            assert_eq!(frame.message.wire_len(), datagram.len());
            if let Message::Correction(corrections) = frame.message {
                assert_eq!(corrections.entries.iter().count(), corrections.entries.count());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
