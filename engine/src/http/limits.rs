//! How limits are told: the header fields that OpenAI's SDKs read.

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use storage::admission::{Gauge, Gauges};

/// Says how the limits stand; where there is none, nothing.
pub(crate) fn tell(gauges: Gauges, headers: &mut HeaderMap) {
    const REQUESTS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ];
    const TOKENS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ];
    const BUDGET: [HeaderName; 3] = [
        HeaderName::from_static("x-budget-limit-tokens"),
        HeaderName::from_static("x-budget-remaining-tokens"),
        HeaderName::from_static("x-budget-reset"),
    ];
    let all = [(REQUESTS, gauges.requests), (TOKENS, gauges.tokens), (BUDGET, gauges.budget)];
    for (names, gauge) in all {
        let Some(Gauge { limit, remaining, reset }) = gauge else { continue };
        let [limit_name, remaining_name, reset_name] = names;
        headers.insert(limit_name, HeaderValue::from(limit));
        headers.insert(remaining_name, HeaderValue::from(remaining));
        if let Some(Ok(reset)) = reset.map(|reset| HeaderValue::from_str(&span(reset))) {
            headers.insert(reset_name, reset);
        }
    }
}

/// A duration as OpenAI (and Go) writes it: `12ms`, `1s`, `6m0s`, `2m59.56s`, `12h0m0s`.
pub(crate) fn span(span: Duration) -> String {
    let millis = span.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    let (seconds, fraction) = (rest / 1_000, rest % 1_000);
    // Writing to a string cannot fail.
    let mut text = String::with_capacity(16);
    let _ = match (hours, minutes) {
        (0, 0) => write!(text, "{seconds}"),
        (0, _) => write!(text, "{minutes}m{seconds}"),
        _ => write!(text, "{hours}h{minutes}m{seconds}"),
    };
    if fraction > 0 {
        let _ = write!(text, ".{fraction:03}");
        text.truncate(text.trim_end_matches('0').len());
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        for (millis, text) in [
            (0, "0s"),
            (12, "12ms"),
            (1_000, "1s"),
            (1_050, "1.05s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (179_560, "2m59.56s"),
            (43_200_000, "12h0m0s"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
