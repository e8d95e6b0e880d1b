//! What became of each request, as the generator wrote it down: a line each, with tabs between when it was
//! asked and when it was over (milliseconds since 1970), whose it was and how it ended.

use std::{collections::BTreeMap, fs, path::Path};

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) user: String,
    /// `200`, a status and a code, `left`, `cut`, or what else happened.
    pub(crate) how: String,
}

// === impl Outcome ===

impl Outcome {
    /// Whether it was served.
    pub(crate) fn is_served(&self) -> bool {
        self.how == "200" || self.how == "left"
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next();
        let (begun, ended) = (next()?.parse().ok()?, next()?.parse().ok()?);
        Some(Self { begun, ended, user: next()?.to_owned(), how: next()?.to_owned() })
    }
}

/// All of them, in the order in which they were begun.
pub(crate) fn read(path: &Path) -> Result<Vec<Outcome>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| named(&error))?;
    let mut all = Vec::new();
    for line in text.lines() {
        all.push(Outcome::parse(line).ok_or_else(|| named(&format!("no outcome: {line:?}")))?);
    }
    all.sort_by_key(|outcome| outcome.begun);
    Ok(all)
}

/// How often each outcome was, the most frequent first, as text.
pub(crate) fn counted<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> String {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.how.as_str()).or_insert(0_usize) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown: Vec<String> = counts.iter().map(|(how, count)| format!("{count} × {how}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// The time that so large a share does not exceed, in milliseconds.
pub(crate) fn percentile<'a>(
    outcomes: impl IntoIterator<Item = &'a Outcome>,
    share: f64,
) -> Option<u64> {
    let mut times: Vec<u64> = outcomes.into_iter().map(|it| it.ended - it.begun).collect();
    times.sort_unstable();
    let rank = (share * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied()
}

/// How many there were at the same moment, at most.
pub(crate) fn at_once<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> usize {
    let (mut begun, mut ended): (Vec<u64>, Vec<u64>) =
        outcomes.into_iter().map(|it| (it.begun, it.ended)).unzip();
    begun.sort_unstable();
    ended.sort_unstable();
    let over = |at: u64| ended.partition_point(|end| *end <= at);
    begun.iter().enumerate().map(|(before, at)| before + 1 - over(*at)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_counted() {
        let of = |line| Outcome::parse(line).unwrap();
        let all =
            [of("5\t9\thonest\t200"), of("6\t7\thonest\t429 concurrency"), of("7\t8\tx\t200")];
        assert_eq!(counted(&all), "2 × 200, 1 × 429 concurrency");
        assert_eq!((percentile(&all, 0.5), percentile(&all, 1.0)), (Some(1), Some(4)));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!((at_once(&all), at_once(&[])), (2, 0));
        assert!(Outcome::parse("5\t9\thonest").is_none());
    }
}
