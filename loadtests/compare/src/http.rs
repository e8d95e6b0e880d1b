//! Single requests: is it ready, what do its metrics say, what does Redis count.

use std::{net::SocketAddr, time::Duration};

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a GET is answered: the status and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    rig::http::get(address, path, ANSWER_MAX).await
}

/// How many calls of scripts a Redis has had, and how many of all commands.
pub(crate) async fn redis_calls(address: SocketAddr) -> Result<(u64, u64), String> {
    // A bulk string: `$LENGTH`, and so many bytes.
    let is_all = |text: &str| {
        let Some((length, rest)) = text.split_once("\r\n") else { return false };
        length.trim_start_matches('$').parse().is_ok_and(|length: usize| rest.len() >= length)
    };
    let text = rig::http::exchange(address, "INFO commandstats\r\n", ANSWER_MAX, is_all).await?;
    Ok(calls(&text))
}

fn calls(info: &str) -> (u64, u64) {
    let (mut scripts, mut all) = (0, 0);
    for line in info.lines() {
        let Some((name, rest)) =
            line.strip_prefix("cmdstat_").and_then(|l| l.split_once(":calls="))
        else {
            continue;
        };
        let count: u64 = rest.split(',').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if name.starts_with("eval") || name.starts_with("fcall") {
            scripts += count;
        }
        if name != "info" {
            all += count;
        }
    }
    (scripts, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_scripts_are_told_from_others() {
        let info = "$99\r\n# Commandstats\r\ncmdstat_evalsha:calls=12,usec=1\r\n\
                    cmdstat_fcall:calls=3,usec=1\r\ncmdstat_ping:calls=5,usec=1\r\n\
                    cmdstat_info:calls=2,usec=3\r\n";
        assert_eq!(calls(info), (15, 20));
    }
}
