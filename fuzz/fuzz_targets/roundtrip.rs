//! What was decoded and encoded again decodes to the same frame. (The bytes may differ: reserved ones are ignored.)

#![no_main]

use berkeleyd::protocol::Frame;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let Ok(frame) = Frame::decode(datagram) else { return };
    let mut encoded = BytesMut::new();
    frame.encode(&mut encoded);
    assert_eq!(Frame::decode(&encoded), Ok(frame));
});
