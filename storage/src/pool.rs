//! Connections, and the deadline of every call.
//!
//! Every statement goes through [`Pool`] (alone) or [`Transaction`] (with others), which bound how long the
//! caller waits: for a connection, for the server, for a lock. A connection goes back to the pool only after
//! its statement, or its transaction, has succeeded. After an error, after a deadline, and where the caller
//! is dropped in the middle, nobody knows the state of the connection: it is closed and the next caller
//! opens another one. That is what makes a full disk harmless: SQLite rolls a transaction back by itself,
//! and what the driver believes of it no longer matters.
//!
//! sqlx's own pool has no deadline on a statement, and tries each connection that comes back without one: a
//! server that falls silent keeps its places until TCP gives up.

use parking_lot::{Mutex, MutexGuard};
use std::{fmt, io, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    ConnectOptions as _, Connection, Database, Describe, Either, Execute, Executor, SqlStr,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long a connection that stood unused may take to answer whether it still works.
const PING_WITHIN: Duration = Duration::from_millis(500);
/// From one attempt to connect to the next, where the server says "not now".
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
/// How long the pool waits for connections in use, and for the farewell of each, when it closes.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How long callers wait for the database, a wait for a connection included.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a look-up and for a change of a few rows.
    pub lookup: Duration,
    /// For what is long: a batch of audit events or prompts, a report, retention.
    pub batch: Duration,
}

/// How a pool behaves.
pub(crate) struct Settings {
    /// Connections at most, at least 1.
    pub(crate) connections_max: u32,
    /// How long a caller waits for a connection.
    pub(crate) acquire_timeout: Duration,
    /// The statement that begins a transaction.
    pub(crate) begin: &'static str,
    /// When connections grow old; none: never, as with a file.
    pub(crate) aging: Option<Aging>,
}

/// When a connection to a server grows old.
#[derive(Clone, Copy)]
pub(crate) struct Aging {
    /// After so long unused it is tried before it is used.
    pub(crate) try_after: Duration,
    /// After so long unused it is closed.
    pub(crate) idle_max: Duration,
    /// After so long it is closed when it comes back.
    pub(crate) life_max: Duration,
}

/// Connections to one database, and a deadline for what is done with them. A clone shares them.
pub(crate) struct Pool<DB: Database> {
    shared: Arc<Shared<DB>>,
    deadline: Duration,
}

struct Shared<DB: Database> {
    options: <DB::Connection as Connection>::Options,
    settings: Settings,
    /// A place for each connection that may be open.
    places: Arc<Semaphore>,
    /// Open and not in use; the one that was used last stands last.
    idle: Mutex<Vec<Open<DB>>>,
}

struct Open<DB: Database> {
    connection: DB::Connection,
    opened_at: Instant,
    used_at: Instant,
}

/// A connection in use. Dropped, it is closed.
pub(crate) struct Lease<DB: Database> {
    open: Open<DB>,
    shared: Arc<Shared<DB>>,
    /// Last, so that the connection is gone before another one may be opened.
    _place: OwnedSemaphorePermit,
}

/// Several statements that happen together or not at all, under one deadline. Dropped before it is
/// committed, its connection is closed, which takes everything back.
pub(crate) struct Transaction<DB: Database> {
    lease: Lease<DB>,
    bounds: Bounds,
}

/// What bounds the steps of a transaction.
struct Bounds {
    deadline: Instant,
    /// A step failed or was left in the middle: there is nothing to commit. On Postgres a commit would take
    /// everything back and say that it had succeeded.
    broken: bool,
}

type Step<DB> = Either<<DB as Database>::QueryResult, <DB as Database>::Row>;

/// One statement on a connection of its own, under the pool's deadline.
macro_rules! alone {
    ($pool:ident, $connection:ident => $statement:expr) => {
        $pool.bounded(async move {
            let mut lease = $pool.acquire().await?;
            let $connection = lease.connection();
            let done = $statement.await?;
            lease.give_back();
            Ok(done)
        })
    };
}

// === impl Deadlines ===

impl Default for Deadlines {
    fn default() -> Self {
        Self { lookup: Duration::from_secs(5), batch: Duration::from_secs(30) }
    }
}

// === impl Pool ===

impl<DB: Database> Pool<DB> {
    /// A pool that has opened nothing yet.
    pub(crate) fn new(
        options: <DB::Connection as Connection>::Options,
        settings: Settings,
        deadline: Duration,
    ) -> Self {
        let places = Arc::new(Semaphore::new(settings.connections_max.max(1) as usize));
        let idle = Mutex::default();
        Self { shared: Arc::new(Shared { options, settings, places, idle }), deadline }
    }

    /// The same connections under another deadline.
    pub(crate) fn within(&self, deadline: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), deadline }
    }

    /// The deadline, around what takes several steps.
    pub(crate) async fn bounded<T>(
        &self,
        call: impl Future<Output = sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        timeout(self.deadline, call).await.unwrap_or_else(|_| Err(out_of_time()))
    }

    /// A connection. What is done with it has no deadline of its own: see [`Pool::bounded`].
    pub(crate) async fn acquire(&self) -> sqlx::Result<Lease<DB>> {
        let patience = self.shared.settings.acquire_timeout.min(self.deadline);
        let leased = timeout(patience, self.shared.lease()).await;
        let (open, place) = leased.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(Lease { open, shared: Arc::clone(&self.shared), _place: place })
    }

    /// Waits for connections in use, closes all, and opens none any more.
    pub(crate) async fn close(&self) {
        let shared = &self.shared;
        let all = shared.settings.connections_max.max(1);
        // Held until the end of this function, where there is no place any more.
        let _places = timeout(CLOSE_WITHIN, shared.places.acquire_many(all)).await;
        shared.places.close();
        let idle = std::mem::take(&mut *shared.idle());
        for open in idle {
            // Where the farewell fails or takes too long, the connection is dropped all the same.
            let _ = timeout(CLOSE_WITHIN, open.connection.close()).await;
        }
    }
}

impl<DB: Database> Pool<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Begins a transaction. Its deadline begins now.
    pub(crate) async fn begin(&self) -> sqlx::Result<Transaction<DB>> {
        let bounds = Bounds { deadline: Instant::now() + self.deadline, broken: false };
        let mut transaction = Transaction { lease: self.acquire().await?, bounds };
        let begin = self.shared.settings.begin;
        (&mut transaction).execute(begin).await?;
        Ok(transaction)
    }
}

impl<'p, DB: Database> Executor<'p> for &'p Pool<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    type Database = DB;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step<DB>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, DB>,
    {
        one_by_one(alone!(self, connection => connection.fetch_many(query).try_collect::<Vec<_>>()))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<DB::Row>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, DB>,
    {
        alone!(self, connection => connection.fetch_optional(query)).boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<DB::Statement>>
    where
        'p: 'e,
    {
        alone!(self, connection => connection.prepare_with(sql, parameters)).boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<DB>>>
    where
        'p: 'e,
    {
        alone!(self, connection => connection.describe(sql)).boxed()
    }
}

impl<DB: Database> Clone for Pool<DB> {
    fn clone(&self) -> Self {
        self.within(self.deadline)
    }
}

impl<DB: Database> fmt::Debug for Pool<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<DB: Database> Shared<DB> {
    fn idle(&self) -> MutexGuard<'_, Vec<Open<DB>>> {
        self.idle.lock()
    }

    async fn lease(&self) -> sqlx::Result<(Open<DB>, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| sqlx::Error::PoolClosed)?;
        let open = match self.take_idle().await {
            Some(open) => open,
            None => self.connect().await?,
        };
        Ok((open, place))
    }

    async fn take_idle(&self) -> Option<Open<DB>> {
        loop {
            let mut open = self.idle().pop()?;
            let Some(aging) = self.settings.aging else { return Some(open) };
            if open.is_old(aging) {
                continue;
            }
            if open.used_at.elapsed() <= aging.try_after {
                return Some(open);
            }
            if let Ok(Ok(())) = timeout(PING_WITHIN, open.connection.ping()).await {
                return Some(open);
            }
            // The others have stood unused for even longer.
            self.idle().clear();
        }
    }

    /// Connects, again and again where the server is just starting. The caller has the deadline.
    async fn connect(&self) -> sqlx::Result<Open<DB>> {
        loop {
            match self.options.connect().await {
                Ok(connection) => {
                    let now = Instant::now();
                    return Ok(Open { connection, opened_at: now, used_at: now });
                }
                Err(error) if is_starting(&error) => sleep(CONNECT_AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }
}

// === impl Open ===

impl<DB: Database> Open<DB> {
    fn is_old(&self, aging: Aging) -> bool {
        self.used_at.elapsed() > aging.idle_max || self.opened_at.elapsed() > aging.life_max
    }
}

// === impl Lease ===

impl<DB: Database> Lease<DB> {
    /// The connection is as it was: the next caller may have it.
    pub(crate) fn give_back(self) {
        let Self { mut open, shared, _place } = self;
        if shared.places.is_closed() {
            return;
        }
        open.used_at = Instant::now();
        let mut idle = shared.idle();
        if let Some(aging) = shared.settings.aging {
            idle.retain(|open| !open.is_old(aging));
        }
        idle.push(open);
    }

    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.open.connection
    }
}

// === impl Transaction ===

impl<DB: Database> Transaction<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Makes it last.
    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    /// Takes it back and keeps the connection: for what failed by our own rules.
    pub(crate) async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, how: &'static str) -> sqlx::Result<()> {
        (&mut self).execute(how).await?;
        self.lease.give_back();
        Ok(())
    }

    fn split(&mut self) -> (&mut DB::Connection, &mut Bounds) {
        (&mut self.lease.open.connection, &mut self.bounds)
    }
}

// === impl Bounds ===

impl Bounds {
    /// Does one step. The transaction is broken until the step has succeeded, also where this is dropped.
    async fn step<T>(&mut self, step: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        if std::mem::replace(&mut self.broken, true) {
            let text = "a statement of this transaction has failed";
            return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::BrokenPipe, text)));
        }
        let done = timeout_at(self.deadline, step).await.unwrap_or_else(|_| Err(out_of_time()))?;
        self.broken = false;
        Ok(done)
    }
}

impl<'t, DB: Database> Executor<'t> for &'t mut Transaction<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    type Database = DB;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step<DB>>>
    where
        't: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let (connection, bounds) = self.split();
        one_by_one(bounds.step(connection.fetch_many(query).try_collect::<Vec<_>>()))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<DB::Row>>>
    where
        't: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let (connection, bounds) = self.split();
        bounds.step(connection.fetch_optional(query)).boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<DB::Statement>>
    where
        't: 'e,
    {
        let (connection, bounds) = self.split();
        bounds.step(connection.prepare_with(sql, parameters)).boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<DB>>>
    where
        't: 'e,
    {
        let (connection, bounds) = self.split();
        bounds.step(connection.describe(sql)).boxed()
    }
}

impl<DB: Database> fmt::Debug for Transaction<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("broken", &self.bounds.broken).finish_non_exhaustive()
    }
}

/// What a statement said, when all of it is there: then its connection is free, whoever reads on.
fn one_by_one<'e, T: Send + 'e>(
    steps: impl Future<Output = sqlx::Result<Vec<T>>> + Send + 'e,
) -> BoxStream<'e, sqlx::Result<T>> {
    let steps = stream::once(steps).map_ok(|steps| stream::iter(steps.into_iter().map(Ok)));
    steps.try_flatten().boxed()
}

fn out_of_time() -> sqlx::Error {
    let text = "the database did not answer in time";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// Whether a server that refuses to be connected to may let us in a moment later.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(cause) => cause.kind() == io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(cause) => cause.is_transient_in_connect_phase(),
        _ => false,
    }
}
