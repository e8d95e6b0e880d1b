//! Sockets: accepting, and a place for each connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{connection, places::Places, seen::Seen, socket::Socket, workers::Workers};
use crate::{
    config,
    gateway::Gateway,
    telemetry::{self, Closed},
};

/// The pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket with its TLS, if it has one.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    places: Arc<Places>,
}

// === impl Listener ===

impl Listener {
    /// Binds; connections beyond `server.connections_max` wait in the kernel's queue.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn bind(server: &config::Server, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let socket = TcpListener::bind(server.listen).await?;
        let places = Places::new(server.connections_max, server.connections_per_address_max);
        Ok(Self { socket, tls, places })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the gateway drains, for the threads of `workers`. The place comes before the connection,
    /// so that none is accepted that cannot be served.
    pub(crate) async fn accept(self, gateway: Arc<Gateway>, workers: Arc<Workers>) {
        let draining = gateway.life.draining().clone();
        while let Some(Ok(permit)) = draining.run_until_cancelled(self.places.room()).await {
            let Some(accepted) = draining.run_until_cancelled(self.socket.accept()).await else {
                break;
            };
            // It is the thread that serves it that is to hear of its events.
            let accepted = accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer)));
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    telemetry::accept_failed();
                    actors::quiet!(warn, "connections cannot be accepted", ""; %error);
                    // A client that has gone again is no reason to let the others wait.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let Some(place) = self.places.take(permit, peer.ip()) else {
                telemetry::connection_closed(Closed::Address);
                continue;
            };
            let (served, tls) = (Arc::clone(&gateway), self.tls.clone());
            workers.spawn(&gateway.connections, async move {
                let _place = place;
                match TcpStream::from_std(stream) {
                    Ok(stream) => serve(served, stream, peer.ip(), tls).await,
                    Err(error) => {
                        telemetry::accept_failed();
                        tracing::debug!(%error, "a connection cannot be served");
                    }
                }
            });
        }
    }
}

async fn serve(gateway: Arc<Gateway>, stream: TcpStream, peer: IpAddr, tls: Option<TlsAcceptor>) {
    // Nagle and delayed acknowledgements together would hold a chunk back for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the client has gone already");
        return;
    }
    let socket = Socket::new(stream, gateway.server.give_up_timeout(), Arc::new(Seen::default()));
    let Some(tls) = tls else {
        return Box::pin(connection::serve_plain(gateway, socket, peer)).await;
    };
    let shaken = tokio::time::timeout(gateway.server.header_timeout, tls.accept(socket));
    let draining = gateway.life.draining().clone();
    match draining.run_until_cancelled(shaken).await {
        Some(Ok(Ok(stream))) => Box::pin(connection::serve_tls(gateway, stream, peer)).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "no TLS"),
        Some(Err(_)) => telemetry::connection_closed(Closed::TlsHandshake),
        None => telemetry::connection_closed(Closed::Drain),
    }
}
