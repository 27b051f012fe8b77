//! Whatever stands in a configuration file, it is accepted, or every mistake in it is told.

#![no_main]

use berkeleyd::commands::check_config::check_text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = check_text("f".to_owned(), text) {
        assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.is_empty()));
    }
});
