//! The hot paths. Each makes ready what it needs, does its work so many times, and says whether it went as it
//! should: a path that fails at once would be a cheap one.

use std::{collections::VecDeque, hint::black_box, time::Duration};

use actors::rules::{
    account::Now,
    book::Book,
    breaker::Ended,
    lane::{Asked, Lane, Settings},
    moment::Moment,
};
use benches::fixtures;
use bytes::{Bytes, BytesMut};
use identity::{
    api_key::{PresentedKey, mint},
    limits::Limits,
};
use jiff::Timestamp;
use protocol::{
    id::KeyId,
    levers::Levers,
    name::ModelName,
    ollama::stream::NativeStream,
    openai::stream::PassedStream,
    route::{Route, UpstreamKind},
    sse::{self, Events},
    translate::{
        Echo, Reply,
        request::{Request, Target},
        stream::Translation,
    },
};
use storage::admission::{Admit, Answer, Member, Need, Operation};
use uuid::Uuid;

/// A path, by its name.
pub(crate) type Path = (&'static str, fn(u64) -> bool);

/// Words of a question.
const WORDS: usize = 100;

/// What has been written and not yet sent: as much as a connection may hold back.
const ON_THE_WAY: usize = 16;

/// From one request to the next.
const PAUSE_MS: u64 = 20;

/// All of them, in the order of a request's walk.
pub(crate) const ALL: &[Path] = &[
    ("the form and checksum of a key are checked", key),
    ("a model's name is read", name),
    ("a chat is read and written for Ollama", |times| chat(UpstreamKind::Ollama, times)),
    ("a chat is read and written for OpenAI", |times| chat(UpstreamKind::OpenAi, times)),
    ("a request is let in by tenant and key, and settled", admit),
    ("an upstream gives a turn and takes it back", turn),
    ("a chunk of Ollama's passes", pass_line),
    ("a chunk of OpenAI's passes", pass_event),
    ("a chunk of Ollama's becomes one of a chat", |times| {
        translate(UpstreamKind::Ollama, Reply::Chat { include_usage: false }, times)
    }),
    ("a chunk of Ollama's becomes one of a response", |times| {
        translate(UpstreamKind::Ollama, Reply::Response(Box::<Echo>::default()), times)
    }),
    ("a chunk of Ollama's becomes one of a message", |times| {
        translate(UpstreamKind::Ollama, Reply::Message, times)
    }),
    ("a chunk of OpenAI's becomes a line of Ollama's", |times| {
        translate(UpstreamKind::OpenAi, Reply::Native(Route::OllamaChat), times)
    }),
    ("an event is written", write_event),
    ("an event is read", read_event),
];

fn key(times: u64) -> bool {
    let key = mint(|buffer| buffer.fill(7)).key;
    (0..times).all(|_| PresentedKey::parse(black_box(key.expose())).is_ok())
}

fn name(times: u64) -> bool {
    (0..times).all(|_| ModelName::parse(black_box("registry.ollama.ai/library/LLAMA3.2")).is_ok())
}

fn chat(kind: UpstreamKind, times: u64) -> bool {
    let body = fixtures::chat(WORDS);
    let target = Target { kind, model: Some("m"), tokens_max: Some(7), levers: &Levers::OPEN };
    (0..times).all(|_| {
        let request = Request::read(Route::OpenAiChat, black_box(body.as_bytes()));
        request.and_then(|request| request.write(&target)).is_ok()
    })
}

fn admit(times: u64) -> bool {
    let mut book = Book::default();
    let limits = Limits {
        rpm: Some(1_000_000),
        tpm: Some(1_000_000_000),
        concurrency: Some(100),
        ..Limits::default()
    };
    (0..times).all(|number| {
        let member = Member { replica: 1, number };
        let moment = Moment::from_millis(number * PAUSE_MS);
        let now = Now { moment, wall: Timestamp::UNIX_EPOCH };
        let admit = Admit {
            member,
            key: KeyId(Uuid::from_u128(1)),
            tenant_limits: limits,
            key_limits: limits,
            need: Need { tokens: 100, tokens_max: 1_000 },
        };
        let admitted = book.run(black_box(&Operation::Admit(admit)), now);
        book.run(&Operation::Settle { member, used: 90 }, now);
        matches!(admitted, Answer::Admitted(_))
    })
}

fn turn(times: u64) -> bool {
    let mut lane = Lane::<u128, u64>::new(&Settings::default(), Some(4));
    (0..times).all(|ticket| {
        let now = Moment::from_millis(ticket * PAUSE_MS);
        let Asked::Granted(_, pass) = lane.ask(black_box(1), 1, ticket, ticket, now) else {
            return false;
        };
        lane.ended(pass, Ended::Well, Duration::from_millis(PAUSE_MS), now, 0.5).is_empty()
    })
}

fn pass_line(times: u64) -> bool {
    let (mut stream, line) = (NativeStream::default(), fixtures::line(7));
    (0..times).all(|_| stream.push(black_box(&line).clone()).fault.is_none())
}

fn pass_event(times: u64) -> bool {
    let (mut stream, events) = (PassedStream::new(true), fixtures::events());
    let Some(event) = events.get(1) else { return false };
    (0..times).all(|_| stream.push(black_box(event).clone()).fault.is_none())
}

fn translate(from: UpstreamKind, reply: Reply, times: u64) -> bool {
    let chunks = match from {
        UpstreamKind::Ollama => fixtures::lines(),
        UpstreamKind::OpenAi => fixtures::events(),
    };
    let stream = Translation::new(from, reply, fixtures::meta(), 5);
    let (Some(mut stream), Some(chunk)) = (stream, chunks.get(1)) else { return false };
    // They are held, as a connection holds them: what is written cannot be written over.
    let mut held = VecDeque::with_capacity(ON_THE_WAY);
    (0..times).all(|_| {
        let (bytes, fault) = stream.push(black_box(chunk).clone());
        if held.len() == ON_THE_WAY {
            held.pop_front();
        }
        let is_whole = fault.is_none() && !bytes.is_empty();
        held.push_back(bytes);
        is_whole
    })
}

fn write_event(times: u64) -> bool {
    let line = fixtures::line(7);
    let data = line.trim_ascii_end();
    let mut out = BytesMut::with_capacity(1_024);
    (0..times).all(|_| {
        out.clear();
        sse::event(black_box(data), &mut out);
        !out.is_empty()
    })
}

fn read_event(times: u64) -> bool {
    let mut events = Events::default();
    let event =
        Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\" word\"}}]}\n\n");
    (0..times).all(|_| {
        events.push(black_box(&event).clone());
        matches!(events.next_event(), Ok(Some(_))) && matches!(events.next_event(), Ok(None))
    })
}
