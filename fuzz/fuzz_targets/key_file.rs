//! Whatever stands in a key file, it is read or refused in words; the keys that were read seal and open frames.

#![no_main]

use berkeleyd::auth::Sequence;
use berkeleyd::key_file;
use berkeleyd::keys::MAX_KEYS;
use berkeleyd::time::Time;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match key_file::parse("f", text, Time::default()) {
        Ok(mut ring) => {
            assert!((1..=MAX_KEYS).contains(&ring.keys().len()));
            assert!(!ring.is_expired(Time::default()));
            assert!(!format!("{ring:?}").is_empty());
            // A leave, as far as its length goes.
            let mut frame = BytesMut::zeroed(48);
            ring.seal(&mut frame, None, Sequence::new(5), None);
            let opened = ring.open(&frame, None).expect("our own");
            assert!(ring.keys().any(|(id, _)| id == opened.key));
        }
        Err(complaint) => assert!(complaint.starts_with("f:") && complaint.len() < 500, "{complaint}"),
    }
});
