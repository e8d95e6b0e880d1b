//! Those who attack. Each kind has a tenant, a model and an address of its own, and a pace: the gateway is not
//! to be outrun but to be held up, and what attackers cost themselves comes out of the same processors.
//!
//! | module | which kinds |
//! |---|---|
//! | [`silent`] | who opens connections and reads nothing, or asks nothing |
//! | [`bodies`] | giant bodies, slow bodies, bombs |
//! | [`loops`] | the same refused or cheap request, again and again |
//! | [`leavers`] | who leaves before the first byte, or the queue |

mod bodies;
mod leavers;
mod loops;
mod silent;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    config::{Attackers, Kind},
    tally::Tally,
    wire::{self, Wire},
};

pub(crate) use bodies::BOMBS;
pub(crate) use silent::{STREAMS, never_reading, pinging};

/// Attackers of one kind.
pub(crate) struct Attack {
    /// What they do, and how often.
    pub(crate) of: Attackers,
    /// The gateway.
    pub(crate) to: SocketAddr,
    /// Where they connect from.
    pub(crate) from: Ipv4Addr,
    /// Their key, the first of them; of those who have none, empty.
    pub(crate) key: String,
    /// Keys of the honest tenant, for who tries their prefixes.
    pub(crate) prefixes: Vec<String>,
    /// What they did.
    pub(crate) tally: Tally,
    /// What is sent, made beforehand.
    pub(crate) requests: Vec<Bytes>,
}

/// What one connection of them has.
struct Attacker {
    attack: Arc<Attack>,
    /// Which one it is of its kind.
    number: usize,
    wire: Option<Wire>,
    /// How often it has asked.
    turns: usize,
}

// === impl Attack ===

impl Attack {
    /// Attackers of that kind, with what they send.
    pub(crate) fn new(
        of: Attackers,
        to: SocketAddr,
        number: u8,
        keys: &[String],
        prefixes: Vec<String>,
    ) -> Self {
        let key = keys.first().cloned().unwrap_or_default();
        let from = Ipv4Addr::new(127, 0, 1, number.saturating_add(1));
        let requests = match of.kind {
            Kind::GiantBodies => vec![bodies::giant(&key)],
            Kind::TemplateBombs => bodies::bombs(keys),
            Kind::LeavesEarly => vec![leavers::early(&key)],
            Kind::LeavesQueue => vec![leavers::queued(&key), leavers::occupying(&key)],
            kind => loops::requests(kind, &key),
        };
        Self { of, to, from, key, prefixes, tally: Tally::default(), requests }
    }

    /// Lets the gateway know the key, where the attack is over before a hash would be.
    pub(crate) async fn prepare(&self) -> io::Result<()> {
        if self.of.kind == Kind::FloodsH2 {
            let mut wire = Wire::open(self.from, self.to).await?;
            self.tally.count(|counts| counts.sent += 1);
            let answer = wire.ask(&wire::get("/v1/models", &self.key)).await?;
            self.tally.answered(&answer.told());
        }
        Ok(())
    }

    /// Lets all of them attack until it is over.
    pub(crate) fn begin(self: &Arc<Self>, tasks: &TaskTracker, over: &CancellationToken) {
        let Attackers { connections, per_second, .. } = self.of;
        let every = Duration::from_secs_f64(connections as f64 / per_second);
        let now = Instant::now();
        for number in 0..connections {
            let (attack, over) = (Arc::clone(self), over.clone());
            let begins = now + Duration::from_secs_f64(number as f64 / per_second);
            tasks.spawn(async move {
                let mut ticks = interval_at(begins, every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut attacker = Attacker { attack, number, wire: None, turns: 0 };
                let attacking = async {
                    loop {
                        ticks.tick().await;
                        attacker.turn().await;
                    }
                };
                over.run_until_cancelled(attacking).await;
            });
        }
    }
}

// === impl Attacker ===

impl Attacker {
    async fn turn(&mut self) {
        let turn = self.turns;
        self.turns += 1;
        let done = match self.attack.of.kind {
            Kind::NeverReadsH2 => silent::never_reads_h2(&self.attack).await,
            Kind::NeverReadsH1 => silent::never_reads_h1(&self.attack).await,
            Kind::IdlePreface => silent::idle(&self.attack, silent::PREFACE_ONLY).await,
            Kind::IdleHalf => silent::idle(&self.attack, silent::HALF_SETTINGS).await,
            Kind::IdlePings => silent::pings(&self.attack).await,
            Kind::FloodsH2 => silent::floods(&self.attack, self.number).await,
            Kind::SlowBodies => bodies::slow(&self.attack).await,
            Kind::LeavesEarly => leavers::leave(&self.attack, 0).await,
            // The first of them holds the server that the others wait for.
            Kind::LeavesQueue if self.number == 0 => self.ask(1).await,
            Kind::LeavesQueue => leavers::leave(&self.attack, 0).await,
            Kind::WrongPrefix | Kind::UnknownKeys => match loops::wrong_key(&self.attack, turn) {
                Ok(request) => self.ask_with(&request, true).await,
                Err(error) => Err(io::Error::other(error)),
            },
            Kind::StatusLoops => self.ask(turn % self.attack.requests.len().max(1)).await,
            Kind::GiantBodies | Kind::RefusedRpm | Kind::Causes500 => self.ask(0).await,
            Kind::TemplateBombs => self.ask(turn % self.attack.requests.len().max(1)).await,
        };
        if let Err(error) = done {
            self.wire = None;
            let fault = error.kind().to_string();
            self.attack.tally.count(|counts| *counts.faults.entry(fault).or_default() += 1);
        }
    }

    /// Asks that request of those that were made beforehand.
    async fn ask(&mut self, number: usize) -> io::Result<()> {
        let attack = Arc::clone(&self.attack);
        let Some(request) = attack.requests.get(number) else { return Ok(()) };
        self.ask_with(request, loops::is_audited(request)).await
    }

    /// Asks, on a new connection where there is none. `is_audited`: the audit is expected to know of it.
    async fn ask_with(&mut self, request: &[u8], is_audited: bool) -> io::Result<()> {
        let tally = &self.attack.tally;
        let wire = match &mut self.wire {
            Some(wire) => wire,
            none => {
                tally.count(|counts| counts.connections += 1);
                none.insert(Wire::open(self.attack.from, self.attack.to).await?)
            }
        };
        tally.count(|counts| counts.sent += 1);
        let answer = wire.ask(request).await?;
        if is_audited {
            tally.answered(&answer.told());
        } else {
            tally.count(|counts| counts.tell(&answer.told()));
        }
        if answer.is_last {
            self.wire = None;
        }
        Ok(())
    }
}
