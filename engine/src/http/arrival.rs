//! A request's body, streamed in within its limits, and buffered once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use protocol::id::TenantId;
use tokio::time::{Instant, timeout_at};

use super::{
    gather::Gathered,
    room::{Held, Room, SMALL_BYTES},
    unpack::Coding,
};
use crate::config::Server;

/// How long a small body may take without counting as one that is under way: most come with their heads.
const AT_ONCE: Duration = Duration::from_millis(50);

/// The limits of one body, and the room for all of them together.
pub struct Limits {
    bytes_max: usize,
    gap: Duration,
    total: Duration,
    /// The least number of bytes per second, once `gap` is over; 0: none.
    rate_min: usize,
    room: Arc<Room>,
}

/// A body that is on its way, with the room that it takes.
pub struct Arriving<'l> {
    limits: &'l Limits,
    body: Incoming,
    gathered: Gathered,
    coding: Option<Coding>,
    room: Held,
    began: Instant,
    heard: Instant,
    is_whole: bool,
}

/// A body that has arrived, with the room that it takes.
pub struct Arrived {
    /// The body.
    pub bytes: Bytes,
    /// How it is packed; `None`: it comes as it is.
    pub(crate) coding: Option<Coding>,
    /// Given back when it is dropped.
    pub(crate) room: Held,
}

/// What went wrong while a body arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalFault {
    /// Too large.
    #[error("the body is too large")]
    TooLarge,
    /// Packed in a way that is not read here.
    #[error("the body's encoding is not known")]
    Encoding,
    /// It does not unpack as its `content-encoding` says.
    #[error("the body cannot be unpacked")]
    Packing,
    /// It unpacks to much more than it is.
    #[error("the body unpacks to too many times its size")]
    Ratio,
    /// To unpack it takes more memory than there is for that.
    #[error("the body's zstd window is too large")]
    Window,
    /// Too slow.
    #[error("the body came too slowly")]
    Slow,
    /// It broke off, or its framing is wrong.
    #[error("the body broke off")]
    Broken,
    /// All bodies together are at their limit.
    #[error("no room for another body")]
    NoRoom,
}

// === impl Limits ===

impl Limits {
    /// The limits that are configured.
    #[must_use]
    pub fn new(server: &Server) -> Self {
        Self {
            bytes_max: server.body_bytes_max,
            gap: server.body_gap_timeout,
            total: server.body_timeout,
            rate_min: server.body_rate_min,
            room: Room::new(server.bodies_bytes_max, server.bodies_bytes_per_tenant_max),
        }
    }

    /// Room for something else that is held for a request of that tenant.
    pub(crate) fn hold(&self, tenant: TenantId) -> Held {
        self.room.hold(tenant)
    }

    /// A body of that tenant begins to arrive.
    ///
    /// # Errors
    /// [`ArrivalFault`] where it could not be taken.
    pub fn begin(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        tenant: TenantId,
    ) -> Result<Arriving<'_>, ArrivalFault> {
        let coding = Coding::of(headers)?;
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.bytes_max {
            return Err(ArrivalFault::TooLarge);
        }
        let began = Instant::now();
        Ok(Arriving {
            limits: self,
            is_whole: body.is_end_stream(),
            body,
            gathered: Gathered::new(announced),
            coding,
            room: self.room.hold(tenant),
            began,
            heard: began,
        })
    }
}

// === impl Arriving ===

impl Arriving<'_> {
    /// Whether a small body is there at once, as most are. Another one is under way: that it is must be
    /// admitted before its rest is waited for.
    ///
    /// # Errors
    /// [`ArrivalFault`].
    pub async fn is_there_at_once(&mut self) -> Result<bool, ArrivalFault> {
        let until = self.began + AT_ONCE;
        while !self.is_whole && self.gathered.len() <= SMALL_BYTES {
            match timeout_at(until.min(self.deadline()), self.body.frame()).await {
                Err(_) => return Ok(false),
                Ok(frame) => self.take(frame)?,
            }
        }
        Ok(self.is_whole && self.gathered.len() <= SMALL_BYTES)
    }

    /// Reads the body to its end. One that comes in one piece is not copied.
    ///
    /// # Errors
    /// [`ArrivalFault`].
    pub async fn rest(mut self) -> Result<Arrived, ArrivalFault> {
        while !self.is_whole {
            let frame = timeout_at(self.deadline(), self.body.frame()).await;
            self.take(frame.map_err(|_| ArrivalFault::Slow)?)?;
        }
        Ok(Arrived { bytes: self.gathered.finish(), coding: self.coding, room: self.room })
    }

    /// Until when the next part must come: within its own limit, within that of the whole, and as soon as the
    /// least rate asks for.
    fn deadline(&self) -> Instant {
        let Limits { gap, total, rate_min, .. } = *self.limits;
        let deadline = (self.began + total).min(self.heard + gap);
        match (self.gathered.len() as u64 * 1_000).checked_div(rate_min as u64) {
            Some(millis) => deadline.min(self.began + gap + Duration::from_millis(millis)),
            None => deadline,
        }
    }

    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Result<(), ArrivalFault> {
        let Some(frame) = frame else {
            self.is_whole = true;
            return Ok(());
        };
        let frame = frame.map_err(|_| ArrivalFault::Broken)?;
        if let Ok(data) = frame.into_data() {
            let length = self.gathered.len() + data.len();
            if length > self.limits.bytes_max {
                return Err(ArrivalFault::TooLarge);
            }
            self.room.resize(length).map_err(|_| ArrivalFault::NoRoom)?;
            // Empty frames are no progress.
            if !data.is_empty() {
                self.heard = Instant::now();
            }
            self.gathered.push(data);
        }
        // One of a length that was announced, which is most of them, says so: it is not asked again.
        self.is_whole = self.body.is_end_stream();
        Ok(())
    }
}

// === impl ArrivalFault ===

impl ArrivalFault {
    /// What the client is told of it; `None` where the code of the refusal says it all.
    pub(crate) fn message(self) -> Option<&'static str> {
        match self {
            Self::Packing => Some(
                "The body does not unpack as its `content-encoding` says: it is damaged, cut off, followed by \
                 something else, or much longer than what it unpacks to.",
            ),
            Self::Ratio => Some(
                "The body unpacks to more than a hundred times its size, and to more than 1 MiB.",
            ),
            Self::Window => Some("To unpack the body takes a zstd window of more than 8 MiB."),
            Self::TooLarge | Self::Encoding | Self::Slow | Self::Broken | Self::NoRoom => None,
        }
    }
}
