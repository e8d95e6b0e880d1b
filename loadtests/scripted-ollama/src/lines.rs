//! A streamed answer as a body: its pace, its cuts and its faults.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use crate::directives::{Directives, Fault};
use crate::shape::Shape;
use crate::state::{OfModel, State};

/// The lines of one answer. Dropped before its end, it counts as abandoned.
pub(crate) struct Lines {
    shape: Shape,
    state: Arc<State>,
    words: Directives,
    pace: Duration,
    timer: Pin<Box<Sleep>>,
    /// Set when the connection is to end with a reset.
    reset: Arc<AtomicBool>,
    next: usize,
    /// Pieces that were said.
    said: u64,
    /// What is ready to go, in HTTP chunks.
    ready: VecDeque<Bytes>,
    then: Then,
    /// The chunk before has to leave alone.
    flush: bool,
}

/// What follows when nothing is ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    More,
    End,
    Fail,
    Hang,
}

// === impl Lines ===

impl Lines {
    pub(crate) fn new(
        shape: Shape,
        state: Arc<State>,
        words: Directives,
        reset: Arc<AtomicBool>,
    ) -> Self {
        let pace = words.pace.unwrap_or(state.script.pace);
        state.count(|produced| {
            produced.begun += 1;
            produced.open += 1;
        });
        Self {
            shape,
            state,
            words,
            pace,
            timer: Box::pin(tokio::time::sleep(pace)),
            reset,
            next: 0,
            said: 0,
            ready: VecDeque::new(),
            then: Then::More,
            flush: false,
        }
    }

    /// The next HTTP chunk.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if std::mem::take(&mut self.flush) {
            // hyper writes what it has when a body has no more for now: as Go does for each line.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.flush = !self.state.script.gather;
                return Poll::Ready(Some(Ok(chunk)));
            }
            match self.then {
                Then::More => {
                    if !self.pace.is_zero() {
                        ready!(self.timer.as_mut().poll(cx));
                        self.timer.as_mut().reset(Instant::now() + self.pace);
                    }
                    self.advance();
                }
                Then::End => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Then::Fail => {
                    self.finish();
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
                }
                Then::Hang => return Poll::Pending,
            }
        }
    }

    /// Makes the next line ready, or what comes instead of it.
    fn advance(&mut self) {
        if let Some((fault, after)) = self.words.fault
            && self.next >= after
        {
            return self.fail(fault);
        }
        if self.next < self.shape.plan().count() {
            let mut line = BytesMut::with_capacity(192);
            self.shape.piece(self.next, &self.state.clock, &mut line);
            self.next += 1;
            self.said += 1;
            self.state.count(|produced| produced.pieces += 1);
            self.push(line, true);
        } else {
            let lines = self.shape.last(&self.state.clock);
            let count = lines.len();
            let prompt = self.shape.plan().prompt_tokens;
            self.state.count(|produced| produced.prompt_tokens += prompt);
            for (number, line) in lines.into_iter().enumerate() {
                self.push(line, number + 1 < count || !self.words.no_newline);
            }
            self.then = Then::End;
        }
    }

    fn fail(&mut self, fault: Fault) {
        self.then = match fault {
            Fault::ErrorLine => {
                let line = self.shape.error(self.words.refusal);
                self.push(line, true);
                Then::End
            }
            Fault::Half => {
                let mut line = BytesMut::new();
                self.shape.piece(self.next, &self.state.clock, &mut line);
                line.truncate(line.len() / 2);
                self.ready.push_back(line.freeze());
                Then::End
            }
            Fault::Hang => Then::Hang,
            Fault::Eof => Then::End,
            Fault::Cut => Then::Fail,
            Fault::Reset => {
                self.reset.store(true, Ordering::Relaxed);
                Then::Fail
            }
        };
    }

    fn push(&mut self, mut line: BytesMut, newline: bool) {
        if newline {
            line.put_slice(if self.words.crlf { b"\r\n" } else { b"\n" });
            if self.shape.is_openai() || self.words.blank {
                line.put_slice(b"\n");
            }
        }
        match self.words.split {
            None => self.ready.push_back(line.freeze()),
            Some(bytes) => {
                let mut rest = line.freeze();
                while !rest.is_empty() {
                    self.ready.push_back(rest.split_to(bytes.min(rest.len())));
                }
            }
        }
    }

    fn finish(&mut self) {
        if self.then != Then::Hang {
            self.state.count(|produced| produced.completed += 1);
            self.then = Then::Hang;
            self.next = usize::MAX;
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let abandoned = self.next != usize::MAX;
        let plan = self.shape.plan();
        let left_pieces = if abandoned { self.said } else { 0 };
        let (pieces, prompt_tokens) = (self.said, plan.prompt_tokens);
        self.state.said(&plan.model, OfModel { answers: 1, prompt_tokens, pieces, left_pieces });
        self.state.count(|produced| {
            produced.open -= 1;
            produced.abandoned += u64::from(abandoned);
        });
    }
}
