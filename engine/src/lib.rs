//! The gateway: HTTP, the walk of a request, configuration, composition, and the binary `neuronetz`.
//!
//! | module | what is in it |
//! |---|---|
//! | [`gateway`] | the composition: build, serve, stop |
//! | [`phase`] | the life of a gateway, in phases |
//! | [`http`] | the data listener: sockets, connections, routes, bodies, refusals |
//! | [`pipeline`] | the walk of one request, stage by stage |
//! | [`keyring`] | who is calling |
//! | [`upstream`] | the way to the model servers |
//! | [`api`] | what the gateway answers itself |
//! | `admin` | the admin listener |
//! | `background` | the tasks that run as long as the gateway |
//! | `changes`, [`cuts`] | what other processes changed, and the streams that it ends |
//! | [`config`] | every setting, and how it is read |
//! | [`cli`] | the commands |
//! | [`telemetry`] | what is counted, and the log |
//! | `descriptors` | how many descriptors the process may have |
//! | `turns` | turns at something scarce, shared out among owners |

mod admin;
mod aliases;
pub mod api;
mod background;
mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cuts;
mod descriptors;
pub mod gateway;
pub mod http;
pub mod keyring;
mod party;
pub mod phase;
pub mod pipeline;
mod prompts;
mod recent;
pub mod telemetry;
mod turns;
pub mod upstream;
