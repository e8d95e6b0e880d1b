//! How a request ended.

use std::{fmt, str::FromStr};

use serde::Serialize;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every value, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that stands for it in the database, in metrics and in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = $crate::outcome::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err($crate::outcome::UnknownWord) }
            }
        }
    };
}
pub(crate) use words;

/// A word that stands for no value of the enum it was read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown word")]
pub struct UnknownWord;

words! {
    /// How a request ended, seen from the gateway.
    Outcome {
        /// The whole reply was handed to the client.
        Completed = "completed",
        /// The client closed its connection before the reply had ended.
        ClientLeft = "client_left",
        /// The upstream failed: it could not be reached, answered with a fault, or its reply broke
        /// off.
        UpstreamFailed = "upstream_failed",
        /// A time limit of the gateway ended the request.
        TimedOut = "timed_out",
        /// The gateway refused the request, or the upstream refused it as the client's mistake.
        Refused = "refused",
        /// The gateway was stopped before the reply had ended.
        Stopped = "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(*outcome));
        }
        assert_eq!("COMPLETED".parse::<Outcome>(), Err(UnknownWord));
    }
}
