//! What the gateway's metrics say, by label.

use std::collections::BTreeMap;

/// The sum of a metric for each value of a label.
pub(crate) fn by_label(
    metrics: &str,
    name: &str,
    label: &str,
    with: Option<&str>,
) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, value)) = line
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('{'))
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        if with.is_some_and(|with| !labels.contains(with)) {
            continue;
        }
        // None of the names that are used here holds a comma or a quote.
        let of = labels
            .split(',')
            .find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'));
        if let (Some(of), Ok(value)) = (of, value.trim().parse::<f64>()) {
            *sums.entry(of.to_owned()).or_insert(0) += value as u64;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_for_each_value_of_a_label() {
        let metrics = "t{tenant=\"a\",model=\"x\",direction=\"completion\"} 3\n\
                       t{tenant=\"a\",model=\"y\",direction=\"completion\"} 4\n\
                       t{tenant=\"a\",model=\"y\",direction=\"prompt\"} 9\n\
                       t_more{tenant=\"b\"} 1\n";
        let sums = by_label(metrics, "t", "tenant", Some("direction=\"completion\""));
        assert_eq!(sums, BTreeMap::from([("a".to_owned(), 7)]));
    }
}
