//! Ids that cannot be mixed up.
//!
//! All are UUIDv7 (RFC 9562, 5.7): they sort by the time they were made, so that an index on them
//! grows at one end. Whoever makes one brings the clock and the randomness.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id! {
    /// A tenant: who pays.
    TenantId
}
id! {
    /// A long-lived API key of a tenant (the record, never the secret).
    KeyId
}

/// What the text of a request's id begins with.
const PREFIX: &str = "req_";

/// One request, as it stands in `x-request-id`, in the log and in the audit: `req_` and 32 hex
/// digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub Uuid);

// === impl RequestId ===

impl RequestId {
    /// The length of its text, in bytes.
    pub const LENGTH: usize = PREFIX.len() + 32;

    /// Its text, without asking for memory.
    pub fn encode(self, buffer: &mut [u8; Self::LENGTH]) -> &str {
        let (prefix, id) = buffer.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        self.0.as_simple().encode_lower(id);
        // Letters and digits.
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; Self::LENGTH]))
    }
}

impl FromStr for RequestId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text.strip_prefix(PREFIX).unwrap_or(text)).map(Self)
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
