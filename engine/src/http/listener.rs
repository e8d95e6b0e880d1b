//! Sockets: accepting, and a place for each connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use super::{connection, workers::Workers};
use crate::gateway::Gateway;

/// The pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket with its TLS, if it has one.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
}

// === impl Listener ===

impl Listener {
    /// Binds; connections beyond `connections_max` wait in the kernel's queue.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        connections_max: usize,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { socket, tls, places: Arc::new(Semaphore::new(connections_max)) })
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
        while let Some(Ok(place)) =
            draining.run_until_cancelled(Arc::clone(&self.places).acquire_owned()).await
        {
            let Some(accepted) = draining.run_until_cancelled(self.socket.accept()).await else {
                break;
            };
            // It is the thread that serves it that is to hear of its events.
            let stream = match accepted.and_then(|(stream, _peer)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (served, tls) = (Arc::clone(&gateway), self.tls.clone());
            workers.spawn(&gateway.connections, async move {
                let _place = place;
                match TcpStream::from_std(stream) {
                    Ok(stream) => serve(served, stream, tls).await,
                    Err(error) => tracing::warn!(%error, "a connection cannot be served"),
                }
            });
        }
    }
}

async fn serve(gateway: Arc<Gateway>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    // Nagle and delayed acknowledgements together would hold a chunk back for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the client has gone already");
        return;
    }
    let Some(tls) = tls else {
        return Box::pin(connection::serve_plain(gateway, stream)).await;
    };
    let limit = gateway.server.header_timeout;
    match tokio::time::timeout(limit, tls.accept(stream)).await {
        Ok(Ok(stream)) => Box::pin(connection::serve_tls(gateway, stream)).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
        Err(_) => tracing::debug!("no TLS in time"),
    }
}
