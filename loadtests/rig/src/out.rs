//! What a program prints.

use std::io::Write;

/// A line on standard output, at once.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody to tell it to where nobody listens.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A line of progress, or of what went wrong, on standard error.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
