//! The head of a disk whose format is raw must not look like another image format.
//!
//! The engine verifies an upload when it is finalized, by what `qemu-img info` detects in the disk's first
//! bytes ([`format`]), and removes a raw disk that is detected as something else, whoever made it. So the
//! guard knows the head as it is acknowledged, looks at each change of it *before* that is accepted, and
//! refuses the one after which the head would be detected: by a write of a whole image, of its last missing
//! byte, by zeros, or by a truncate. Where the format of the disk is not known (a transfer that somebody else
//! started), it only warns.
//!
//! Changes of the head come one at a time: [`Guard::admit`] gives the turn, and the caller keeps it while the
//! change enters the write-behind table, so that both have the same order. The turn comes before the disk's
//! inner lock, and nobody who answers for room in the table ever takes it. Changes behind the head don't.
//!
//! A head that looked wrong already when the disk was opened is no reason to refuse the rest of the disk. But
//! nothing may finalize the transfer before another head is durable: [`Guard::danger`]. The last look, when
//! the disk is closed, is at the storage itself.

pub(crate) mod format;

use std::ops::Range;

use self::format::{HEAD_BYTES, Head, ImageFormat, detect};
use super::{Disk, DiskError};
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, MutexGuard};

/// The reaction to a change after which the head looks like another format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadRule {
    /// The format of the disk allows any head.
    Any,
    /// The format of the disk is not known: the first such change is logged.
    Warn,
    /// The disk is raw, and such a change is refused.
    Refuse,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Guard {
    rule: HeadRule,
    announce: fn(&str),
    /// Held by whoever changes the head, while it waits for room in the table.
    turn: Mutex<()>,
    /// Locked for a moment only: a renewal asks for the danger, and the wait for room may be for its end.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The head with every acknowledged change; `None` until somebody asks for it.
    acknowledged: Option<Head>,
    /// The format as which the storage's head was detected, and since which write a better one is
    /// acknowledged.
    stored: Option<(ImageFormat, Option<u64>)>,
    /// The format that was refused, or warned of, last.
    told: Option<ImageFormat>,
}

/// A change of the head that may be made; whoever has it is the only one that changes the head.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    guard: &'a Guard,
    _turn: MutexGuard<'a, ()>,
    after: Head,
}

impl Admitted<'_> {
    /// The change has entered the table; `last_seq` is the number of the newest write.
    pub(super) fn accepted(self, last_seq: u64) {
        let mut state = self.guard.state.lock();
        state.acknowledged = Some(self.after);
        if let Some((_, since)) = &mut state.stored {
            *since = match detect(&self.after) {
                None => Some(since.unwrap_or(last_seq)),
                Some(_) => None,
            };
        }
    }
}

impl Guard {
    pub(super) fn new(rule: HeadRule, announce: fn(&str)) -> Self {
        Guard {
            rule,
            announce,
            turn: Mutex::new(()),
            state: Mutex::new(State::default()),
        }
    }

    /// Takes in the head of the storage, before anything changes it.
    pub(super) fn begin(&self, head: &Head) {
        let mut state = self.state.lock();
        state.acknowledged = Some(*head);
        state.stored = detect(head).map(|format| (format, None));
    }

    /// Returns the permission to change the bytes `range` of the disk to `data`, or to zeros; `None` where
    /// none is needed. `read` reads the head as it is acknowledged.
    pub(super) fn admit(
        &self,
        range: Range<u64>,
        data: Option<&[u8]>,
        read: impl FnOnce() -> Result<Head, DiskError>,
    ) -> Result<Option<Admitted<'_>>, DiskError> {
        if self.rule == HeadRule::Any || range.start >= HEAD_BYTES as u64 || range.is_empty() {
            return Ok(None);
        }
        let changed = range.start as usize..range.end.min(HEAD_BYTES as u64) as usize;
        let turn = self.turn.lock();
        let acknowledged = self.state.lock().acknowledged;
        let before = match (acknowledged, changed.len() == HEAD_BYTES) {
            (Some(head), _) => head,
            (None, true) => [0; HEAD_BYTES],
            (None, false) => match read() {
                Ok(head) => head,
                // A warning is no reason to fail a write.
                Err(_) if self.rule == HeadRule::Warn => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        let mut after = before;
        match data {
            Some(data) => after[changed.clone()].copy_from_slice(&data[..changed.len()]),
            None => after[changed].fill(0),
        }
        let admitted = Admitted {
            guard: self,
            _turn: turn,
            after,
        };
        let Some(format) = detect(&after) else {
            return Ok(Some(admitted));
        };
        let is_new = self.state.lock().told.replace(format) != Some(format);
        if is_new {
            (self.announce)(&self.message(format));
        }
        match self.rule {
            HeadRule::Refuse => Err(DiskError::LooksLike { format }),
            HeadRule::Warn | HeadRule::Any => Ok(Some(admitted)),
        }
    }

    /// The message about a change after which the head would look like `format`.
    fn message(&self, format: ImageFormat) -> String {
        match self.rule {
            HeadRule::Refuse => format!("refused a write: {}", DiskError::LooksLike { format }),
            HeadRule::Warn | HeadRule::Any => format!(
                "warning: the disk begins like a {format} image now. If its format in the engine is raw, the \
                 engine removes it when this upload is finalized: write what is in the image instead, with \
                 `qemu-img convert -n -O raw IMAGE FILE`"
            ),
        }
    }

    /// Takes in the head as the storage has it, after every acknowledged change of it.
    pub(super) fn stored(&self, head: &Head) {
        self.state.lock().stored = detect(head).map(|format| (format, None));
    }

    /// Returns the format as which the engine may detect the disk now, so that a finalize would remove it.
    /// Every write up to the number `flushed` is durable.
    pub(super) fn danger(&self, flushed: u64) -> Option<ImageFormat> {
        let (format, since) = self.state.lock().stored?;
        match since {
            Some(since) if since <= flushed => None,
            _ => Some(format),
        }
    }

    /// Returns the last message about a refused change, or the warning.
    pub(super) fn told(&self) -> Option<String> {
        let format = self.state.lock().told?;
        Some(self.message(format))
    }
}

impl Disk {
    /// Takes in the head of the storage, before anything changes it.
    pub(crate) fn begins_with(&self, head: &Head) {
        self.head.begin(head);
    }

    /// Returns the format as which the engine may detect the disk now, so that a finalize would remove it.
    pub(crate) fn head_in_danger(&self) -> Option<ImageFormat> {
        self.head.danger(self.flushed.load(Ordering::Acquire))
    }

    /// Returns why a write was refused for the format that the head would have had, or the warning about it.
    pub(crate) fn head_told(&self) -> Option<String> {
        self.head.told()
    }

    /// Reads the head of a raw disk from the storage once more, past all that is remembered, before a verdict
    /// that lets the transfer be finalized: others may have written over the same transfer. Where it can't be
    /// read at once, what was acknowledged counts: a transfer that is about to end is not renewed for this.
    pub(super) fn look_at_stored_head(&self) {
        if self.options.head != HeadRule::Refuse {
            return;
        }
        let mut head = [0; HEAD_BYTES];
        let n = self.size.min(HEAD_BYTES as u64) as usize;
        if self.pool.read_once(0, &mut [&mut head[..n]]).is_ok() {
            self.head.stored(&head);
        }
    }

    /// See [`Guard::admit`].
    pub(super) fn admit(
        &self,
        range: Range<u64>,
        data: Option<&[u8]>,
    ) -> Result<Option<Admitted<'_>>, DiskError> {
        self.head.admit(range, data, || self.read_head())
    }

    /// Reads the head with every acknowledged change.
    fn read_head(&self) -> Result<Head, DiskError> {
        let mut head = [0; HEAD_BYTES];
        let n = self.size.min(HEAD_BYTES as u64) as usize;
        head[..n].copy_from_slice(&self.reader.read(0, n, &mut Vec::new())?);
        Ok(head)
    }
}
