//! The kinds of requests, by the effect of a repetition, and the bounds on their answers.

use std::time::Duration;

use super::agent::ANSWER_TIMEOUT;

/// Upper bound on a creation: the engine prepares a transfer on its host before it answers the request that
/// starts it.
const CREATION_TIMEOUT: Duration = Duration::from_secs(120);

/// Upper bound on the body of an answer.
pub(super) const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// Upper bound on the body of a list of everything: some 20 000 disks, at 2.4 KB each with their links.
const MAX_LIST_BYTES: u64 = 48 << 20;

/// Upper bound on such a list: the engine reads thousands of disks from its database before it answers.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);

/// The effect of a request that the engine performs twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// A second request changes nothing.
    Idempotent,
    /// A second request changes nothing, and the answer may be long.
    Listing,
    /// A second request makes a second object.
    Creation,
}

impl Effect {
    /// Upper bound on the time until the answer has come.
    pub(super) fn time_limit(self) -> Duration {
        match self {
            Effect::Idempotent => ANSWER_TIMEOUT,
            Effect::Listing => LIST_TIMEOUT,
            Effect::Creation => CREATION_TIMEOUT,
        }
    }

    /// Upper bound on the body of the answer.
    pub(super) fn byte_limit(self) -> u64 {
        match self {
            Effect::Listing => MAX_LIST_BYTES,
            Effect::Idempotent | Effect::Creation => MAX_ANSWER_BYTES,
        }
    }
}
