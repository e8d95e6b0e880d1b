//! `neuronetz audit …`

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use protocol::id::{KeyId, RequestId, TenantId};
use serde::Serialize;
use storage::{
    Storage,
    audit::{AuditEvent, AuditQuery},
};

use super::{
    arguments::{self, Moment},
    failure::Failure,
    output::{Out, Row, date},
};
use crate::party::Party;

/// How often `tail` looks for events.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An event bears the time at which its request began: `tail` looks so far back for those that have
/// ended only now.
const LOOK_BACK: Duration = Duration::from_secs(2 * 3600);
/// Events that `tail` reads at once.
const LOOK_MAX: u32 = 10_000;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Prints events, newest first.
    Query {
        #[command(flatten)]
        filter: Filter,
        /// Only those at or after: a moment, or so long ago, as 24h.
        #[arg(long, value_parser = Moment::parse)]
        since: Option<Moment>,
        /// Only those before: a moment, or so long ago.
        #[arg(long, value_parser = Moment::parse)]
        until: Option<Moment>,
        /// So many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Prints the last events, and new ones as they are stored, until Ctrl-C.
    Tail {
        #[command(flatten)]
        filter: Filter,
        /// So many of the last ones first.
        #[arg(long, default_value_t = 10)]
        lines: u32,
        /// Print the last ones and end.
        #[arg(long)]
        no_follow: bool,
    },
}

#[derive(Args)]
pub(super) struct Filter {
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this key's, by its id or its prefix.
    #[arg(long)]
    key: Option<String>,
}

#[derive(Serialize)]
struct View {
    request_id: RequestId,
    at: Timestamp,
    tenant: Option<String>,
    tenant_id: Option<TenantId>,
    key: Option<String>,
    key_id: Option<KeyId>,
    model: Option<String>,
    upstream: Option<String>,
    route: &'static str,
    status: u16,
    outcome: &'static str,
    code: Option<&'static str>,
    prompt_tokens: u64,
    completion_tokens: u64,
    estimated: bool,
    first_byte_ms: Option<f64>,
    total_ms: f64,
    /// How many requests alike the event stands for; the rest is told of the first of them.
    requests: u32,
}

/// What ids are called.
struct Names {
    tenants: HashMap<TenantId, String>,
    keys: HashMap<KeyId, String>,
}

pub(super) async fn run(
    storage: &Storage,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    match command {
        Command::Query { filter, since, until, limit } => {
            let mut query = filter.query(storage).await?;
            query.since = since.map(Moment::ago);
            query.until = until.map(Moment::ago);
            query.limit = limit;
            let names = Names::read(storage).await?;
            let events = storage.audit.query(query).await?;
            let views: Vec<_> = events.into_iter().map(|event| names.view(event)).collect();
            Ok(out.rows(&views, "No events.")?)
        }
        Command::Tail { filter, lines, no_follow } => {
            let query = filter.query(storage).await?;
            tokio::select! {
                ended = tail(storage, query, lines, !no_follow, out) => ended,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        }
    }
}

async fn tail(
    storage: &Storage,
    mut query: AuditQuery,
    lines: u32,
    follow: bool,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    query.limit = lines.max(1);
    let mut events = storage.audit.query(query.clone()).await?;
    // One line a request, as they come: a table would have to know them all.
    let mut seen = HashSet::new();
    // What was there before is known, though only its end is shown.
    query.limit = LOOK_MAX;
    query.since = Some(Moment::Away(LOOK_BACK).ago());
    if follow {
        let before = storage.audit.query(query.clone()).await?;
        seen.extend(before.iter().map(|event| event.request));
    }
    events.truncate(lines as usize);
    loop {
        let names = Names::read(storage).await?;
        for event in events.into_iter().rev() {
            seen.insert(event.request);
            let view = names.view(event);
            if out.is_json() {
                out.value(&view)?;
            } else {
                out.text(&view.line())?;
            };
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        query.since = Some(Moment::Away(LOOK_BACK).ago());
        let found = storage.audit.query(query.clone()).await?;
        let still: HashSet<_> = found.iter().map(|event| event.request).collect();
        events = found.into_iter().filter(|event| !seen.contains(&event.request)).collect();
        seen.retain(|request| still.contains(request));
    }
}

// === impl Filter ===

impl Filter {
    async fn query(&self, storage: &Storage) -> Result<AuditQuery, Failure> {
        let key = match &self.key {
            Some(named) => Some(Party::key(storage, named).await?),
            None => None,
        };
        let tenant = arguments::tenant_id(storage, self.tenant.as_deref()).await?;
        // Events are found by their tenant.
        let tenant = tenant.or(key.as_ref().map(|key| key.tenant));
        Ok(AuditQuery { tenant, key: key.map(|key| key.id), ..AuditQuery::default() })
    }
}

// === impl Names ===

impl Names {
    async fn read(storage: &Storage) -> Result<Self, Failure> {
        let tenants = storage.tenants.list().await?;
        let keys = storage.keys.list(None).await?;
        Ok(Self {
            tenants: tenants.into_iter().map(|tenant| (tenant.id, tenant.name)).collect(),
            keys: keys.into_iter().map(|key| (key.id, key.prefix)).collect(),
        })
    }

    fn view(&self, event: AuditEvent) -> View {
        let ms = |span: Duration| (span.as_secs_f64() * 1e6).round() / 1e3;
        View {
            request_id: event.request,
            at: event.at,
            tenant: event.tenant.and_then(|id| self.tenants.get(&id).cloned()),
            tenant_id: event.tenant,
            key: event.key.and_then(|id| self.keys.get(&id).cloned()),
            key_id: event.key,
            model: event.model.map(|model| model.as_str().to_owned()),
            upstream: event.upstream,
            route: event.route.as_str(),
            status: event.status,
            outcome: event.outcome.as_str(),
            code: event.code.map(protocol::error::Code::as_str),
            prompt_tokens: event.usage.prompt,
            completion_tokens: event.usage.completion,
            estimated: event.usage.estimated,
            first_byte_ms: event.first_byte.map(ms),
            total_ms: ms(event.total),
            requests: event.requests,
        }
    }
}

// === impl View ===

impl View {
    /// How it ended, and how often where that was more than once.
    fn ended(&self) -> String {
        let ended = self.code.unwrap_or(self.outcome);
        match self.requests {
            1 => ended.to_owned(),
            many => format!("{ended} x{many}"),
        }
    }

    fn line(&self) -> String {
        let mut cells = self.cells();
        let widths = [20, 12, 24, 18, 6, 15, 8, 8];
        for (cell, width) in cells.iter_mut().zip(widths) {
            *cell = format!("{cell:width$}");
        }
        format!("{}\n", cells.join(" ").trim_end())
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] = &[
        "AT",
        "TENANT",
        "MODEL",
        "ROUTE",
        "STATUS",
        "OUTCOME",
        "PROMPT",
        "REPLY",
        "FIRST BYTE",
        "TOTAL",
        "REQUEST",
    ];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let about = if self.estimated { "~" } else { "" };
        vec![
            date(self.at),
            or_dash(&self.tenant),
            or_dash(&self.model),
            self.route.to_owned(),
            self.status.to_string(),
            self.ended(),
            format!("{about}{}", self.prompt_tokens),
            format!("{about}{}", self.completion_tokens),
            self.first_byte_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
            format!("{:.1} ms", self.total_ms),
            self.request_id.to_string(),
        ]
    }
}
