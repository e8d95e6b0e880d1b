//! Benchmarks of what a request costs inside, a file per crate: `cargo bench -p benches`.
