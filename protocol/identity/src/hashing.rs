//! What is stored of a key: its Argon2id hash (RFC 9106), as a PHC string.
//!
//! The defaults are the first configuration that OWASP's Password Storage Cheat Sheet names:
//! 19 MiB of memory, two passes, one lane. A key has 214 bits of its own, so the cost is not what
//! makes guessing hopeless; it makes a stolen table useless even against a broken random source.
//!
//! Both calls take tens of milliseconds by design: never on an async thread.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{Error as HashFault, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use protocol::secret::Secret;

/// The cost of one hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// Memory, in KiB; at least 8 per lane.
    pub memory_kib: u32,
    /// Passes over the memory; at least 1.
    pub iterations: u32,
    /// Lanes; at least 1. They are computed one after the other here.
    pub lanes: u32,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the key.
    Right {
        /// The stored hash was made at another cost than today's: hash anew.
        outdated: bool,
    },
    /// It is not.
    Wrong,
}

/// Why nothing could be hashed or compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The cost is outside what Argon2 allows.
    #[error("the cost of hashing is outside what Argon2 allows")]
    Cost,
    /// What is stored is no Argon2id hash of ours.
    #[error("the stored hash cannot be read")]
    Stored,
}

// === impl Hashing ===

impl Hashing {
    /// OWASP's first choice for Argon2id.
    pub const OWASP: Self = Self { memory_kib: 19_456, iterations: 2, lanes: 1 };

    /// The PHC string to store for this key.
    ///
    /// # Errors
    /// [`HashError::Cost`] where the parameters are out of range.
    pub fn hash(&self, key: &Secret, salt: &[u8; 16]) -> Result<Secret, HashError> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params()?);
        let hash: PasswordHash = argon2
            .hash_password_with_salt(key.expose().as_bytes(), salt)
            .map_err(|_| HashError::Cost)?;
        Ok(Secret::new(hash.to_string()))
    }

    /// Compares a key with what is stored, in constant time, at the cost at which it was stored.
    ///
    /// # Errors
    /// [`HashError::Stored`] where what is stored is no Argon2id hash, which must be treated as a
    /// check that could not be made.
    pub fn verify(&self, key: &Secret, stored: &Secret) -> Result<Verdict, HashError> {
        let hash = PasswordHash::new(stored.expose()).map_err(|_| HashError::Stored)?;
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str() {
            return Err(HashError::Stored);
        }
        let cost = Params::try_from(&hash).map_err(|_| HashError::Stored)?;
        let same = cost.m_cost() == self.memory_kib
            && cost.t_cost() == self.iterations
            && cost.p_cost() == self.lanes;
        match Argon2::default().verify_password(key.expose().as_bytes(), &hash) {
            Ok(()) => Ok(Verdict::Right { outdated: !same }),
            Err(fault) => {
                let is_wrong = matches!(fault, HashFault::PasswordInvalid);
                is_wrong.then_some(Verdict::Wrong).ok_or(HashError::Stored)
            }
        }
    }

    fn params(self) -> Result<Params, HashError> {
        Params::new(self.memory_kib, self.iterations, self.lanes, None).map_err(|_| HashError::Cost)
    }
}

impl Default for Hashing {
    fn default() -> Self {
        Self::OWASP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Hashing = Hashing { memory_kib: 8, iterations: 1, lanes: 1 };

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn hashed(hashing: Hashing, key: &str) -> Secret {
        hashing.hash(&secret(key), &[7; 16]).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_right_key_is_right_and_any_other_is_wrong() {
        let stored = hashed(CHEAP, "nz_a");
        assert_eq!(CHEAP.verify(&secret("nz_a"), &stored), Ok(Verdict::Right { outdated: false }));
        assert_eq!(CHEAP.verify(&secret("nz_b"), &stored), Ok(Verdict::Wrong));
        assert_eq!(CHEAP.verify(&secret(""), &stored), Ok(Verdict::Wrong));
    }

    #[test]
    fn a_hash_at_another_cost_is_right_and_outdated() {
        let stored = hashed(CHEAP, "nz_a");
        for today in [
            Hashing { memory_kib: 16, ..CHEAP },
            Hashing { iterations: 2, ..CHEAP },
            Hashing { memory_kib: 16, lanes: 2, ..CHEAP },
        ] {
            assert_eq!(
                today.verify(&secret("nz_a"), &stored),
                Ok(Verdict::Right { outdated: true })
            );
        }
    }

    #[test]
    fn the_default_is_what_owasp_names() {
        let stored = hashed(Hashing::default(), "nz_a");
        assert!(stored.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    #[test]
    fn what_is_no_hash_of_ours_is_an_error_and_never_right() {
        let other = hashed(CHEAP, "nz_a").expose().replace("argon2id", "argon2i");
        let short = "$argon2id$v=19$m=8,t=1,p=1$BwcHBwcHBwcHBwcHBwcHBw";
        for stored in [
            "",
            "nz_a",
            "$argon2id$",
            other.as_str(),
            "$argon2id$v=19$m=1,t=0,p=0$BwcH$BwcHBwcHBwcHBwcH",
        ] {
            assert_eq!(CHEAP.verify(&secret("nz_a"), &secret(stored)), Err(HashError::Stored));
        }
        assert_eq!(CHEAP.verify(&secret("nz_a"), &secret(short)), Ok(Verdict::Wrong));
    }

    #[test]
    fn a_cost_that_argon2_does_not_know_is_refused() {
        let none = Hashing { memory_kib: 0, iterations: 0, lanes: 0 };
        assert_eq!(none.hash(&secret("nz_a"), &[7; 16]).err(), Some(HashError::Cost));
    }
}
