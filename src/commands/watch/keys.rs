//! What was typed: bytes of a terminal to keys.
//!
//! The parser of `termion` panics at what is no UTF-8 (a paste) and does not know the arrows of a terminal in application mode.

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

/// The keys that these bytes stand for; what is none is left out. A sequence that is cut by the end of the bytes, which a slow line may do, is lost.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((&first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest.first()) {
            (0x1b, Some(b'[' | b'O')) => {
                // Parameters, then the letter that ends the sequence.
                let sequence = rest.get(1..).unwrap_or_default();
                let end = sequence.iter().position(|byte| (0x40..=0x7e).contains(byte)).unwrap_or(sequence.len());
                let (parameters, ending) = sequence.split_at(end);
                keys.extend(ending.first().and_then(|letter| of_sequence(parameters, *letter)));
                bytes = ending.get(1..).unwrap_or_default();
            }
            (0x1b, _) => keys.push(Key::Escape),
            (b'\t' | b' '..=b'~', _) => keys.push(Key::Char(char::from(first))),
            _ => (),
        }
    }
    keys
}

fn of_sequence(parameters: &[u8], letter: u8) -> Option<Key> {
    match (parameters, letter) {
        (_, b'A') => Some(Key::Up),
        (_, b'B') => Some(Key::Down),
        (_, b'H') | (b"1" | b"7", b'~') => Some(Key::Home),
        (_, b'F') | (b"4" | b"8", b'~') => Some(Key::End),
        (b"5", b'~') => Some(Key::PageUp),
        (b"6", b'~') => Some(Key::PageDown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_told_apart() {
        let text = b"q\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[1~\x1bOF\x1b[4~\t \x1b[1;5A\x1b[15~\r\xc3\xa4s\x1b";
        let expected = [
            Key::Char('q'),
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::Home,
            Key::End,
            Key::End,
            Key::Char('\t'),
            Key::Char(' '),
            Key::Up,
            Key::Char('s'),
            Key::Escape,
        ];
        assert_eq!(keys(text), expected);
        assert_eq!((keys(b"\x1b[5"), keys(b"")), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn whatever_is_pasted_is_taken(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(keys(&bytes).len() <= bytes.len());
        }
    }
}
