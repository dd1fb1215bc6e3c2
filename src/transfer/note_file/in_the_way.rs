//! The note that is found where another one is to be created: whether it may stay beside that, and else the
//! message that says whose it is, and how it is seen to.

use std::io;
use std::path::Path;

use super::{UNREADABLE, look};
use crate::failure::{Exit, Failure};
use crate::settings::Task;
use crate::transfer::note::{Note, Owner};

/// True when the note in `path` is about another disk than `ours`, and no process that can be seen here
/// serves that.
pub(super) fn is_left_of_another_disk(path: &Path, ours: &Note) -> bool {
    let disk = |note: &Note| (note.engine_url.clone(), note.disk_id.clone());
    look(path).is_ok_and(|(left, owner)| owner != Owner::AtWork && disk(&left) != disk(ours))
}

/// The note in `path` keeps a disk from being opened for what `ours` is about. `None`: it is gone meanwhile.
pub(super) fn in_the_way(path: &Path, ours: &Note) -> Option<Failure> {
    let shown = ours.mountpoint.display();
    let why = match look(path) {
        Ok((other, owner @ (Owner::AtWork | Owner::Elsewhere))) => format!(
            "{} serves disk {} ({}) on that path",
            other.process_shown(owner),
            other.disk_id,
            other.disk_name
        ),
        Ok((other, Owner::Busy)) => format!(
            "an earlier run there is being recovered; wait until that is over, see `{}`",
            other.recover_line()
        ),
        Ok((other, Owner::Gone)) => format!(
            "an earlier run with this disk there has left its transfer: {}; see to it with `{}` first",
            other.cause.words(other.task),
            other.recover_line()
        ),
        Ok((other, owner @ (Owner::Foreign | Owner::Unknown))) => format!(
            "this disk was mounted on the same path by {}, and nothing here tells whether that is at work; \
             see `{}`",
            other.process_shown(owner),
            other.recover_line()
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => format!(
            "the note of an earlier mount, {}, is not readable: {e}; {UNREADABLE}",
            path.display()
        ),
    };
    Some(match ours.task {
        Task::Mount => Failure::text(Exit::Mount, format!("cannot mount on {shown}: {why}")),
        Task::Upload => Failure::text(Exit::Transfer, format!("cannot upload {shown}: {why}")),
        Task::Download => Failure::text(Exit::Transfer, format!("cannot download to {shown}: {why}")),
        Task::Backup => Failure::text(Exit::Transfer, format!("cannot back up to {shown}: {why}")),
        Task::Restore => Failure::text(Exit::Transfer, format!("cannot restore from {shown}: {why}")),
        Task::Checksum => Failure::text(
            Exit::Transfer,
            format!("cannot compute the checksum of {shown}: {why}"),
        ),
    })
}
