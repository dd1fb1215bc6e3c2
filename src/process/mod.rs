//! This process: its rights, its memory, who may look into it, and how it becomes the one that serves.

pub(crate) mod allocator;
pub(crate) mod handover;
pub(crate) mod privacy;
pub(crate) mod rights;
