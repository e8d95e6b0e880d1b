//! Runs what `fuzz::request` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::request(input));
