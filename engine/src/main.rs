//! The binary `neuronetz`.
fn main() {}
