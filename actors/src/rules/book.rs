//! The accounts of one tenant and its keys, and what is under way of them: a whole tenant in process.
//!
//! It does the operations of [`storage::admission`], as Redis does them for many replicas; one contract
//! is run on both.

use foldhash::{HashMap, HashMapExt};
use identity::limits::Limits;
use protocol::id::KeyId;
use storage::admission::{Admit, Admitted, Answer, Member, Operation, Refused, Scope, Usage};

use super::account::{Account, Held, Now};

/// One tenant's accounts.
#[derive(Debug)]
pub struct Book {
    tenant: Account,
    keys: HashMap<KeyId, Account>,
    under_way: HashMap<Member, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    key: KeyId,
    of_tenant: Held,
    of_key: Held,
}

// === impl Book ===

impl Default for Book {
    fn default() -> Self {
        Self {
            tenant: Account::new(Limits::default()),
            keys: HashMap::new(),
            under_way: HashMap::new(),
        }
    }
}

impl Book {
    /// Does one operation.
    pub fn run(&mut self, operation: &Operation, now: Now) -> Answer {
        match operation {
            Operation::Admit(admit) => return self.admit(admit, now),
            Operation::TopUp { member, more, tenant_limits, key_limits } => {
                return Answer::ToppedUp(self.top_up(
                    *member,
                    *more,
                    (*tenant_limits, *key_limits),
                    now,
                ));
            }
            Operation::Settle { member, used } => {
                self.end(*member, |account, held| account.settle(held, *used, now));
            }
            Operation::Cancel { member } => {
                self.end(*member, |account, held| account.cancel(held, now));
            }
            // Who is in process cannot be taken for dead, nor be forgotten.
            Operation::Beat { .. } => return Answer::Missing(Vec::new()),
            Operation::Register { .. } => {}
            Operation::SetUsage(usage) => self.set_usage(*usage, now),
            Operation::Look { tenant_limits, keys } => {
                self.tenant.set_limits(*tenant_limits);
                let mut all = vec![self.tenant.standing(now)];
                for (key, limits) in keys {
                    all.push(match self.keys.get_mut(key) {
                        Some(account) => {
                            account.set_limits(*limits);
                            account.standing(now)
                        }
                        None => Account::new(*limits).standing(now),
                    });
                }
                return Answer::Looked(all);
            }
        }
        Answer::Done
    }

    /// By both or by neither.
    fn admit(&mut self, admit: &Admit, now: Now) -> Answer {
        let Admit { member, key: id, tenant_limits, key_limits, need } = *admit;
        self.tenant.set_limits(tenant_limits);
        let key = self.keys.entry(id).or_insert_with(|| Account::new(key_limits));
        key.set_limits(key_limits);
        let unknown: Vec<_> = (self.tenant.unknown(None, now).into_iter())
            .chain(key.unknown(Some(id), now))
            .collect();
        if !unknown.is_empty() {
            return Answer::Unknown(unknown);
        }
        let mut observed = Vec::new();
        let checks =
            [(Scope::Key, key.check(need, now)), (Scope::Tenant, self.tenant.check(need, now))];
        for (scope, checked) in checks {
            match checked {
                Ok(limits) => observed.extend(limits.into_iter().map(|limit| (scope, limit))),
                Err(by) => {
                    let gauges = key.gauges(now).tighter(self.tenant.gauges(now));
                    return Answer::Refused(Box::new(Refused { scope, by, gauges }));
                }
            }
        }
        let of_key = key.take(need, now);
        let of_tenant = self.tenant.take(need, now);
        let gauges = key.gauges(now).tighter(self.tenant.gauges(now));
        self.under_way.insert(member, UnderWay { key: id, of_tenant, of_key });
        Answer::Admitted(Box::new(Admitted { held: String::new(), gauges, observed }))
    }

    fn top_up(&mut self, member: Member, more: u64, limits: (Limits, Limits), now: Now) -> bool {
        let Some(UnderWay { key, of_tenant, of_key }) = self.under_way.get(&member) else {
            return false;
        };
        let Some(key) = self.keys.get_mut(key) else { return false };
        self.tenant.set_limits(limits.0);
        key.set_limits(limits.1);
        let has_more =
            self.tenant.has_more(of_tenant, more, now) && key.has_more(of_key, more, now);
        if has_more {
            self.tenant.top_up(of_tenant, more, now);
            key.top_up(of_key, more, now);
        }
        has_more
    }

    fn end(&mut self, member: Member, end: impl Fn(&mut Account, Held)) {
        let Some(under_way) = self.under_way.remove(&member) else { return };
        end(&mut self.tenant, under_way.of_tenant);
        if let Some(account) = self.keys.get_mut(&under_way.key) {
            end(account, under_way.of_key);
        }
    }

    fn set_usage(&mut self, usage: Usage, now: Now) {
        let account = match usage.key {
            None => Some(&mut self.tenant),
            Some(key) => self.keys.get_mut(&key),
        };
        if let Some(account) = account {
            account.set_usage(usage, now);
        }
    }

    /// Forgets the keys that nobody would miss, but those that are to be `kept`; says whether nobody
    /// would miss anything of this book.
    pub fn tidy(&mut self, now: Now, kept: impl Fn(KeyId) -> bool) -> bool {
        self.keys.retain(|key, account| kept(*key) || !account.is_idle(now.moment));
        self.keys.shrink_to(self.keys.len() * 2);
        self.keys.is_empty() && self.tenant.is_idle(now.moment)
    }
}
