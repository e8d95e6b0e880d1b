//! `neuronetz top`: every limit, slot, queue and breaker, live in the terminal.

use std::{io::IsTerminal as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use protocol::sse::Events;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::{Line, Text},
    widgets::{Block, Cell, Row as Cells, Table, TableState},
};
use tokio::{net::TcpStream, sync::mpsc, task::spawn_blocking, time::timeout};

use super::{failure::Failure, output::Out, setup::admin_address};
use crate::{
    admin::actors::{GaugeState, KindState, LimitsState, Snapshot},
    config::Config,
};

/// How long the gateway may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often keys are looked for.
const KEYS_EVERY: Duration = Duration::from_millis(100);
/// Below this share of what there is a limit is shown as near its end.
const NEAR_PERCENT: u64 = 20;

#[derive(Args)]
pub(super) struct Arguments {
    /// Where the admin listener is. Default: as this configuration says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Only this tenant, by its name or its id.
    #[arg(long)]
    tenant: Option<String>,
}

/// What is shown.
#[derive(Default)]
struct Screen {
    snapshot: Option<Snapshot>,
    selected: TableState,
}

/// What comes from the keyboard.
enum Key {
    Up,
    Down,
    Quit,
}

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let address = arguments.admin.unwrap_or_else(|| admin_address(config));
    let mut events = Feed::open(config, address, arguments.tenant.as_deref()).await?;
    if out.is_json() {
        return Ok(out.value(&events.next().await?)?);
    }
    if !std::io::stdout().is_terminal() {
        let what = "top needs a terminal; --json prints how it is once";
        return Err(Failure::Usage(what.to_owned()));
    }
    let mut terminal = ratatui::try_init()?;
    let (sender, mut keys) = mpsc::channel(16);
    // Ends when nobody listens any more: it looks for that between two looks at the keyboard.
    let reading = spawn_blocking(move || read_keys(&sender));
    let mut screen = Screen::default();
    let ended = loop {
        let drawn = terminal.draw(|frame| screen.draw(frame));
        if let Err(error) = drawn {
            break Err(error.into());
        }
        tokio::select! {
            snapshot = events.next() => match snapshot {
                Ok(snapshot) => screen.snapshot = Some(snapshot),
                Err(failure) => break Err(failure),
            },
            key = keys.recv() => match key {
                Some(Key::Up) => screen.selected.select_previous(),
                Some(Key::Down) => screen.selected.select_next(),
                Some(Key::Quit) | None => break Ok(()),
            },
        }
    };
    keys.close();
    let _ = reading.await;
    ratatui::restore();
    ended
}

fn read_keys(sender: &mpsc::Sender<Key>) {
    while !sender.is_closed() {
        if !event::poll(KEYS_EVERY).unwrap_or(false) {
            continue;
        }
        let Ok(Event::Key(key)) = event::read() else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let ends = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        let key = match key.code {
            _ if ends => Key::Quit,
            KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
            KeyCode::Up | KeyCode::Char('k') => Key::Up,
            KeyCode::Down | KeyCode::Char('j') => Key::Down,
            _ => continue,
        };
        if sender.blocking_send(key).is_err() {
            return;
        }
    }
}

/// What the gateway says, once a second.
struct Feed {
    body: Incoming,
    events: Events,
    driver: tokio::task::JoinHandle<()>,
    address: SocketAddr,
}

// === impl Feed ===

impl Feed {
    async fn open(
        config: &Config,
        address: SocketAddr,
        tenant: Option<&str>,
    ) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Failed(format!("the gateway's admin listener at {address}: {error}"))
        };
        let opened = timeout(ANSWER_TIMEOUT, async {
            let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| failed(&error))?;
            #[expect(clippy::disallowed_methods, reason = "it ends with the command")]
            let driver = tokio::spawn(async move {
                let _ = connection.await;
            });
            let only = tenant.map_or_else(String::new, |named| {
                let named = percent_encoding::utf8_percent_encode(
                    named,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                format!("?tenant={named}")
            });
            let mut request = Request::get(format!("/admin/v1/actors/stream{only}"))
                .header(header::HOST, address.to_string());
            if let Some(token) = &config.admin.token {
                let value = format!("Bearer {}", token.expose());
                request = request.header(header::AUTHORIZATION, value);
            }
            let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            match response.status().as_u16() {
                200 => {}
                401 => return Err(failed(&"it wants a token: set admin.token")),
                404 => {
                    return Err(Failure::NotFound("tenant", tenant.unwrap_or_default().to_owned()));
                }
                status => return Err(failed(&format!("it answers with status {status}"))),
            }
            Ok(Self { body: response.into_body(), events: Events::default(), driver, address })
        });
        opened.await.unwrap_or_else(|_| Err(failed(&"it does not answer in time")))
    }

    /// The next snapshot. Safe to drop.
    async fn next(&mut self) -> Result<Snapshot, Failure> {
        let gone = || Failure::Failed(format!("the gateway at {} has gone", self.address));
        loop {
            while let Ok(Some(event)) = self.events.next_event() {
                if let Ok(snapshot) = serde_json::from_slice(&event.data) {
                    return Ok(snapshot);
                }
            }
            let frame = self.body.frame().await.ok_or_else(gone)?.map_err(|_| gone())?;
            if let Ok(data) = frame.into_data() {
                self.events.push(data);
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

// === impl Screen ===

impl Screen {
    fn draw(&mut self, frame: &mut Frame<'_>) {
        let Some(snapshot) = &self.snapshot else {
            return frame.render_widget(Line::from("waiting for the gateway …"), frame.area());
        };
        let upstreams = u16::try_from(snapshot.upstreams.len()).unwrap_or(u16::MAX).min(8) + 3;
        let [head, servers, tenants, keys, foot] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(upstreams),
            Constraint::Fill(2),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(heading(snapshot), head);
        frame.render_widget(upstreams_table(snapshot), servers);
        let last = snapshot.tenants.len().saturating_sub(1);
        let selected = self.selected.selected().unwrap_or(0).min(last);
        self.selected.select(Some(selected));
        frame.render_stateful_widget(tenants_table(snapshot), tenants, &mut self.selected);
        frame.render_widget(keys_table(snapshot, selected), keys);
        let help = Line::from(" ↑ ↓ choose a tenant   q leave").dim();
        frame.render_widget(help, foot);
    }
}

fn heading(snapshot: &Snapshot) -> Text<'_> {
    let each = |say: &dyn Fn(&KindState) -> Option<String>| {
        let said =
            snapshot.kinds.iter().filter_map(|(kind, of)| Some(format!("{kind} {}", say(of)?)));
        said.collect::<Vec<_>>().join(", ")
    };
    let waiting = each(&|of| Some(of.waiting.to_string()));
    let handling = each(&|of| Some(format!("{:.0} µs", of.handling_mean_us)));
    let restarts = each(&|of| (of.restarts > 0).then(|| of.restarts.to_string()));
    let restarts = if restarts.is_empty() { "none".green() } else { restarts.red() };
    let audit = &snapshot.audit;
    let storing = if audit.failing { "cannot be stored".red() } else { "stored".green() };
    let models = snapshot.catalog.models.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    Text::from(vec![
        Line::from(vec![
            " neuronetz ".bold(),
            snapshot.at.strftime("%H:%M:%SZ").to_string().into(),
            format!("   {} tenants active   {models} models", snapshot.tenants_running).into(),
        ]),
        Line::from(vec![
            format!(" audit: {} wait, {} ", audit.waiting, audit.stored).into(),
            storing,
            "   restarts of actors: ".into(),
            restarts,
        ]),
        Line::from(format!(" mailboxes: {waiting}")),
        Line::from(format!(" handling: {handling}")),
    ])
}

fn table<'a, const N: usize>(
    title: &'a str,
    columns: [&'a str; N],
    widths: [Constraint; N],
    rows: Vec<Cells<'a>>,
) -> Table<'a> {
    Table::new(rows, widths)
        .header(Cells::new(columns).style(Style::new().bold()))
        .block(Block::bordered().title(title))
        .row_highlight_style(Style::new().reversed())
}

fn upstreams_table(snapshot: &Snapshot) -> Table<'_> {
    let rows = snapshot.upstreams.iter().map(|upstream| {
        let state = if upstream.up { Cell::from("up").green() } else { Cell::from("down").red() };
        let open = upstream.open_ms.map_or_else(String::new, |ms| format!(" {} s", ms / 1_000 + 1));
        let breaker = Cell::from(format!("{}{open}", upstream.breaker));
        let is_closed = upstream.breaker == "closed";
        let waiting: usize = upstream.waiting.values().sum();
        let slots = upstream.slots.map_or_else(|| "∞".to_owned(), |slots| slots.to_string());
        Cells::new([
            Cell::from(upstream.name.as_str()),
            state,
            if is_closed { breaker } else { breaker.red() },
            Cell::from(format!("{} / {slots}", upstream.taken)),
            Cell::from(waiting.to_string()),
            Cell::from(upstream.models.to_string()),
        ])
    });
    let columns = ["UPSTREAM", "STATE", "BREAKER", "SLOTS", "WAIT", "MODELS"];
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(14),
        Constraint::Length(14),
        Constraint::Length(6),
        Constraint::Length(7),
    ];
    table(" upstreams ", columns, widths, rows.collect())
}

const LIMITS: [&str; 5] = ["RPM", "TPM", "BUDGET", "AT ONCE", "WAIT"];

fn widths() -> [Constraint; 6] {
    [
        Constraint::Fill(1),
        Constraint::Length(16),
        Constraint::Length(20),
        Constraint::Length(24),
        Constraint::Length(10),
        Constraint::Length(6),
    ]
}

fn tenants_table(snapshot: &Snapshot) -> Table<'_> {
    let rows = snapshot.tenants.iter().map(|tenant| {
        let name = tenant.name.as_deref().unwrap_or(&tenant.id);
        row(name, &tenant.limits, Some(tenant.waiting))
    });
    let [rpm, tpm, budget, at_once, wait] = LIMITS;
    let columns = ["TENANT", rpm, tpm, budget, at_once, wait];
    table(" tenants (left of limit) ", columns, widths(), rows.collect())
}

fn keys_table(snapshot: &Snapshot, selected: usize) -> Table<'_> {
    let keys = snapshot.tenants.get(selected).map(|tenant| tenant.keys.as_slice());
    let rows = keys.unwrap_or_default().iter().map(|key| row(&key.id, &key.limits, None));
    let [rpm, tpm, budget, at_once, _] = LIMITS;
    let columns = ["KEY", rpm, tpm, budget, at_once, ""];
    table(" its keys ", columns, widths(), rows.collect())
}

fn row<'a>(name: &'a str, limits: &LimitsState, waiting: Option<usize>) -> Cells<'a> {
    let at_once = limits.concurrency.map_or_else(
        || limits.under_way.to_string(),
        |most| format!("{} / {most}", limits.under_way),
    );
    Cells::new([
        Cell::from(name),
        gauge(limits.requests),
        gauge(limits.tokens),
        gauge(limits.budget),
        Cell::from(at_once),
        Cell::from(waiting.map_or_else(String::new, |waiting| waiting.to_string())),
    ])
}

/// What is left, red where there is little.
fn gauge<'a>(gauge: Option<GaugeState>) -> Cell<'a> {
    let Some(GaugeState { limit, remaining, .. }) = gauge else { return Cell::from("–") };
    let is_near = remaining.saturating_mul(100) < limit.saturating_mul(NEAR_PERCENT);
    let color = if is_near { Color::Red } else { Color::Green };
    Cell::from(format!("{remaining} / {limit}")).style(Style::new().fg(color))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    const SNAPSHOT: &str = r#"{
        "at": "2026-11-23T12:00:00Z",
        "kinds": {
            "root": {
                "running": 1, "waiting": 0, "handled": 5, "handling_mean_us": 70.4, "restarts": 0
            },
            "tenant": {
                "running": 1, "waiting": 3, "handled": 9, "handling_mean_us": 1.2, "restarts": 2
            }
        },
        "tenants_running": 1,
        "tenants": [{
            "id": "ten_1", "name": "acme",
            "requests": { "limit": 100, "remaining": 7, "reset_ms": 1000 },
            "tokens": null,
            "budget": { "limit": 5000, "remaining": 4000, "reset_ms": null },
            "under_way": 2, "concurrency": 4, "waiting": 0,
            "keys": [{
                "id": "key_1", "requests": null, "tokens": null, "budget": null,
                "under_way": 2, "concurrency": null
            }]
        }],
        "upstreams": [{
            "name": "ollama", "up": true, "models": 3, "taken": 2, "slots": 4, "keep_alive": true,
            "waiting": { "ten_1": 5 }, "breaker": "open", "open_ms": 1500
        }],
        "audit": { "waiting": 1, "stored": 99, "failing": false },
        "catalog": { "models": 3 }
    }"#;

    #[test]
    fn everything_stands_on_the_screen() {
        let snapshot = serde_json::from_str(SNAPSHOT).unwrap();
        let mut screen = Screen { snapshot: Some(snapshot), ..Screen::default() };
        let mut terminal = Terminal::new(TestBackend::new(110, 24)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let shown = terminal.backend().to_string();
        for text in [
            "12:00:00Z",
            "1 tenants active",
            "mailboxes: root 0, tenant 3",
            "handling: root 70 µs, tenant 1 µs",
            "restarts of actors: tenant 2",
            "99 stored",
            "ollama",
            "open 2 s",
            "2 / 4",
            "acme",
            "7 / 100",
            "4000 / 5000",
            "key_1",
            "q leave",
        ] {
            assert!(shown.contains(text), "{text} is missing:\n{shown}");
        }
    }

    #[test]
    fn without_word_of_the_gateway_it_says_so() {
        let mut terminal = Terminal::new(TestBackend::new(40, 5)).unwrap();
        terminal.draw(|frame| Screen::default().draw(frame)).unwrap();
        assert!(terminal.backend().to_string().contains("waiting for the gateway"));
    }
}
