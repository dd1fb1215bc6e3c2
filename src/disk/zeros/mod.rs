//! What is known to be zero, and what is found to be.

pub(crate) mod detection;
pub(crate) mod map;
