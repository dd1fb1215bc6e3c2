//! This process: its rights, its memory, who may look into it, and how it becomes the one that serves.

pub(crate) mod allocator;
pub(crate) mod handover;
pub(crate) mod identity;
pub(crate) mod privacy;
pub(crate) mod rights;
pub(crate) mod runtime_directory;

use crate::failure::Failure;

/// Starts a thread that is called `name` in a debugger and in a panic's message.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, Failure> {
    Ok(std::thread::Builder::new().name(name.into()).spawn(body)?)
}
