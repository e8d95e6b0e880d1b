//! Answers, whole or as a stream of lines.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use crate::lines::Lines;

/// An answer on its way out.
pub(crate) type Reply = Response<ReplyBody>;

/// The body of an answer.
pub(crate) enum ReplyBody {
    Whole(Bytes),
    Lines(Box<Lines>),
}

/// A JSON document.
pub(crate) fn json(body: impl Into<Bytes>) -> Reply {
    json_status(StatusCode::OK, body)
}

/// A JSON document with a status.
pub(crate) fn json_status(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, "application/json; charset=utf-8", body)
}

/// A text, as Go's own refusals are.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, "text/plain", body)
}

/// A page, as a proxy in front of a server would send it.
pub(crate) fn html(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, "text/html", body)
}

/// A stream.
pub(crate) fn stream(lines: Lines, content_type: &'static str) -> Reply {
    with_type(Response::new(ReplyBody::Lines(Box::new(lines))), content_type)
}

fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = with_type(Response::new(ReplyBody::Whole(body.into())), content_type);
    *reply.status_mut() = status;
    reply
}

fn with_type(mut reply: Reply, content_type: &'static str) -> Reply {
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

// === impl ReplyBody ===

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Lines(lines) => {
                lines.poll_next(cx).map(|next| next.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}
