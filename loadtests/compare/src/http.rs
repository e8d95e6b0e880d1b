//! Single requests: is it ready, what do its metrics say, what does Redis count.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a GET is answered: the status and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let text = exchange(address, &request, |_| false).await?;
    let status = text.get(9..12).and_then(|digits| digits.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok((status.ok_or_else(|| format!("{address} does not speak HTTP"))?, body))
}

/// How many calls of scripts a Redis has had, and how many of all commands.
pub(crate) async fn redis_calls(address: SocketAddr) -> Result<(u64, u64), String> {
    // A bulk string: `$LENGTH`, and so many bytes.
    let is_all = |text: &str| {
        let Some((length, rest)) = text.split_once("\r\n") else { return false };
        length.trim_start_matches('$').parse().is_ok_and(|length: usize| rest.len() >= length)
    };
    let text = exchange(address, "INFO commandstats\r\n", is_all).await?;
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

async fn exchange(
    address: SocketAddr,
    request: &str,
    is_all: impl Fn(&str) -> bool,
) -> Result<String, String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while stream.read_buf(&mut answer).await? > 0 {
            if is_all(&String::from_utf8_lossy(&answer)) {
                break;
            }
        }
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(ANSWER_MAX, talk).await.map_err(|_| format!("{address}: no answer"))?;
    answer.map_err(|error| format!("{address}: {error}"))
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
