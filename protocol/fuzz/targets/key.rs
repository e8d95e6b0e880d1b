//! Runs what `fuzz::key` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::key(input));
