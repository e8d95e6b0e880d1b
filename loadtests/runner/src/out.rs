//! What the program prints.

use std::io::Write;

/// A line on standard output.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody to tell it to where nobody listens.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A line of progress, or of what went wrong, on standard error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The headline of a step.
pub(crate) fn step(line: &str) {
    say(&format!("\n== {line}"));
}
