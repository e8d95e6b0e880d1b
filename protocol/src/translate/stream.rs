//! A streamed reply of an upstream on its way into the dialect of the client.
//!
//! A source cuts the upstream's bytes into lines or events and reads a piece of each; a writer puts the
//! piece into the client's dialect. What follows the end is not read.

use bytes::{Bytes, BytesMut};

use super::{
    Reply, StreamFault,
    chat_reply::ReplyMeta,
    chat_stream::ChatStream,
    completion::CompletionStream,
    failure,
    message::MessageStream,
    native::NativeLines,
    piece::{CallPiece, Ending, Piece, Reason},
    response::ResponseStream,
};
use crate::{
    cause::Cause,
    error::Code,
    ndjson::{LINE_MAX, Lines},
    ollama::reply::Line,
    openai::{
        calls::Calls,
        reply::{Aborted, Called, Reply as Chunk, Told, is_keep_alive},
        said::Said,
    },
    route::{Route, UpstreamKind},
    sse::{Event, Events},
    usage::Usage,
};

/// How much is allocated at once for what leaves: ten chunks, so that each costs less than one
/// allocation even while those before it are still on their way to the client.
const OUT_BYTES: usize = 2 * 1024;

/// The translation of one stream.
pub struct Translation {
    source: Source,
    writer: Writer,
    /// What the prompt is taken for, in tokens, where the upstream does not count.
    prompt: u64,
    produced: u64,
    usage: Option<Usage>,
    cause: Option<Cause>,
    out: BytesMut,
}

/// What comes from the upstream.
enum Source {
    Ollama {
        lines: Lines,
        calls: usize,
    },
    OpenAi {
        events: Box<Events>,
        calls: Calls,
        /// Something of a reply has come.
        has_begun: bool,
        reason: Option<Reason>,
        usage: Option<Usage>,
    },
}

/// What goes to the client.
enum Writer {
    Chat(ChatStream),
    Completion(CompletionStream),
    Response(Box<ResponseStream>),
    Message(MessageStream),
    Native(NativeLines),
}

// === impl Translation ===

impl Translation {
    /// The translation of a stream of such an upstream, for a client that wants such a reply. `prompt`:
    /// what its prompt is taken for, in tokens. None where such a reply is never a stream.
    #[must_use]
    pub fn new(from: UpstreamKind, reply: Reply, meta: ReplyMeta, prompt: u64) -> Option<Self> {
        let source = match from {
            UpstreamKind::Ollama => Source::Ollama { lines: Lines::new(LINE_MAX), calls: 0 },
            UpstreamKind::OpenAi => Source::OpenAi {
                events: Box::default(),
                calls: Calls::default(),
                has_begun: false,
                reason: None,
                usage: None,
            },
        };
        let writer = match reply {
            Reply::Chat { include_usage } => Writer::Chat(ChatStream::new(meta, include_usage)),
            Reply::Completion { include_usage, echo } => {
                Writer::Completion(CompletionStream::new(&meta, include_usage, echo))
            }
            Reply::Response(echo) => Writer::Response(Box::new(ResponseStream::new(meta, *echo))),
            Reply::Message => Writer::Message(MessageStream::new(meta, prompt)),
            Reply::Native(route) => Writer::Native(NativeLines::new(meta, route)),
            Reply::Embedding { .. } => return None,
        };
        let out = BytesMut::with_capacity(OUT_BYTES);
        Some(Self { source, writer, prompt, produced: 0, usage: None, cause: None, out })
    }

    /// Takes what arrived, and gives back what may go on.
    ///
    /// # Errors
    /// Beside what may go on, why nothing may follow it.
    pub fn push(&mut self, chunk: Bytes) -> (Bytes, Option<StreamFault>) {
        let fault = self.take(chunk).err();
        (self.out.split().freeze(), fault)
    }

    /// The upstream has ended its stream.
    ///
    /// # Errors
    /// As [`Translation::push`]; [`StreamFault::BrokenOff`] where it never said that it is done.
    pub fn end(&mut self) -> (Bytes, Option<StreamFault>) {
        let fault = self.last().err();
        (self.out.split().freeze(), fault)
    }

    /// The stream is ended before its end: as if the reply had reached its greatest length.
    pub fn stop(&mut self, usage: Usage) -> Bytes {
        if !self.is_done() {
            let _ = self.finish(Ending { reason: Reason::Length, usage: Some(usage) });
        }
        self.out.split().freeze()
    }

    /// What tells a client that the stream is not whole: an end alone would pass for a success.
    pub fn fail(&mut self, code: Code, message: &str, param: Option<&str>) -> Bytes {
        let reply = match &mut self.writer {
            Writer::Response(stream) => {
                let mut out = BytesMut::new();
                stream.fail(code, message, &mut out);
                return out.freeze();
            }
            Writer::Chat(_) | Writer::Completion(_) => &Reply::Chat { include_usage: false },
            Writer::Message(_) => &Reply::Message,
            Writer::Native(_) => &Reply::Native(Route::OllamaChat),
        };
        failure(reply, code, message, param)
    }

    /// Whether the client reads server-sent events.
    #[must_use]
    pub fn is_sse(&self) -> bool {
        !matches!(self.writer, Writer::Native(_))
    }

    /// Whether the whole reply has been translated, its end included.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.usage.is_some()
    }

    /// What was used; `None` until the reply is done.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Why the upstream does not go on, where it told an error of a known cause.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// How many pieces carried something: about as many as tokens were produced.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), StreamFault> {
        match &mut self.source {
            Source::Ollama { lines, .. } => lines.push(chunk),
            Source::OpenAi { events, .. } => events.push(chunk),
        }
        loop {
            match &mut self.source {
                Source::Ollama { lines, .. } => match lines.next_line()? {
                    Some(line) => self.read_line(&line)?,
                    None => return Ok(()),
                },
                Source::OpenAi { events, .. } => match events.next_event()? {
                    Some(event) => self.read_event(&event)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn last(&mut self) -> Result<(), StreamFault> {
        match &mut self.source {
            Source::Ollama { lines, .. } => {
                lines.finish().map_or(Ok(()), |line| self.read_line(&line))?;
            }
            Source::OpenAi { events, .. } => {
                events.finish().map_or(Ok(()), |event| self.read_event(&event))?;
            }
        }
        if self.is_done() {
            return Ok(());
        }
        match &self.source {
            // It has said why it ends; not all servers say that they are done.
            Source::OpenAi { reason: Some(reason), usage, .. } => {
                let ending = Ending { reason: *reason, usage: *usage };
                self.finish(ending)
            }
            // A reply in one piece is whole, whatever it says.
            Source::OpenAi { has_begun: true, events, usage, .. } if events.is_object() => {
                let ending = Ending { reason: Reason::Stop, usage: *usage };
                self.finish(ending)
            }
            _ => Err(StreamFault::BrokenOff),
        }
    }

    /// Reads one line. Nothing of one that is not what it must be is written.
    fn read_line(&mut self, text: &[u8]) -> Result<(), StreamFault> {
        if self.is_done() {
            return Ok(());
        }
        let line = Line::read(text).ok_or(StreamFault::NotJson)?;
        if line.error.is_some() {
            return Err(StreamFault::told(text, &mut self.cause));
        }
        let Source::Ollama { calls, .. } = &mut self.source else { return Ok(()) };
        let piece = line.piece(*calls).ok_or(StreamFault::Call)?;
        *calls += piece.calls.len();
        let ending = line.ending();
        self.produced += u64::from(piece.carries());
        self.write(&piece, ending.is_some())?;
        ending.map_or(Ok(()), |ending| self.finish(ending))
    }

    /// Reads one event, in the same way.
    fn read_event(&mut self, event: &Event) -> Result<(), StreamFault> {
        if self.is_done() {
            return Ok(());
        }
        let Source::OpenAi { calls, has_begun, reason, usage, .. } = &mut self.source else {
            return Ok(());
        };
        if event.is_done() {
            // Some servers never say why they end, and this alone says that it is the end.
            let said = reason.or(has_begun.then_some(Reason::Stop));
            let ending = Ending { reason: said.ok_or(StreamFault::BrokenOff)?, usage: *usage };
            return self.finish(ending);
        }
        let Some(chunk) = Chunk::read(&event.data) else {
            let is_idle = is_keep_alive(&event.kind, &event.data);
            return if is_idle { Ok(()) } else { Err(StreamFault::NotJson) };
        };
        if chunk.error.is_some() || event.kind == "error" {
            return Err(StreamFault::told(&event.data, &mut self.cause));
        }
        if chunk.is_none() {
            let is_idle = is_keep_alive(&event.kind, &event.data);
            return if is_idle {
                Ok(())
            } else {
                Err(StreamFault::told(&event.data, &mut self.cause))
            };
        }
        let ends = chunk.reason().map_err(|Aborted| StreamFault::UpstreamError)?;
        if let Some(said) = chunk.usage() {
            *usage = Some(said);
        }
        if ends.is_some() {
            *reason = ends;
        }
        if chunk.is_without_choice() {
            return Ok(());
        }
        *has_begun = true;
        let is_in_call = calls.is_open();
        let told = chunk.told();
        if is_in_call || !told.is_plain() {
            return self.read_parts(&told, ends.is_some());
        }
        self.produced += u64::from(told.piece.carries());
        self.write(&told.piece, ends.is_some())
    }

    /// Reads what has calls, or stands in the middle of one, or in lists.
    #[cold]
    fn read_parts(&mut self, told: &Told<'_>, is_last: bool) -> Result<(), StreamFault> {
        let said = told.said().ok_or(StreamFault::Content)?;
        let has_calls = !matches!(told.calls, Called::None);
        self.produced += u64::from(has_calls || !said.is_empty());
        match &mut self.source {
            Source::OpenAi { calls, .. } if calls.is_open() => {
                said.into_iter().for_each(|said| calls.hold(said));
            }
            _ if told.has_lists() => {
                said.iter().try_for_each(|said| self.write(&said.piece(), is_last))?;
            }
            _ => self.write(&told.piece, is_last)?,
        }
        let Source::OpenAi { calls, .. } = &mut self.source else { return Ok(()) };
        let parts = match told.calls {
            Called::None => Some(Vec::new()),
            Called::Listed(raw) => calls.take(raw),
            Called::Function(raw) => calls.take_function(raw),
        };
        let parts = parts.ok_or(StreamFault::Call)?;
        let later = if calls.is_open() { Vec::new() } else { calls.release() };
        if calls.is_too_long() {
            return Err(StreamFault::TooLong);
        }
        self.write_calls(parts, &later)
    }

    fn write_calls(
        &mut self,
        calls: Vec<CallPiece<'_>>,
        later: &[Said],
    ) -> Result<(), StreamFault> {
        if !calls.is_empty() {
            self.write(&Piece { calls, ..Piece::default() }, false)?;
        }
        later.iter().try_for_each(|said| self.write(&said.piece(), false))
    }

    fn write(&mut self, piece: &Piece<'_>, is_last: bool) -> Result<(), StreamFault> {
        let (start, out) = (self.out.len(), &mut self.out);
        let written = match &mut self.writer {
            Writer::Chat(stream) => stream.piece(piece, is_last, out),
            Writer::Completion(stream) => stream.piece(piece, out),
            Writer::Response(stream) => stream.piece(piece, out),
            Writer::Message(stream) => stream.piece(piece, out),
            Writer::Native(lines) => lines.piece(piece, out),
        };
        if written.is_none() {
            out.truncate(start);
            return Err(StreamFault::Content);
        }
        Ok(())
    }

    fn finish(&mut self, Ending { reason, usage }: Ending) -> Result<(), StreamFault> {
        if let Source::OpenAi { calls, .. } = &mut self.source {
            let rest = calls.finish(reason).ok_or(StreamFault::Call)?;
            let later = calls.release();
            self.write_calls(rest, &later)?;
        }
        let estimate = Usage { prompt: self.prompt, completion: self.produced, estimated: true };
        let (usage, out) = (usage.unwrap_or(estimate), &mut self.out);
        let start = out.len();
        let mut is_whole = true;
        match &mut self.writer {
            Writer::Chat(stream) => stream.finish(reason, usage, out),
            Writer::Completion(stream) => stream.finish(reason, usage, out),
            Writer::Response(stream) => stream.finish(reason, usage, out),
            Writer::Message(stream) => stream.finish(reason, usage, out),
            Writer::Native(lines) => is_whole = lines.finish(reason, usage, out).is_some(),
        }
        if !is_whole {
            out.truncate(start);
            return Err(StreamFault::Call);
        }
        self.usage = Some(usage);
        Ok(())
    }
}
