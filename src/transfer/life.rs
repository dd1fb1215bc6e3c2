//! The stages of a transfer of our own, and the turn to move it.
//!
//! One thread at a time moves it: the watcher, a renewal, or the end. That thread has the [`Turn`], and with
//! it the note that `recover` would read; nobody else can write the note or change the stage. The lock of
//! [`Life`] is held for a moment only, never while the engine is asked: readers (status, the URL for a new
//! connection) see the stage of that moment, and another thread that wants the turn waits on the condvar.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::note_file::NoteFile;
use crate::engine::{Phase, Transfer};

/// How far a transfer, or the one that replaces it, has got.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// The engine has it open, as far as we know. `resumed`: a resume was tried on it, which is tried once.
    Serving { transfer: Transfer, resumed: bool },
    /// A renewal has asked the engine to finalize it, and does not know yet that it has ended.
    Finalizing { transfer: Transfer, resumed: bool },
    /// The last transfer has ended, and no other holds the disk.
    Between { last: Transfer, start: Start },
    /// A renewal has started it, and it is not ready for data yet.
    Starting { transfer: Transfer },
}

/// The fate of the request for the next transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The engine was not asked, or has refused.
    NotAsked,
    /// The request was not answered: the transfer may exist all the same.
    Unanswered,
}

impl Stage {
    /// A transfer that is ready for data.
    pub(super) fn serving(transfer: Transfer) -> Stage {
        Stage::Serving {
            transfer,
            resumed: false,
        }
    }

    /// The current transfer, or the last one where there is none.
    pub(super) fn transfer(&self) -> &Transfer {
        match self {
            Stage::Serving { transfer, .. }
            | Stage::Finalizing { transfer, .. }
            | Stage::Starting { transfer } => transfer,
            Stage::Between { last, .. } => last,
        }
    }

    /// True when a resume was tried on the current transfer.
    pub(super) fn was_resumed(&self) -> bool {
        matches!(
            self,
            Stage::Serving { resumed: true, .. } | Stage::Finalizing { resumed: true, .. }
        )
    }

    /// A resume is tried on the current transfer; nothing is left to resume between two.
    pub(super) fn resume(self) -> Stage {
        match self {
            Stage::Serving { transfer, .. } | Stage::Starting { transfer } => Stage::Serving {
                transfer,
                resumed: true,
            },
            Stage::Finalizing { transfer, .. } => Stage::Finalizing {
                transfer,
                resumed: true,
            },
            between @ Stage::Between { .. } => between,
        }
    }

    /// A user has paused the current transfer: an earlier resume has had its effect, and says nothing about
    /// the next one.
    pub(super) fn paused_by_user(self) -> Stage {
        match self {
            Stage::Serving { transfer, .. } => Stage::serving(transfer),
            other => other,
        }
    }

    /// A renewal asks the engine to finalize the current transfer.
    pub(super) fn finalize(self) -> Stage {
        match self {
            Stage::Serving { transfer, resumed } => Stage::Finalizing { transfer, resumed },
            Stage::Starting { transfer } => Stage::Finalizing {
                transfer,
                resumed: false,
            },
            other @ (Stage::Finalizing { .. } | Stage::Between { .. }) => other,
        }
    }

    /// The current transfer has ended.
    pub(super) fn ended(self) -> Stage {
        match self {
            Stage::Serving { transfer, .. }
            | Stage::Finalizing { transfer, .. }
            | Stage::Starting { transfer } => Stage::Between {
                last: transfer,
                start: Start::NotAsked,
            },
            between @ Stage::Between { .. } => between,
        }
    }

    /// The next transfer was asked for, with this result so far.
    pub(super) fn asked(self, start: Start) -> Stage {
        match self {
            Stage::Between { last, .. } => Stage::Between { last, start },
            other => other,
        }
    }
}

/// The last thing that the watcher saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Phase(Phase),
    /// The engine does not know the transfer any more.
    Gone,
    /// It was paused by the system and has just been resumed.
    Resuming,
}

/// The use of the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// No byte can have moved.
    Unused,
    /// Bytes may have moved.
    Used,
    /// It is being ended, or has ended. Ending happens once.
    Ending,
}

/// The things that belong to the holder of the turn.
#[derive(Debug)]
struct Desk {
    note: NoteFile,
    /// When a renewal last got a new right.
    renewed: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    stage: Stage,
    seen: Seen,
    course: Course,
    /// `None` while a thread has the turn.
    desk: Option<Desk>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Life {
    shared: Mutex<Shared>,
    turn_is_free: Condvar,
}

impl Life {
    /// The life of `transfer`, which is ready for data and noted in `note`.
    pub(super) fn new(transfer: Transfer, note: NoteFile) -> Life {
        let desk = Desk { note, renewed: None };
        Life {
            shared: Mutex::new(Shared {
                seen: Seen::Phase(transfer.phase.clone()),
                stage: Stage::serving(transfer),
                course: Course::Unused,
                desk: Some(desk),
            }),
            turn_is_free: Condvar::new(),
        }
    }

    /// Waits for the turn.
    pub(super) fn turn(&self) -> Turn<'_> {
        let mut shared = self.shared.lock();
        loop {
            if let Some(desk) = shared.desk.take() {
                let desk = Some(desk);
                return Turn { life: self, desk };
            }
            self.turn_is_free.wait(&mut shared);
        }
    }

    /// The turn, where nobody has it.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        let desk = Some(self.shared.lock().desk.take()?);
        Some(Turn { life: self, desk })
    }

    pub(super) fn stage(&self) -> Stage {
        self.shared.lock().stage.clone()
    }

    /// How the transfer stands, for people: the engine's word for its phase, or ours where it has none.
    pub(super) fn shown(&self) -> String {
        let shared = self.shared.lock();
        let serves = matches!(shared.stage, Stage::Serving { .. });
        let is_renewed = !serves && shared.desk.is_none();
        match (&shared.course, &shared.seen) {
            (Course::Ending, _) => "ending".to_owned(),
            _ if is_renewed => "renewing".to_owned(),
            (_, Seen::Phase(phase)) => phase.to_string(),
            (_, Seen::Gone) => "gone".to_owned(),
            (_, Seen::Resuming) => "resuming".to_owned(),
        }
    }

    /// Notes what the watcher saw; returns what it saw before.
    pub(super) fn see(&self, seen: Seen) -> Seen {
        std::mem::replace(&mut self.shared.lock().seen, seen)
    }

    pub(super) fn course(&self) -> Course {
        self.shared.lock().course
    }

    /// Bytes may move from now on.
    pub(super) fn set_used(&self) {
        let mut shared = self.shared.lock();
        if shared.course == Course::Unused {
            shared.course = Course::Used;
        }
    }

    /// Begins the end; false when somebody else has begun it.
    pub(super) fn begin_end(&self) -> bool {
        std::mem::replace(&mut self.shared.lock().course, Course::Ending) != Course::Ending
    }
}

/// The right to move the transfer; it goes to the next thread when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    life: &'a Life,
    desk: Option<Desk>,
}

impl Turn<'_> {
    fn desk(&mut self) -> &mut Desk {
        self.desk.as_mut().expect("the desk leaves in drop only")
    }

    pub(super) fn stage(&self) -> Stage {
        self.life.stage()
    }

    /// The id of the current transfer, or of the last one where there is none.
    pub(super) fn id(&self) -> String {
        self.stage().transfer().id.clone()
    }

    /// Makes a transition; everybody sees it at once.
    pub(super) fn step(&mut self, transition: impl FnOnce(Stage) -> Stage) {
        let mut shared = self.life.shared.lock();
        shared.stage = transition(shared.stage.clone());
    }

    pub(super) fn note(&mut self) -> &mut NoteFile {
        &mut self.desk().note
    }

    /// How long ago a renewal last got a new right.
    pub(super) fn renewed(&mut self) -> Option<Duration> {
        self.desk().renewed.map(|at| at.elapsed())
    }

    pub(super) fn set_renewed(&mut self) {
        self.desk().renewed = Some(Instant::now());
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.life.shared.lock().desk = self.desk.take();
        self.life.turn_is_free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Direction;

    fn transfer(id: &str) -> Transfer {
        Transfer {
            id: id.to_owned(),
            phase: Phase::Transferring,
            direction: Direction::Upload,
            transfer_url: None,
            proxy_url: None,
            host: None,
            disk: None,
            inactivity_timeout: None,
        }
    }

    #[test]
    fn a_transfer_that_has_ended_leaves_a_gap_in_which_nothing_can_be_resumed_or_finalized() {
        let between = Stage::serving(transfer("a")).finalize().ended();
        assert!(matches!(
            between,
            Stage::Between {
                start: Start::NotAsked,
                ..
            }
        ));
        assert!(matches!(between.clone().resume(), Stage::Between { .. }));
        assert!(matches!(between.clone().finalize(), Stage::Between { .. }));
        let unanswered = between.asked(Start::Unanswered);
        assert!(matches!(
            unanswered.ended(),
            Stage::Between {
                start: Start::Unanswered,
                ..
            }
        ));
    }

    #[test]
    fn a_resume_is_remembered_until_another_transfer_serves() {
        let resumed = Stage::serving(transfer("a")).resume();
        assert!(resumed.was_resumed() && resumed.clone().finalize().was_resumed());
        assert!(!Stage::serving(transfer("b")).was_resumed());
        assert!(!resumed.clone().paused_by_user().was_resumed());
        assert!(resumed.clone().finalize().paused_by_user().was_resumed());
        assert!(!resumed.ended().was_resumed());
    }

    #[test]
    fn a_start_can_be_unanswered_only_while_no_transfer_holds_the_disk() {
        let serving = Stage::serving(transfer("a")).asked(Start::Unanswered);
        assert!(matches!(serving, Stage::Serving { .. }));
        assert_eq!(serving.transfer().id, "a");
    }
}
