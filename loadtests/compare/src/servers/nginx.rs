//! nginx as people run it: a plain reverse proxy that keeps its connections and holds nothing back.

use std::time::Duration;

use rig::process::Process;
use tokio::process::Command;

use super::{Kind, PATIENCE, Place, Server, free_address, put, ready};
const READY_MAX: Duration = Duration::from_secs(10);

/// Two workers, which is what `auto` gives on a machine with two cores, and what the gateway's
/// runtime has there. Debian sets `auto`.
const WORKERS: usize = 2;

/// Starts it. `connections`: of each worker, which takes memory for each of them at its start.
pub(crate) async fn start(place: &Place, connections: usize) -> Result<Server, String> {
    let address = free_address()?;
    let directory = tempfile::Builder::new().prefix("nginx-").tempdir_in(&place.directory);
    let directory = directory.map_err(|error| format!("nginx: {error}"))?.keep();
    let config = put(&directory, "nginx.conf", &config(place, address, connections))?;
    let mut command = Command::new("nginx");
    // Debian keeps it out of the path of users.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut paths: Vec<_> = std::env::split_paths(&path).collect();
    paths.push("/usr/sbin".into());
    if let Ok(path) = std::env::join_paths(paths) {
        command.env("PATH", path);
    }
    command.arg("-p").arg(&directory).arg("-c").arg(config).arg("-e").arg("stderr");
    let mut process = Process::start_unheard("nginx", &mut command, &place.directory, PATIENCE)?;
    ready(&mut process, address, "/api/version", READY_MAX).await?;
    let key = put(&directory, "key", &format!("nz_{}", "x".repeat(50)))?;
    Ok(Server {
        name: "nginx".to_owned(),
        kind: Kind::Nginx,
        address,
        admin: None,
        headers: Vec::new(),
        keys: key.clone(),
        key,
        divisor: 1,
        answered: 0,
        process,
    })
}

fn config(place: &Place, address: std::net::SocketAddr, connections: usize) -> String {
    let upstream = place.upstream;
    // Without limits on kept connections, since the gateway has none either.
    format!(
        "daemon off;
pid nginx.pid;
worker_processes {WORKERS};
worker_rlimit_nofile {connections};
error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream ollama {{
        server {upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://ollama;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"
    )
}
