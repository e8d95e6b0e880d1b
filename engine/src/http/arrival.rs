//! A request's body, streamed in within its limits, and buffered once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{gather::Gathered, refusal::ArrivalFault};
use crate::config::Server;

/// The unit in which room for bodies is counted, in bytes.
const ROOM_UNIT: usize = 4096;

/// The limits of one body, and the room for all of them together.
pub struct Limits {
    /// The longest body, in bytes.
    pub bytes_max: usize,
    /// The longest wait for its next part.
    pub gap: Duration,
    /// The longest wait for all of it.
    pub total: Duration,
    room: Arc<Semaphore>,
}

/// A body that has arrived, with the room that it takes.
pub struct Arrived {
    /// The body.
    pub bytes: Bytes,
    /// Given back when it is dropped.
    pub room: Option<OwnedSemaphorePermit>,
}

// === impl Limits ===

impl Limits {
    /// The limits that are configured.
    #[must_use]
    pub fn new(server: &Server) -> Self {
        let units = (server.bodies_bytes_max / ROOM_UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            bytes_max: server.body_bytes_max,
            gap: server.body_gap_timeout,
            total: server.body_timeout,
            room: Arc::new(Semaphore::new(units)),
        }
    }

    /// Room for so many bytes, for tests of who takes it.
    #[cfg(test)]
    pub(crate) fn of_room(bytes: usize) -> Self {
        let (gap, total) = (Duration::MAX, Duration::MAX);
        let room = Arc::new(Semaphore::new(bytes / ROOM_UNIT));
        Self { bytes_max: bytes, gap, total, room }
    }

    /// Reads a body to its end.
    ///
    /// A body that comes in one piece is not copied. Room is taken for what has arrived, not for
    /// what was announced, so that nobody can take it with a header alone.
    ///
    /// # Errors
    /// [`ArrivalFault`].
    pub async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Incoming,
    ) -> Result<Arrived, ArrivalFault> {
        if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(ArrivalFault::Compressed);
        }
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.bytes_max {
            return Err(ArrivalFault::TooLarge);
        }
        let began = Instant::now();
        let (total, mut next) = (began + self.total, began + self.gap);
        let mut gathered = Gathered::new(announced);
        let mut room: Option<OwnedSemaphorePermit> = None;
        loop {
            let frame = match timeout_at(total.min(next), body.frame()).await {
                Err(_) => return Err(ArrivalFault::Slow),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(ArrivalFault::Broken),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            let length = gathered.len() + data.len();
            if length > self.bytes_max {
                return Err(ArrivalFault::TooLarge);
            }
            self.make_room(&mut room, length)?;
            gathered.push(data);
            // One of a length that was announced, which is most of them, says so: it is not asked again.
            if body.is_end_stream() {
                break;
            }
            next = Instant::now() + self.gap;
        }
        Ok(Arrived { bytes: gathered.finish(), room })
    }

    /// Takes more room where `bytes` need more than is held.
    pub(crate) fn make_room(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        bytes: usize,
    ) -> Result<(), ArrivalFault> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = bytes.div_ceil(ROOM_UNIT).saturating_sub(has);
        if wanted == 0 {
            return Ok(());
        }
        let wanted = u32::try_from(wanted).map_err(|_| ArrivalFault::NoRoom)?;
        let more = Arc::clone(&self.room)
            .try_acquire_many_owned(wanted)
            .map_err(|_| ArrivalFault::NoRoom)?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}
