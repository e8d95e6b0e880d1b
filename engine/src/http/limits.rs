//! How limits are told: the header fields that OpenAI's SDKs read.

use std::time::Duration;

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
        for (name, number) in [(limit_name, limit), (remaining_name, remaining)] {
            if let Ok(number) = HeaderValue::from_str(itoa::Buffer::new().format(number)) {
                headers.insert(name, number);
            }
        }
        if let Some(Ok(reset)) = reset.map(|reset| HeaderValue::from_str(&span(reset))) {
            headers.insert(reset_name, reset);
        }
    }
}

/// A duration as OpenAI (and Go) writes it: `12ms`, `1s`, `6m0s`, `2m59.56s`, `12h0m0s`.
fn span(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    // Each answer has three of them: `write!` would take as much as all else that is done here.
    let mut text = String::with_capacity(24);
    let mut put = |number, unit| {
        put_number(&mut text, number);
        text.push_str(unit);
    };
    if millis == 0 {
        put(0, "s");
        return text;
    }
    if millis < 1_000 {
        put(millis, "ms");
        return text;
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    if hours > 0 {
        put(hours, "h");
    }
    if hours > 0 || minutes > 0 {
        put(minutes, "m");
    }
    put(rest / 1_000, "");
    if !rest.is_multiple_of(1_000) {
        put_thousandths(&mut text, rest % 1_000);
        text.truncate(text.trim_end_matches('0').len());
    }
    text.push('s');
    text
}

/// A duration in milliseconds with three decimals, as `server-timing` has it.
pub(crate) fn put_millis(text: &mut String, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    put_number(text, micros / 1_000);
    put_thousandths(text, micros % 1_000);
}

fn put_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// `.042` of 42.
fn put_thousandths(text: &mut String, thousandths: u64) {
    text.push('.');
    // With a digit before them, which is left out, none of their zeros is lost.
    text.push_str(&itoa::Buffer::new().format(1_000 + thousandths)[1..]);
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
            (1_007, "1.007s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (179_560, "2m59.56s"),
            (43_200_000, "12h0m0s"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (42, "0.042"), (12_345, "12.345")] {
            let mut told = String::new();
            put_millis(&mut told, Duration::from_micros(micros));
            assert_eq!(told, text);
        }
    }
}
