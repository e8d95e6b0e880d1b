//! The way to one upstream: its breaker, its slots, and who waits for one.
//!
//! Whoever asks is granted a slot at once, waits in the fair queue, or is refused. A slot that is free
//! goes to whose turn it is, so that nobody who comes later overtakes. When the breaker opens, all who
//! wait are refused at once: another upstream may have them.

use std::{collections::HashMap, hash::Hash, time::Duration};

use super::{
    breaker::{self, Breaker, Ended, Pass},
    fair_queue::{self, FairQueue, Full, Place},
    moment::Moment,
    slots::Slots,
};

/// How much of the last request is in the mean time of service.
const LATEST_SHARE: f64 = 0.1;

/// Settings of the way to one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests at once, where the upstream has no word of its own; none: as many as come.
    pub slots: Option<u64>,
    /// How many may wait.
    pub queue: fair_queue::Settings,
    /// How long one may wait.
    pub wait_max: Duration,
    /// When it is not asked at all.
    pub breaker: breaker::Settings,
}

/// The way to one upstream. `Waiter` is what is called when its turn comes.
#[derive(Debug)]
pub struct Lane<Tenant, Waiter> {
    breaker: Breaker<Tenant>,
    slots: Slots,
    queue: FairQueue<Tenant, Ticketed<Waiter>>,
    places: HashMap<u64, Place<Tenant>>,
    wait_max: Duration,
    /// The mean time of service, in seconds; 0 before anybody was served.
    service: f64,
}

/// Whoever waits, with the number that it gave itself.
#[derive(Debug)]
struct Ticketed<Waiter> {
    ticket: u64,
    waiter: Waiter,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The breaker is open until then, where that is known.
    Open(Option<Moment>),
    /// Too many wait already.
    Full(Full),
    /// It has waited for too long.
    TimedOut,
}

/// What became of who asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<Tenant, Waiter> {
    /// It has a slot.
    Granted(Waiter, Pass<Tenant>),
    /// It waits, and so many are before it.
    Waits {
        /// How many will be called before it, as things stand.
        ahead: usize,
    },
    /// There is none for it.
    Refused(Waiter, NotNow),
}

/// Those whose waiting has ended.
pub type Called<Tenant, Waiter> = Vec<(Waiter, Result<Pass<Tenant>, NotNow>)>;

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: None,
            queue: fair_queue::Settings { per_tenant_max: 1_024, all_max: 8_192 },
            wait_max: Duration::from_secs(30),
            breaker: breaker::Settings::default(),
        }
    }
}

// === impl Lane ===

impl<Tenant: Copy + Eq + Hash, Waiter> Lane<Tenant, Waiter> {
    /// An empty one. `slots`: the upstream's own word on how many it takes at once.
    #[must_use]
    pub fn new(settings: &Settings, slots: Option<u64>) -> Self {
        Self {
            breaker: Breaker::new(settings.breaker.clone()),
            slots: Slots::new(slots.or(settings.slots).unwrap_or(u64::MAX)),
            queue: FairQueue::new(settings.queue),
            places: HashMap::new(),
            wait_max: settings.wait_max,
            service: 0.0,
        }
    }

    /// Takes a slot at once; none where somebody waits already, every slot is taken, or the breaker has a
    /// say.
    pub fn take(&mut self, tenant: Tenant, now: Moment) -> Option<Pass<Tenant>> {
        let is_free = self.queue.is_empty() && self.slots.remaining() > 0;
        if !is_free || self.breaker.view() != breaker::View::Closed {
            return None;
        }
        let pass = self.breaker.ask(tenant, now).ok()?;
        self.slots.take();
        Some(pass)
    }

    /// Asks for a slot. `ticket` is a number of the asker's own, by which it can leave.
    pub fn ask(
        &mut self,
        tenant: Tenant,
        weight: u32,
        ticket: u64,
        waiter: Waiter,
        now: Moment,
    ) -> Asked<Tenant, Waiter> {
        if self.queue.is_empty() && self.slots.remaining() > 0 {
            return match self.breaker.ask(tenant, now) {
                Ok(pass) => {
                    self.slots.take();
                    Asked::Granted(waiter, pass)
                }
                Err(refused) => Asked::Refused(waiter, NotNow::Open(refused.at())),
            };
        }
        if let breaker::View::Open { until } = self.breaker.view()
            && now < until
        {
            return Asked::Refused(waiter, NotNow::Open(Some(until)));
        }
        let deadline = now.after(self.wait_max);
        match self.queue.join(tenant, weight, deadline, Ticketed { ticket, waiter }) {
            Ok(place) => {
                self.places.insert(ticket, place);
                Asked::Waits { ahead: self.queue.ahead(place).unwrap_or(0) }
            }
            Err((full, ticketed)) => Asked::Refused(ticketed.waiter, NotNow::Full(full)),
        }
    }

    /// A call is over, after so long. `chance`: see [`Breaker::ended`].
    pub fn ended(
        &mut self,
        pass: Pass<Tenant>,
        ended: Ended,
        took: Duration,
        now: Moment,
        chance: f64,
    ) -> Called<Tenant, Waiter> {
        self.slots.give_back();
        self.breaker.ended(pass, ended, now, chance);
        if ended == Ended::Well {
            let took = took.as_secs_f64();
            let share = if self.service > 0.0 { LATEST_SHARE } else { 1.0 };
            self.service += (took - self.service) * share;
        }
        self.call(now)
    }

    /// The reply to a call has begun: see [`Breaker::begun`].
    pub fn begun(&mut self, pass: &Pass<Tenant>, now: Moment) -> Called<Tenant, Waiter> {
        self.breaker.begun(pass);
        self.call(now)
    }

    /// Another number of slots, from now on.
    pub fn set_slots(&mut self, slots: Option<u64>, now: Moment) -> Called<Tenant, Waiter> {
        self.slots.set_limit(slots.unwrap_or(u64::MAX));
        self.call(now)
    }

    /// Whoever has that number has left.
    pub fn leave(&mut self, ticket: u64) {
        if let Some(place) = self.places.remove(&ticket) {
            self.queue.leave(place);
        }
    }

    /// Those who have waited too long leave.
    pub fn expire(&mut self, now: Moment) -> Called<Tenant, Waiter> {
        let expired = self.queue.expire(now);
        expired.into_iter().map(|one| (self.called(one), Err(NotNow::TimedOut))).collect()
    }

    /// When somebody will have waited too long, if anybody waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        self.queue.next_deadline()
    }

    /// How many will be called before the one of that number; `None` where it does not wait.
    #[must_use]
    pub fn ahead(&self, ticket: u64) -> Option<usize> {
        self.queue.ahead(*self.places.get(&ticket)?)
    }

    /// How long the next one will have to wait with so many before it, going by the mean time of
    /// service; `None` before anybody was served.
    #[must_use]
    pub fn expected_wait(&self, ahead: usize) -> Option<Duration> {
        let at_once = self.slots.taken().max(1) as f64;
        (self.service > 0.0)
            .then(|| Duration::from_secs_f64(self.service * (ahead + 1) as f64 / at_once))
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many wait, by tenant.
    pub fn waiting_of(&self) -> impl Iterator<Item = (Tenant, usize)> + '_ {
        self.queue.lens()
    }

    /// How many have a slot.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.slots.taken()
    }

    /// How many may have one; none: as many as come.
    #[must_use]
    pub fn slots(&self) -> Option<u64> {
        Some(self.slots.limit()).filter(|limit| *limit != u64::MAX)
    }

    /// How its breaker is.
    #[must_use]
    pub fn breaker(&self) -> breaker::View {
        self.breaker.view()
    }

    /// Whether a probe is wanted: see [`Breaker::take_doubt`].
    pub fn take_doubt(&mut self) -> bool {
        self.breaker.take_doubt()
    }

    /// A probe failed, too: see [`Breaker::probe_failed`].
    pub fn probe_failed(&mut self, now: Moment, chance: f64) -> Called<Tenant, Waiter> {
        self.breaker.probe_failed(now, chance);
        self.call(now)
    }

    /// Calls those for whom there is a slot now; where the breaker lets nobody pass, all.
    fn call(&mut self, now: Moment) -> Called<Tenant, Waiter> {
        let mut called = Vec::new();
        let mut refused = None;
        while let Some(tenant) = self.queue.next_tenant()
            && (refused.is_some() || self.slots.remaining() > 0)
        {
            let answer = match refused {
                Some(why) => Err(why),
                None => match self.breaker.ask(tenant, now) {
                    Ok(pass) => {
                        self.slots.take();
                        Ok(pass)
                    }
                    // As many as may be are being tried: they will say.
                    Err(breaker::Refused::Trials) => break,
                    // Others are behind it, and may be tried.
                    Err(breaker::Refused::OwnTrials) => Err(NotNow::Open(None)),
                    Err(breaker::Refused::Until(at)) => {
                        refused = Some(NotNow::Open(Some(at)));
                        continue;
                    }
                },
            };
            let Some((_, one)) = self.queue.call() else { break };
            called.push((self.called(one), answer));
        }
        called
    }

    fn called(&mut self, one: Ticketed<Waiter>) -> Waiter {
        self.places.remove(&one.ticket);
        one.waiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn lane(slots: u64) -> Lane<u8, u64> {
        Lane::new(&Settings::default(), Some(slots))
    }

    fn ask(lane: &mut Lane<u8, u64>, tenant: u8, ticket: u64, now: u64) -> Asked<u8, u64> {
        lane.ask(tenant, 1, ticket, ticket, at(now))
    }

    fn granted(lane: &mut Lane<u8, u64>, tenant: u8, now: u64) -> Pass<u8> {
        match ask(lane, tenant, 0, now) {
            Asked::Granted(_, pass) => pass,
            other => panic!("{other:?}"),
        }
    }

    fn tickets(called: Called<u8, u64>) -> Vec<(u64, bool)> {
        called.into_iter().map(|(ticket, pass)| (ticket, pass.is_ok())).collect()
    }

    #[test]
    fn a_greedy_tenant_delays_another_by_one_time_of_service() {
        let mut lane = lane(1);
        let mut pass = granted(&mut lane, 1, 0);
        for ticket in 1..=1_000 {
            assert!(matches!(ask(&mut lane, 1, ticket, 0), Asked::Waits { .. }));
        }
        assert_eq!(ask(&mut lane, 2, 2_000, 0), Asked::Waits { ahead: 1 });
        assert_eq!(lane.ahead(2_000), Some(1));
        let mut order = Vec::new();
        for _ in 0..2 {
            let mut called = lane.ended(pass, Ended::Well, Duration::ZERO, at(10), 0.0);
            let (ticket, next) = called.pop().unwrap();
            (pass, _) = (next.unwrap(), order.push(ticket));
        }
        assert_eq!(order, [1, 2_000]);
        assert_eq!((lane.waiting(), lane.taken(), lane.slots()), (999, 1, Some(1)));
        assert_eq!(lane.waiting_of().collect::<Vec<_>>(), [(1, 999)]);
        drop(pass);
    }

    #[test]
    fn a_slot_is_taken_at_once_where_nobody_waits_and_the_breaker_is_closed() {
        let mut lane = lane(2);
        let (first, second) = (lane.take(1, at(0)).unwrap(), lane.take(1, at(0)).unwrap());
        assert!(lane.take(1, at(0)).is_none(), "both are taken");
        assert_eq!(ask(&mut lane, 1, 1, 0), Asked::Waits { ahead: 0 });
        assert_eq!(ask(&mut lane, 1, 2, 0), Asked::Waits { ahead: 1 });
        assert_eq!(tickets(lane.set_slots(Some(4), at(0))), [(1, true), (2, true)]);
        assert_eq!((lane.taken(), lane.set_slots(None, at(0)).len()), (4, 0));
        for pass in [first, second, lane.take(1, at(0)).unwrap()] {
            lane.ended(pass, Ended::Unconnected, Duration::ZERO, at(0), 0.0);
        }
        assert!(lane.take(1, at(0)).is_none(), "it is open");
        assert!(lane.take(1, at(3_600_000)).is_none(), "whoever probes it asks");
        assert!(matches!(ask(&mut lane, 1, 3, 3_600_000), Asked::Granted(..)));
    }

    #[test]
    fn who_waits_cannot_be_overtaken_and_may_leave() {
        let mut lane = lane(1);
        let pass = granted(&mut lane, 1, 0);
        for ticket in 1..=3 {
            ask(&mut lane, 1, ticket, 0);
        }
        lane.leave(1);
        lane.leave(1);
        assert_eq!((lane.ahead(1), lane.ahead(2), lane.waiting()), (None, Some(0), 2));
        let mut called = lane.ended(pass, Ended::Well, Duration::from_secs(2), at(10), 0.0);
        assert_eq!(called.len(), 1);
        assert_eq!(called.pop().unwrap().0, 2);
        // The slot is not free for who comes now.
        assert_eq!(ask(&mut lane, 2, 9, 11), Asked::Waits { ahead: 1 });
        assert_eq!(lane.expected_wait(1), Some(Duration::from_secs(4)));
        assert_eq!(tickets(lane.set_slots(Some(2), at(12))), [(3, true)]);
        assert_eq!(tickets(lane.set_slots(None, at(12))), [(9, true)]);
        assert_eq!((lane.slots(), lane.taken()), (None, 3));
    }

    #[test]
    fn who_waits_too_long_is_told_so() {
        let mut lane = lane(1);
        let pass = granted(&mut lane, 1, 0);
        ask(&mut lane, 1, 1, 0);
        ask(&mut lane, 2, 2, 500);
        assert_eq!(lane.next_deadline(), Some(at(30_000)));
        assert_eq!(tickets(lane.expire(at(30_000))), [(1, false)]);
        assert_eq!(lane.next_deadline(), Some(at(30_500)));
        assert_eq!(
            tickets(lane.ended(pass, Ended::Unknown, Duration::ZERO, at(9), 0.0)),
            [(2, true)]
        );
        assert_eq!((lane.next_deadline(), lane.expected_wait(3)), (None, None));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let queue = fair_queue::Settings { per_tenant_max: 1, all_max: 2 };
        let settings = Settings { slots: Some(1), queue, ..Settings::default() };
        let mut lane = Lane::<u8, u64>::new(&settings, None);
        let _pass = granted(&mut lane, 1, 0);
        ask(&mut lane, 1, 1, 0);
        assert_eq!(ask(&mut lane, 1, 2, 0), Asked::Refused(2, NotNow::Full(Full::Tenant)));
        ask(&mut lane, 2, 3, 0);
        assert_eq!(ask(&mut lane, 3, 4, 0), Asked::Refused(4, NotNow::Full(Full::All)));
    }

    #[test]
    fn when_the_breaker_opens_all_who_wait_are_sent_away() {
        let mut lane = lane(3);
        let passes: Vec<_> = (0..3).map(|_| granted(&mut lane, 1, 0)).collect();
        for ticket in 1..=5 {
            ask(&mut lane, 1, ticket, 0);
        }
        let mut all = Vec::new();
        let mut under_way = passes;
        for _ in 0..3 {
            let pass = under_way.remove(0);
            for (ticket, called) in
                lane.ended(pass, Ended::Unconnected, Duration::ZERO, at(10), 0.0)
            {
                all.push((ticket, called.is_ok()));
                under_way.extend(called);
            }
        }
        assert_eq!(all, [(1, true), (2, true), (3, false), (4, false), (5, false)]);
        assert_eq!(lane.breaker(), breaker::View::Open { until: at(1_010) });
        let open = NotNow::Open(Some(at(1_010)));
        assert_eq!(ask(&mut lane, 1, 6, 20), Asked::Refused(6, open));
        // Also where every slot is taken by calls that began before.
        lane.set_slots(Some(1), at(20));
        assert_eq!(ask(&mut lane, 1, 6, 20), Asked::Refused(6, open));
        lane.set_slots(Some(9), at(20));
        // Half open: a few are tried, who comes besides is refused.
        let trials = [1, 1, 2].map(|tenant| granted(&mut lane, tenant, 2_000));
        assert_eq!(ask(&mut lane, 1, 7, 2_000), Asked::Refused(7, NotNow::Open(None)));
        // Who waits for a slot waits for what the trials say.
        lane.set_slots(Some(1), at(2_000));
        assert_eq!(ask(&mut lane, 1, 8, 2_000), Asked::Waits { ahead: 0 });
        assert_eq!(tickets(lane.set_slots(Some(9), at(2_000))), []);
        // One that has begun makes room for another.
        assert_eq!(tickets(lane.begun(&trials[0], at(2_100))), [(8, true)]);
        for trial in &trials[1..] {
            assert_eq!(tickets(lane.begun(trial, at(2_100))), []);
        }
        assert_eq!(lane.breaker(), breaker::View::Closed);
    }

    #[test]
    fn half_open_who_may_be_tried_is_not_kept_behind_who_may_not() {
        let mut lane = lane(3);
        for _ in 0..3 {
            let pass = granted(&mut lane, 1, 0);
            lane.ended(pass, Ended::Unconnected, Duration::ZERO, at(0), 0.0);
        }
        let _hanging = [1, 1].map(|tenant| granted(&mut lane, tenant, 2_000));
        // All slots are taken for a moment: they wait.
        lane.set_slots(Some(2), at(2_000));
        assert_eq!(ask(&mut lane, 1, 7, 2_000), Asked::Waits { ahead: 0 });
        assert_eq!(ask(&mut lane, 2, 8, 2_000), Asked::Waits { ahead: 1 });
        assert_eq!(tickets(lane.set_slots(Some(3), at(2_000))), [(7, false), (8, true)]);
    }
}
