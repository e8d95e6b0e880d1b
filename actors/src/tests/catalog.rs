//! The catalog and the upstreams it asks.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_catalog_that_was_never_filled_says_so() {
    let stage = Stage::new(Settings::default(), &[]).await;
    assert_eq!(stage.models(), Err(Unavailable));
}

#[tokio::test(start_paused = true)]
async fn models_come_and_go_with_the_polls() {
    let stage = Stage::new(Settings::default(), &["one", "two"]).await;
    stage.system.handles.upstreams.first_answers(Duration::from_secs(5)).await;
    eventually("both", || stage.models() == Ok(vec!["llama3:latest".to_owned()])).await;
    let name = ModelName::parse("llama3").unwrap();
    let servers = || {
        let snapshot = stage.system.handles.catalog.current().unwrap();
        snapshot.find(&name).map_or(0, |model| model.upstreams.len())
    };
    assert_eq!(servers(), 2);
    stage.servers.set("one", Some(&["llama3", "qwen3:8b"]));
    stage.servers.set("two", Some(&[]));
    eventually("the next polls", || servers() == 1 && stage.models().unwrap().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_said_counts_for_so_long_and_no_longer() {
    let stage = Stage::new(Settings::default(), &["one", "two"]).await;
    stage.system.handles.upstreams.first_answers(Duration::from_secs(5)).await;
    stage.servers.set("two", Some(&["qwen3:8b"]));
    eventually("both", || stage.models().is_ok_and(|models| models.len() == 2)).await;
    stage.servers.set("one", None);
    let down = || stage.system.handles.upstreams.views().iter().any(|view| !view.up);
    eventually("the failure", down).await;
    assert_eq!(stage.models().unwrap().len(), 2, "one failed poll is no reason to forget");
    eventually("the end of what one said", || stage.models().unwrap().len() == 1).await;
    stage.servers.set("two", None);
    eventually("the end of all", || stage.models() == Err(Unavailable)).await;
    stage.servers.set("two", Some(&["llama3"]));
    eventually("the return", || stage.models().is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn upstreams_are_added_changed_and_removed() {
    let stage = Stage::new(Settings::default(), &["one"]).await;
    let directory = &stage.system.handles.upstreams;
    directory.first_answers(Duration::from_secs(5)).await;
    stage.servers.set("two", Some(&["qwen3:8b"]));
    directory.set(vec![upstream("one"), upstream("two")]).await;
    eventually("two", || directory.up().len() == 2 && stage.models().unwrap().len() == 2).await;
    let moved = Upstream { url: "http://elsewhere".to_owned(), ..upstream("one") };
    directory.set(vec![moved]).await;
    eventually("the removal", || stage.models() == Ok(vec!["llama3:latest".to_owned()])).await;
    eventually("the new place", || directory.up().iter().any(|up| up.url.ends_with("elsewhere")))
        .await;
    assert_eq!(directory.views().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_the_catalog_forgets_nothing() {
    let stage = Stage::new(Settings::default(), &["one"]).await;
    stage.system.handles.upstreams.first_answers(Duration::from_secs(5)).await;
    eventually("the models", || stage.models().is_ok()).await;
    let before = restarts_of("catalog");
    stage.system.handles.catalog.poison();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(restarts_of("catalog"), before + 1);
    assert_eq!(stage.models().unwrap().len(), 1);
    stage.servers.set("one", Some(&["llama3", "qwen3:8b"]));
    eventually("what comes after", || stage.models().unwrap().len() == 2).await;
}
