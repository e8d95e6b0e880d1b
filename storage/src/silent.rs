//! A database that falls silent, or is locked: nobody waits beyond the deadline, and all is well when it is back.

use std::time::Duration;

use futures_util::future::join_all;
use protocol::secret::Secret;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, postgres::PgConnectOptions};
use tokio::time::{Instant, timeout};

use crate::{
    Config, Deadlines, Error, Storage,
    scratch::{Scratch, SlowWay},
    testing::{self, event, key, new_tenant, noon, on_sqlite, server, tenant},
};

const LOOKUP: Duration = Duration::from_millis(400);
const BATCH: Duration = Duration::from_millis(800);
/// What a busy machine may need on top of a deadline.
const GRACE: Duration = Duration::from_secs(3);

fn hasty(url: &str) -> Config {
    let deadlines = Deadlines { lookup: LOOKUP, batch: BATCH };
    let url = Secret::new(url.to_owned());
    Config { url, connections_max: 2, acquire_timeout: Duration::from_millis(200), deadlines }
}

/// A database on Postgres with a way to it, and what is opened over that way.
async fn stage() -> (Scratch, SlowWay, Storage) {
    let scratch = Scratch::on(&server()).await.unwrap();
    let (way, url) = scratch.by_way().await;
    let storage = crate::open(testing::config(&scratch.url)).await.unwrap();
    storage.database.migrate().await.unwrap();
    let owner = tenant(&storage, "acme").await;
    key(&storage, &owner, "abc").await;
    (scratch, way, crate::open(hasty(&url)).await.unwrap())
}

/// Every kind of call, at once and more often than there are connections; all must end in time.
async fn all_fail(storage: &Storage) {
    let begun = Instant::now();
    let lookups = (0..6).map(async |_| storage.keys.credential("abc").await.map(drop));
    let changes = (0..2).map(async |number| {
        storage.tenants.create(new_tenant(&format!("silent {number}"))).await.map(drop)
    });
    let appends = (0..2).map(async |number| storage.audit.append(&[event(number, noon())]).await);
    let pings = (0..2).map(async |_| storage.database.ping().await);
    let feeds = (0..1).map(async |_| storage.changes.feed().await.map(drop));
    let all = async {
        let (one, two) = (join_all(lookups), join_all(changes));
        let (three, four, five) = (join_all(appends), join_all(pings), join_all(feeds));
        let (one, two, three, four, five) = tokio::join!(one, two, three, four, five);
        [one, two, three, four, five].into_iter().flatten().collect::<Vec<_>>()
    };
    let done = timeout(BATCH + GRACE, all).await.expect("somebody waits beyond the deadline");
    for result in done {
        assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    }
    assert!(begun.elapsed() < BATCH + GRACE);
}

/// Every kind of call succeeds again, as often as there are connections and more.
async fn all_succeed(storage: &Storage, round: u32) {
    // What is under way may still end in an error; nobody is told that the server is back.
    let begun = Instant::now();
    while storage.keys.credential("abc").await.is_err() {
        assert!(begun.elapsed() < GRACE, "it does not come back");
    }
    let lookups = (0..6).map(async |_| storage.keys.credential("abc").await.unwrap().unwrap());
    join_all(lookups).await;
    storage.tenants.create(new_tenant(&format!("round {round}"))).await.unwrap();
    let number = 100 + u128::from(round);
    storage.audit.append(&[event(number, noon())]).await.unwrap();
    storage.database.ping().await.unwrap();
}

#[tokio::test]
async fn a_postgres_that_is_silent_from_the_beginning_holds_nobody() {
    let (_scratch, way, storage) = stage().await;
    way.delay(None);
    all_fail(&storage).await;
    way.delay(Some(Duration::ZERO));
    all_succeed(&storage, 0).await;
}

#[tokio::test]
async fn a_postgres_that_falls_silent_holds_nobody_and_is_found_again() {
    let (_scratch, way, storage) = stage().await;
    for round in 0..3 {
        all_succeed(&storage, round).await;
        way.delay(None);
        all_fail(&storage).await;
        all_fail(&storage).await;
        way.delay(Some(Duration::ZERO));
    }
    all_succeed(&storage, 3).await;
}

#[tokio::test]
async fn a_postgres_that_falls_silent_in_a_query_holds_nobody() {
    let (scratch, way, storage) = stage().await;
    all_succeed(&storage, 0).await;
    let mut other = scratch.url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    other
        .execute("BEGIN; LOCK TABLE gateway.keys, gateway.tenants, gateway.audit_events")
        .await
        .unwrap();
    // The queries are at the server and wait there; then it falls silent.
    let silence = async {
        while waiting(&scratch).await < 2 {}
        way.delay(None);
        other.execute("ROLLBACK").await.unwrap();
    };
    let lookups = join_all((0..6).map(async |_| storage.keys.credential("abc").await.map(drop)));
    let (done, ()) = tokio::join!(timeout(LOOKUP + GRACE, lookups), silence);
    for result in done.expect("somebody waits beyond the deadline") {
        assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    }
    way.delay(Some(Duration::ZERO));
    all_succeed(&storage, 1).await;
}

/// How many connections wait for a lock.
async fn waiting(scratch: &Scratch) -> i64 {
    let mut connection = sqlx::PgConnection::connect(&scratch.url).await.unwrap();
    let waiting = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks WHERE NOT granted
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    let waiting = waiting.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    waiting
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_leaves_nothing_behind() {
    let (scratch, _way, storage) = stage().await;
    let patient = crate::open(testing::config(&scratch.url)).await.unwrap();
    for round in 0..8 {
        let mut other = scratch.url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
        other.execute("BEGIN; LOCK TABLE gateway.tenants").await.unwrap();
        let name = format!("left {round}");
        let left = timeout(Duration::from_millis(50), patient.tenants.create(new_tenant(&name)));
        assert!(left.await.is_err());
        other.execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(
        patient.tenants.list().await.unwrap().len(),
        1,
        "a transaction was only half dropped"
    );
    all_succeed(&storage, 0).await;
}

#[tokio::test]
async fn a_locked_sqlite_holds_nobody() {
    on_sqlite(async |place| {
        let owner = tenant(&place.migrated().await, "acme").await;
        let storage = crate::open(hasty(&place.url)).await.unwrap();
        key(&storage, &owner, "abc").await;
        let options: sqlx::sqlite::SqliteConnectOptions = place.url.parse().unwrap();
        let mut other = options.connect().await.unwrap();
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        let begun = Instant::now();
        let changes = (0..4).map(async |number| {
            storage.tenants.create(new_tenant(&format!("locked {number}"))).await.map(drop)
        });
        let appends = (0..4).map(async |_| storage.audit.append(&[event(1, noon())]).await);
        let (changes, appends) = tokio::join!(join_all(changes), join_all(appends));
        for result in changes.into_iter().chain(appends) {
            assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
        }
        assert!(begun.elapsed() < BATCH + GRACE, "{:?}", begun.elapsed());
        other.execute("ROLLBACK").await.unwrap();
        storage.audit.append(&[event(1, noon())]).await.unwrap();
        storage.tenants.create(new_tenant("free")).await.unwrap();
    })
    .await;
}
