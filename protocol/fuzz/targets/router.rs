//! Runs what `fuzz::route` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::route(input));
