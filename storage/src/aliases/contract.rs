//! What every database owes the port of aliases.

use super::Alias;
use crate::{
    Error, Storage,
    testing::{contract, model, tenant},
};

contract! {
    an_alias_replaces_the_one_of_its_name,
    a_tenant_has_its_own_and_takes_them_along,
    what_is_not_there_is_not_removed,
}

fn alias(name: &str, targets: &[&str]) -> Alias {
    let targets = targets.iter().map(|name| model(name)).collect();
    Alias { tenant: None, name: model(name), targets }
}

async fn an_alias_replaces_the_one_of_its_name(storage: &Storage) {
    storage.aliases.put(alias("gpt-4o-mini", &["llama3.2"])).await.unwrap();
    storage.aliases.put(alias("a", &["z", "b", "c"])).await.unwrap();
    let other = alias("gpt-4o-mini", &["qwen3:8b", "llama3.2"]);
    storage.aliases.put(other.clone()).await.unwrap();
    let all = storage.aliases.list().await.unwrap();
    assert_eq!(all, [alias("a", &["z", "b", "c"]), other]);
}

async fn a_tenant_has_its_own_and_takes_them_along(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let own = Alias { tenant: Some(owner.id), ..alias("a", &["b"]) };
    storage.aliases.put(own.clone()).await.unwrap();
    storage.aliases.put(alias("a", &["c"])).await.unwrap();
    assert_eq!(storage.aliases.list().await.unwrap(), [alias("a", &["c"]), own]);
    storage.tenants.delete(owner.id).await.unwrap();
    assert_eq!(storage.aliases.list().await.unwrap(), [alias("a", &["c"])]);
}

async fn what_is_not_there_is_not_removed(storage: &Storage) {
    storage.aliases.put(alias("a", &["b"])).await.unwrap();
    storage.aliases.remove(None, &model("a")).await.unwrap();
    assert_eq!(storage.aliases.list().await.unwrap(), []);
    let again = storage.aliases.remove(None, &model("a")).await;
    assert!(matches!(again, Err(Error::NotFound("alias"))));
}
