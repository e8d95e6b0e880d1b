//! One connection: hyper's HTTP/1.1, and a TCP reset where the script wants one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::routes;
use crate::state::State;

/// Serves a connection to its end.
pub(crate) async fn serve(state: Arc<State>, stream: TcpStream) {
    let reset = Arc::new(AtomicBool::new(false));
    // Go sets it on every connection; without it each chunk would wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    state.count(|produced| produced.connections += 1);
    let _open = Open(Arc::clone(&state));
    let service = {
        let reset = Arc::clone(&reset);
        service_fn(move |request| {
            let (state, reset) = (Arc::clone(&state), Arc::clone(&reset));
            Box::pin(
                async move { Ok::<_, Infallible>(routes::answer(state, reset, request).await) },
            )
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    // Faults end a connection with an error on purpose.
    let _ = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let stream = connection.into_parts().io.into_inner();
    if reset.load(Ordering::Relaxed) {
        let _ = stream.set_zero_linger();
    }
}

/// An open connection, counted.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count(|produced| produced.connections -= 1);
    }
}
