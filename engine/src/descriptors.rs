//! How many descriptors the process may have: raised to what it is allowed, and no more clients accepted than fit.
//!
//! Where clients could take the last descriptor, none would be left for the model servers and the database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, Server};

/// Descriptors besides connections: listeners, files, the threads' own.
const BESIDES: u64 = 128;
/// Connections that are accepted in any case.
const CONNECTIONS_LEAST: u64 = 16;

/// Raises the soft limit of open files to the hard one; where the connections of the configuration do not fit, fewer
/// are accepted.
pub(crate) fn raise(config: &mut Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut allowed = current;
    // None is no limit at all.
    if current.is_some() && current != maximum {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => {
                allowed = maximum;
                tracing::info!(from = current, to = maximum, "raised the limit of open files");
            }
            Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
        }
    }
    let Some(allowed) = allowed else { return };
    let configured = config.server.connections_max;
    let others = u64::from(config.database.connections_max) + BESIDES;
    if fit(&mut config.server, allowed.saturating_sub(others)) {
        tracing::warn!(
            allowed,
            configured,
            accepted = config.server.connections_max,
            "too few open files are allowed for `server.connections_max`: raise the limit (`ulimit -n`, `LimitNOFILE=`)"
        );
    }
}

/// Accepts no more connections than fit into `free` descriptors, each with one to an upstream. Says whether they
/// are fewer than configured; one address keeps its share of them.
fn fit(server: &mut Server, free: u64) -> bool {
    let fitting = usize::try_from((free / 2).max(CONNECTIONS_LEAST)).unwrap_or(usize::MAX);
    if fitting >= server.connections_max {
        return false;
    }
    let share = server.connections_per_address_max.saturating_mul(fitting);
    server.connections_per_address_max = (share / server.connections_max.max(1)).max(1);
    server.connections_max = fitting;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::env::Environment;

    fn config() -> Config {
        let env = [("HOME".to_owned(), "/h".to_owned())];
        Config::load(None, &Environment::of(env), |_| Ok(String::new())).unwrap()
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
        raise(&mut config());
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn no_more_connections_are_accepted_than_fit() {
        let told = |free| {
            let mut server = config().server;
            let fewer = fit(&mut server, free);
            (fewer, server.connections_max, server.connections_per_address_max)
        };
        assert_eq!(told(32_768), (false, 16_384, 4_096));
        assert_eq!(told(u64::MAX), (false, 16_384, 4_096));
        assert_eq!(told(2_000), (true, 1_000, 250));
        assert_eq!(told(0), (true, 16, 4));
    }
}
