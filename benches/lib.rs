//! Benchmarks of what a request costs inside, a file per crate: `cargo bench -p benches`. What is allocated
//! does not vary from run to run, so that it is tested here.

#[cfg(test)]
mod allocations {
    use allocation_counter::{AllocationInfo, measure};
    use bytes::Bytes;
    use protocol::{
        levers::Levers,
        route::{Route, UpstreamKind},
        translate::{
            Reply, ReplyMeta,
            request::{Request, Target},
            stream::Translation,
        },
    };

    const IMAGE: usize = 20 * 1024 * 1024;

    /// What reading such a body and writing it for such an upstream allocates.
    fn written(body: &str, kind: UpstreamKind) -> AllocationInfo {
        let levers = &Levers::OPEN;
        let target = Target { kind, model: Some("m"), tokens_max: Some(7), levers };
        measure(|| {
            let request = Request::read(Route::OpenAiChat, body.as_bytes());
            assert!(request.and_then(|request| request.write(&target)).is_ok());
        })
    }

    #[test]
    fn a_body_with_a_large_image_is_copied_once() {
        let image = "A".repeat(IMAGE);
        let body = format!(
            r#"{{"model":"llava","messages":[{{"role":"user","content":[{{"type":"text","text":"What?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
        );
        for kind in UpstreamKind::ALL {
            let most = written(&body, *kind).bytes_total;
            let size = body.len() as u64;
            assert!((size..size + size / 10).contains(&most), "{kind}: {most} of {size} bytes");
        }
    }

    #[test]
    fn in_the_steady_state_a_chunk_of_a_chat_allocates_what_leaves_and_no_more() {
        let meta = ReplyMeta { id: "0".to_owned(), created: 0, model: "m".to_owned() };
        let reply = Reply::Chat { include_usage: false };
        let Some(mut stream) = Translation::new(UpstreamKind::Ollama, reply, meta, 1) else {
            panic!("a chat may be a stream")
        };
        let line = Bytes::from_static(
            b"{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n",
        );
        stream.push(line.clone());
        let counted = measure(|| {
            for _ in 0..1_000 {
                let (bytes, fault) = stream.push(line.clone());
                assert!(fault.is_none() && !bytes.is_empty());
            }
        });
        assert_eq!(counted.count_total, 0, "allocations in a thousand chunks");
    }
}
