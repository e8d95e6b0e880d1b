//! Single requests, on connections of their own.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What a GET is answered: the status and the body, which must come with its length.
///
/// # Errors
/// No answer in time, or one that is not HTTP.
pub async fn get(
    address: SocketAddr,
    path: &str,
    answer_max: Duration,
) -> Result<(u16, String), String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let text = exchange(address, &request, answer_max, |_| false).await?;
    let status = text.get(9..12).and_then(|digits| digits.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok((status.ok_or_else(|| format!("{address} does not speak HTTP"))?, body))
}

/// What is answered until it is all, or until the other side closes.
///
/// # Errors
/// No answer in time.
pub async fn exchange(
    address: SocketAddr,
    request: &str,
    answer_max: Duration,
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
    let answer = timeout(answer_max, talk).await.map_err(|_| format!("{address}: no answer"))?;
    answer.map_err(|error| format!("{address}: {error}"))
}
