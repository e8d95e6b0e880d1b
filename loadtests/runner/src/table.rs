//! What was expected and what was found, a line each.

use rig::out::say;
use serde::Serialize;

/// Everything that was judged.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// A line each.
    pub(crate) lines: Vec<Line>,
}

/// One thing that was judged.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Whether it is as it should be; none where that could not be judged.
    pub(crate) is_ok: Option<bool>,
    /// What is judged.
    pub(crate) what: String,
    /// What was found.
    pub(crate) found: String,
}

// === impl Verdict ===

impl Verdict {
    /// Adds a line and prints it.
    pub(crate) fn add(&mut self, is_ok: Option<bool>, what: &str, found: String) {
        let mark = match is_ok {
            Some(true) => "ok   ",
            Some(false) => "WRONG",
            None => "??   ",
        };
        say(&format!("  {mark} {what:<62} {found}"));
        self.lines.push(Line { is_ok, what: what.to_owned(), found });
    }

    /// Adds a line that is either right or wrong.
    pub(crate) fn expect(&mut self, is_ok: bool, what: &str, found: String) {
        self.add(Some(is_ok), what, found);
    }

    /// Prints what is told and not judged.
    #[expect(clippy::unused_self, reason = "it stands among the lines that are judged")]
    pub(crate) fn remark(&self, what: &str, found: &str) {
        say(&format!("        {what:<62} {found}"));
    }

    /// Whether something is not as it should be.
    pub(crate) fn is_wrong(&self) -> bool {
        self.lines.iter().any(|line| line.is_ok == Some(false))
    }
}

/// The headline of a step.
pub(crate) fn step(line: &str) {
    say(&format!("\n== {line}"));
}
