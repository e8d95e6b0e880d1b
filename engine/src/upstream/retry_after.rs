//! How long an upstream asks us to stay away: `Retry-After` (RFC 9110, 10.2.3), in seconds or as a date. Pure.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};

/// The longest wait that is told on: whoever asks for more is asked again all the same.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest value that is one, in bytes.
const VALUE_BYTES_MAX: usize = 64;

/// What an upstream says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryAfter(Said);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    For(Duration),
    At(Timestamp),
}

// === impl RetryAfter ===

impl RetryAfter {
    /// Reads the value of the field. None where it is neither a number of seconds nor a date.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value.trim_ascii()).ok()?;
        if text.is_empty() || text.len() > VALUE_BYTES_MAX {
            return None;
        }
        // OpenAI's servers have fractions.
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            let seconds: f64 = text.parse().ok()?;
            let wait = Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX);
            return Some(Self(Said::For(wait)));
        }
        let at = rfc2822::parse(text).ok()?.timestamp();
        Some(Self(Said::At(at)))
    }

    /// For how long that is, an hour at the most.
    #[must_use]
    pub fn wait(self, now: Timestamp) -> Duration {
        let wait = match self.0 {
            Said::For(wait) => wait,
            // What has passed is no wait.
            Said::At(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default(),
        };
        wait.min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_waits_within_bounds() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for (value, wanted) in [
            ("7", Some(7_000)),
            (" 20 ", Some(20_000)),
            ("0", Some(0)),
            ("1.5", Some(1_500)),
            ("Sun, 01 Mar 2026 12:00:30 GMT", Some(30_000)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("86400", Some(3_600_000)),
            ("99999999999999999999999999", Some(3_600_000)),
            ("Mon, 02 Mar 2026 12:00:00 GMT", Some(3_600_000)),
            ("", None),
            ("-5", None),
            ("soon", None),
            ("1.2.3", None),
            ("1e9", None),
        ] {
            let wait = RetryAfter::read(value.as_bytes()).map(|after| after.wait(now));
            assert_eq!(wait, wanted.map(Duration::from_millis), "{value}");
        }
        assert_eq!(RetryAfter::read(&[b'1'; VALUE_BYTES_MAX + 1]), None);
        assert_eq!(RetryAfter::read(b"\xff"), None);
    }
}
