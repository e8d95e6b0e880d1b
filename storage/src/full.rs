//! A disk that is full and has room again: every way to write recovers by itself, and nothing is lost.

use sqlx::{AssertSqlSafe, Sqlite as Driver};

use crate::{
    Error, Storage,
    audit::AuditQuery,
    budgets::Owner,
    ledger::{LedgerBy, LedgerQuery},
    limits::Correction,
    pool::Pool,
    prompts::Prompt,
    revocations::Revocation,
    scratch::SmallDisk,
    sqlite::Sqlite,
    tenants::TenantChange,
    testing::{config, key, new_key, new_tenant, noon, paid, tenant},
    upstreams::{Upstream, UpstreamKind},
};

/// Pages that a database without a disk of its own may grow by.
const PAGES_LEFT: i64 = 8;

/// What makes SQLite say that there is no room.
enum Room {
    /// A file system of its own. SQLite takes the transaction back by itself.
    Disk(SmallDisk),
    /// A limit on the writer's connection. SQLite says the same, and takes one statement back.
    Pages(Pool<Driver>),
    /// Triggers that take the transaction back, as a full disk does: where none can be mounted.
    Triggers(Pool<Driver>),
}

impl Room {
    async fn fill(&self) {
        match self {
            Self::Disk(disk) => disk.fill(),
            Self::Pages(writer) => {
                let pages: i64 =
                    sqlx::query_scalar("PRAGMA page_count").fetch_one(writer).await.unwrap();
                run(writer, format!("PRAGMA max_page_count = {}", pages + PAGES_LEFT)).await;
            }
            Self::Triggers(writer) => {
                for table in TABLES {
                    let trigger = format!(
                        "CREATE TRIGGER full_{table} BEFORE INSERT ON {table}
                         BEGIN SELECT RAISE (ROLLBACK, 'full'); END"
                    );
                    run(writer, trigger).await;
                }
            }
        }
    }

    async fn free(&self) {
        match self {
            Self::Disk(disk) => disk.free(),
            Self::Pages(writer) => run(writer, "PRAGMA max_page_count = 1000000".to_owned()).await,
            Self::Triggers(writer) => {
                for table in TABLES {
                    run(writer, format!("DROP TRIGGER full_{table}")).await;
                }
            }
        }
    }

    /// Whether that is what it made SQLite say.
    fn said(&self, error: &Error) -> bool {
        matches!(self, Self::Triggers(_)) || matches!(error, Error::Unavailable(_))
    }
}

const TABLES: [&str; 6] =
    ["tenants", "keys", "prompt_logs", "upstreams", "revocations", "audit_events"];

async fn run(writer: &Pool<Driver>, statement: String) {
    sqlx::query(AssertSqlSafe(statement)).execute(writer).await.unwrap();
}

/// Runs a test in a place of its own, where there can be no room: on a disk where one can be mounted, and
/// with what stands in for it otherwise.
async fn on_little_room(
    may_mount: bool,
    otherwise: fn(Pool<Driver>) -> Room,
    test: impl AsyncFnOnce(&Storage, &Room),
) {
    let directory = tempfile::tempdir().unwrap();
    let disk = if may_mount { SmallDisk::mount(directory.path(), 4) } else { None };
    let url = format!("sqlite:{}", directory.path().join("gateway.db").display());
    let sqlite = Sqlite::open(&config(&url)).await.unwrap();
    let room = disk.map_or_else(|| otherwise(sqlite.writer.clone()), Room::Disk);
    let storage = Storage::on(sqlite);
    storage.database.migrate().await.unwrap();
    test(&storage, &room).await;
    storage.database.close().await;
}

/// How many events are stored, and how many are counted.
async fn stored(storage: &Storage) -> (u64, u64) {
    let all = AuditQuery { limit: 1_000_000, ..AuditQuery::default() };
    let events = storage.audit.query(all).await.unwrap().len() as u64;
    let query = LedgerQuery { by: LedgerBy::Tenant, tenant: None, key: None, since: None };
    let sums = storage.ledger.sums(query).await.unwrap();
    (events, sums.iter().map(|sum| sum.requests).sum())
}

/// Every way to write, once; says what each came to.
async fn write_all(storage: &Storage, round: u64) -> Vec<crate::Result<()>> {
    let name = |what: &str| format!("{what} {round}");
    let owner = storage.tenants.by_name("acme").await.unwrap().unwrap();
    let used = storage.keys.by_prefix("abc").await.unwrap().unwrap();
    let rename = TenantChange { suspended: Some(false), ..TenantChange::default() };
    let gone = storage.keys.by_prefix("gone").await.unwrap().unwrap();
    let revocation = Revocation { key: gone.id, at: noon(), reason: name("gone"), cut: round > 0 };
    let prompt = Prompt {
        request: protocol::id::RequestId(uuid::Uuid::from_u128(round.into())),
        key: used.id,
        at: noon(),
        expires_at: noon(),
        encrypted: false,
        body: vec![7; 20_000],
        cut_from: None,
    };
    let upstream = Upstream {
        name: name("upstream"),
        url: "http://a".to_owned(),
        kind: UpstreamKind::Ollama,
        slots: None,
        keep_alive: true,
        created_at: noon(),
    };
    let correction = Correction { forgiven: round, reset_at: None, read_at: Some(noon()) };
    vec![
        storage.tenants.create(new_tenant(&name("tenant"))).await.map(drop),
        storage.tenants.change(owner.id, rename).await.map(drop),
        storage.keys.create(new_key(owner.id, &name("key"))).await.map(drop),
        storage
            .keys
            .rotate(used.id, new_key(owner.id, &name("rotated")), noon(), None)
            .await
            .map(drop),
        storage.prompts.add(&[prompt]).await,
        storage.prompts.forget_expired(noon(), 10).await.map(drop),
        storage.upstreams.add(upstream).await,
        storage.budgets.correct(Owner::Tenant(owner.id), correction, None).await,
        storage.audit.append(&[paid(round.into(), noon(), owner.id, used.id)]).await,
        storage.audit.forget_before(noon()).await.map(drop),
        storage.revocations.revoke(revocation).await,
        storage.database.migrate().await.map(drop),
    ]
}

async fn what_waited_is_stored_when_there_is_room_again(storage: &Storage, room: &Room) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "abc").await;
    let batch = |number: u64| {
        let numbers = number * 500..(number + 1) * 500;
        let numbers = numbers.map(|number| 1_000 + u128::from(number));
        numbers.map(|number| paid(number, noon(), owner.id, used.id)).collect::<Vec<_>>()
    };
    let mut batches = 0;
    for round in 0..2 {
        room.fill().await;
        let failed = loop {
            match storage.audit.append(&batch(batches)).await {
                Ok(()) => batches += 1,
                Err(error) => break error,
            }
        };
        assert!(room.said(&failed), "{failed:?}");
        assert!(storage.keys.credential("abc").await.unwrap().is_some(), "who reads is not harmed");
        assert_eq!(stored(storage).await, (batches * 500, batches * 500));
        room.free().await;
        storage.audit.append(&batch(batches)).await.unwrap();
        batches += 1;
        assert_eq!(stored(storage).await, (batches * 500, batches * 500), "round {round}");
    }
}

async fn every_way_to_write_recovers(storage: &Storage, room: &Room) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "abc").await;
    key(storage, &owner, "gone").await;
    storage.audit.append(&[paid(1, noon(), owner.id, used.id)]).await.unwrap();
    room.fill().await;
    // So that not even what is small has room.
    let mut number = 1_000;
    let large = |number: u128| {
        let numbers = number..number + 500;
        numbers.map(|number| paid(number, noon(), owner.id, used.id)).collect::<Vec<_>>()
    };
    while storage.audit.append(&large(number)).await.is_ok() {
        number += 500;
    }
    for (which, done) in write_all(storage, 2).await.into_iter().enumerate() {
        assert!(done.as_ref().err().is_none_or(|error| room.said(error)), "{which}: {done:?}");
    }
    room.free().await;
    for (which, done) in write_all(storage, 3).await.into_iter().enumerate() {
        assert!(done.is_ok(), "{which}: {done:?}");
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost() {
    let test = what_waited_is_stored_when_there_is_room_again;
    on_little_room(true, Room::Triggers, test).await;
}

#[tokio::test]
async fn on_a_full_disk_every_way_to_write_recovers() {
    on_little_room(true, Room::Triggers, every_way_to_write_recovers).await;
}

#[tokio::test]
async fn what_is_taken_back_by_itself_is_not_lost() {
    let test = what_waited_is_stored_when_there_is_room_again;
    on_little_room(false, Room::Triggers, test).await;
    on_little_room(false, Room::Triggers, every_way_to_write_recovers).await;
}

#[tokio::test]
async fn at_a_limit_of_pages_nothing_is_lost() {
    let test = what_waited_is_stored_when_there_is_room_again;
    on_little_room(false, Room::Pages, test).await;
    on_little_room(false, Room::Pages, every_way_to_write_recovers).await;
}

#[tokio::test]
async fn what_is_in_memory_outlasts_the_connection_on_which_something_failed() {
    let storage = crate::open(config("sqlite::memory:")).await.unwrap();
    storage.database.migrate().await.unwrap();
    let owner = tenant(&storage, "acme").await;
    for _ in 0..3 {
        let again = storage.tenants.create(new_tenant("acme")).await;
        assert!(matches!(again, Err(Error::Conflict("tenant"))), "{again:?}");
        assert_eq!(storage.tenants.list().await.unwrap(), std::slice::from_ref(&owner));
    }
}
