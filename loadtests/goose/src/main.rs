//! The users of the scenarios, by goose: they do what a `scenario.toml` says, and write down what became of
//! each request, for the runner to judge.
//!
//! | from the environment | what |
//! |---|---|
//! | `LOADTEST_SCENARIO` | the file `scenario.toml` |
//! | `LOADTEST_KEYS` | a directory with a file for each name of keys, a key a line |
//! | `LOADTEST_OUTCOMES` | the file to write into |
//! | `LOADTEST_USERS_NAME` | another number of the users of that name |
//!
//! The rest is said on goose's own command line. `loadtests/locustfile.py` is the same for those who prefer
//! locust.

mod outcome;
mod user;

use std::{env, error::Error, fs, path::Path, sync::Arc, time::Duration};

use goose::{goose::TransactionFunction, prelude::*};

use outcome::Outcomes;
use user::{Does, User};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
    let scenario = fs::read_to_string(variable("LOADTEST_SCENARIO")?)?;
    let scenario: user::Scenario = toml::from_str(&scenario)?;
    let outcomes = Arc::new(Outcomes::create(Path::new(&variable("LOADTEST_OUTCOMES")?))?);
    let keys = variable("LOADTEST_KEYS")?;
    let mut attack = GooseAttack::initialize()?;
    for does in scenario.users {
        let keys = fs::read_to_string(Path::new(&keys).join(&does.keys))?;
        let count = match env::var(format!("LOADTEST_USERS_{}", does.name)) {
            Ok(count) => count.parse()?,
            Err(_) => does.count,
        };
        attack = attack.register_scenario(one_of(does, count, &keys, &outcomes)?);
    }
    attack.execute().await?;
    Ok(())
}

/// The users that do the same, as a scenario of goose.
fn one_of(
    does: Does,
    count: usize,
    keys: &str,
    outcomes: &Arc<Outcomes>,
) -> Result<Scenario, GooseError> {
    let [min, max] = does.wait_ms.map(Duration::from_millis);
    let name = does.name.clone();
    let user = Arc::new(User::new(does, keys, Arc::clone(outcomes)));
    let ask: TransactionFunction = Arc::new(move |goose| {
        let user = Arc::clone(&user);
        Box::pin(async move { user.ask(goose).await })
    });
    let scenario = Scenario::new(&name).set_weight(count)?.set_wait_time(min, max)?;
    Ok(scenario.register_transaction(Transaction::new(ask)))
}
