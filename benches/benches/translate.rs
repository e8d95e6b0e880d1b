//! Translation: a request, a chunk, and the events that chunks are written as, each beside what a first version
//! would do: parse into a tree of serde_json, change it, serialize.

#![expect(clippy::unwrap_used, reason = "what cannot be measured says so by a panic")]

use std::hint::black_box;

use benches::fixtures::{CHUNKS, chat, events, line, lines, meta};
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use protocol::{
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
use serde_json::{Value, json};

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("translate a request");
    for words in [10, 10_000] {
        let size = format!("{words} words");
        let body = chat(words);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("a chat of Ollama's is read", &size), |bencher| {
            bencher.iter(|| Request::read(Route::OllamaChat, black_box(body.as_bytes())).is_ok());
        });
        for kind in UpstreamKind::ALL {
            let levers = &Levers::OPEN;
            let target = Target { kind: *kind, model: Some("m"), tokens_max: Some(7), levers };
            let name = format!("a chat of OpenAI's is read and written for {kind}");
            group.bench_function(BenchmarkId::new(name, &size), |bencher| {
                bencher.iter(|| {
                    let request = Request::read(Route::OpenAiChat, black_box(body.as_bytes()));
                    request.and_then(|request| request.write(&target)).is_ok()
                });
            });
        }
        let name = "naive: serde_json reads it, sets two fields and writes it";
        group.bench_function(BenchmarkId::new(name, &size), |bencher| {
            bencher.iter(|| {
                let mut request: Value =
                    serde_json::from_slice(black_box(body.as_bytes())).unwrap();
                request["model"] = "m".into();
                request["max_tokens"] = 7.into();
                serde_json::to_vec(&request).unwrap()
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("a model's name");
    group.throughput(Throughput::Elements(1));
    group.bench_function("is read as Ollama reads it", |bencher| {
        bencher.iter(|| ModelName::parse(black_box("registry.ollama.ai/library/LLAMA3.2")).is_ok());
    });
    group.finish();
}

/// A line of Ollama's as a chunk of a chat, the way that comes to mind.
fn naive(line: &[u8]) -> Bytes {
    let line: Value = serde_json::from_slice(line).unwrap();
    let chunk = json!({
        "id": "chatcmpl-0",
        "object": "chat.completion.chunk",
        "created": 1_795_452_870,
        "model": line["model"],
        "choices": [{
            "index": 0,
            "delta": { "content": line["message"]["content"] },
            "finish_reason": null,
        }],
    });
    Bytes::from(format!("data: {chunk}\n\n"))
}

fn chunks(criterion: &mut Criterion) {
    let (lines, events) = (lines(), events());
    let mut group = criterion.benchmark_group("translate a stream of 100 chunks");
    group.throughput(Throughput::Elements(CHUNKS as u64));
    let chat = || Reply::Chat { include_usage: false };
    let response = || Reply::Response(Box::<Echo>::default());
    let native = || Reply::Native(Route::OllamaChat);
    let (ollama, openai) = ((UpstreamKind::Ollama, &lines), (UpstreamKind::OpenAi, &events));
    let dialects: [(&str, _, &dyn Fn() -> Reply); 4] = [
        ("Ollama's lines become a chat", ollama, &chat),
        ("Ollama's lines become a response", ollama, &response),
        ("Ollama's lines become a message", ollama, &|| Reply::Message),
        ("OpenAI's events become Ollama's lines", openai, &native),
    ];
    for (name, (kind, chunks), reply) in dialects {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut stream = Translation::new(kind, reply(), meta(), 5)?;
                for chunk in chunks {
                    black_box(stream.push(chunk.clone()));
                }
                stream.usage()
            });
        });
    }
    group.bench_function("naive: serde_json reads each line and writes each chunk", |bencher| {
        bencher.iter(|| {
            for line in &lines {
                black_box(naive(line));
            }
        });
    });
    group.bench_function("Ollama's lines pass", |bencher| {
        bencher.iter(|| {
            let mut stream = NativeStream::default();
            for line in &lines {
                black_box(stream.push(line.clone()));
            }
            stream.tail()
        });
    });
    group.bench_function("OpenAI's events pass", |bencher| {
        bencher.iter(|| {
            let mut stream = PassedStream::new(true);
            for event in &events {
                black_box(stream.push(event.clone()));
            }
            stream.usage()
        });
    });
    group.bench_function(
        "naive: serde_json reads each line, to see whether it may pass",
        |bencher| {
            bencher.iter(|| {
                for line in &lines {
                    let read: Value = serde_json::from_slice(line).unwrap();
                    black_box((line.clone(), read.get("error").is_some()));
                }
            });
        },
    );
    group.finish();
}

fn encodings(criterion: &mut Criterion) {
    let line = line(7);
    let data = line.trim_ascii_end();
    let text = std::str::from_utf8(data).unwrap();
    let mut group = criterion.benchmark_group("an event");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("is written into the buffer of its connection", |bencher| {
        let mut out = BytesMut::with_capacity(1_024);
        bencher.iter(|| {
            out.clear();
            sse::event(black_box(data), &mut out);
        });
    });
    group.bench_function("naive: is formatted into a text of its own", |bencher| {
        bencher.iter(|| Bytes::from(format!("data: {}\n\n", black_box(text))));
    });
    let event = Bytes::from(format!("data: {text}\n\n"));
    group.bench_function("is read as a slice of what arrived", |bencher| {
        let mut events = Events::default();
        bencher.iter(|| {
            events.push(black_box(&event).clone());
            let read = (events.next_event(), events.next_event());
            assert!(matches!(read, (Ok(Some(_)), Ok(None))));
        });
    });
    group.bench_function("naive: is copied into a text, cut into lines and joined", |bencher| {
        bencher.iter(|| {
            let text = String::from_utf8_lossy(black_box(&event)).into_owned();
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            data.map(str::to_owned).collect::<Vec<_>>().join("\n")
        });
    });
    group.finish();
}

criterion_group!(benches, requests, chunks, encodings);
criterion_main!(benches);
