//! The remains of a killed mount, judged for `recover`: which transfer it may have started, what the end of
//! it costs, what has become of its disk, and whose files are in its place.

use crate::engine::{Direction, Phase, Transfer};
use crate::mount::mountpoint::remove_placeholder;
use crate::mount::record::{Place, Record};
use crate::transfer::note::Note;

/// Removes the record of the dead mount, unless a later mount has taken the place: one by a transfer URL has
/// no note that would keep it from that.
pub(super) fn clear_place(place: &Place, note: &Note) {
    let record = place.record();
    let is_anothers = |record: &Record| {
        let other_namespace = !record.namespace.is_empty() && record.namespace != note.namespace;
        record.pid != note.pid || other_namespace
    };
    if record.as_ref().is_some_and(is_anothers) || place.stays_served() {
        return;
    }
    // The look for users of the file takes its time, and the place may be a later mount's by then.
    place.clear();
    if record.is_some_and(|record| record.created) {
        remove_placeholder(&note.mountpoint);
    }
}

/// Among the `open` transfers of the disk, the one that the mount may have started although it was killed
/// before it knew: one with the mark of its request, else any other in its direction.
pub(super) fn asked_for(note: &Note, mut open: Vec<Transfer>) -> Option<Transfer> {
    open.retain(|t| note.asked && t.direction == note.direction);
    let marked = open.iter().position(|t| note.is_proven(t));
    match marked {
        Some(at) => Some(open.swap_remove(at)),
        None => open.pop(),
    }
}

/// The cost of the end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// The disk stays.
    Nothing,
    /// A disk goes that was made for the mount.
    DiskOfOurs,
    /// A disk would go that was there before the mount.
    DiskThatWasThere,
}

/// The cost of the end that is asked for: the engine removes the disk of an upload that is cancelled.
pub(super) fn cost(note: &Note, cancel: bool) -> Cost {
    match (cancel && note.direction == Direction::Upload, note.created) {
        (false, _) => Cost::Nothing,
        (true, true) => Cost::DiskOfOurs,
        (true, false) => Cost::DiskThatWasThere,
    }
}

/// The disk of a transfer that has ended without us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left<'a> {
    /// Something else has it.
    Locked,
    /// It was made for the mount, its removal is asked for, and its transfer did not end well.
    ToRemove,
    /// Its removal is asked for, and its transfer has ended well.
    EndedWell,
    /// Its removal is asked for, and nobody knows whether it was made for the mount: the user had chosen its
    /// id, and the engine has never shown it to the mount.
    MayBeOthers,
    /// It can be used.
    Free,
    /// It was made for the mount, and is not there.
    GoneAsAsked,
    /// It was there before the mount, and is not there.
    Gone,
    /// It has this status, with which it can't be used.
    Bad(&'a str),
}

/// Judges the disk by its `status`, and by the `phase` in which its transfer has ended, where the engine
/// remembers that. A disk is removed only where that is asked for, it was made for this mount, and its
/// transfer did not end well.
pub(super) fn left<'a>(
    note: &Note,
    phase: Option<&Phase>,
    status: Option<&'a str>,
    destructive: bool,
) -> Left<'a> {
    let failed = phase == Some(&Phase::Failed) || (phase.is_none() && status == Some("illegal"));
    let never_started = note.transfer.is_none() || note.renewing;
    let never_shown = note.id_given && note.transfer.is_none() && !note.asked;
    match status {
        Some("locked") => Left::Locked,
        Some(_) if destructive && never_shown => Left::MayBeOthers,
        Some(_) if destructive && (failed || never_started) => Left::ToRemove,
        Some("ok") if destructive => Left::EndedWell,
        Some("ok") => Left::Free,
        Some(other) => Left::Bad(other),
        None if note.created => Left::GoneAsAsked,
        None => Left::Gone,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A note of a mount with a transfer, to a disk that was there.
    fn note(direction: Direction) -> Note {
        let transfer = Some("transfer".to_owned());
        Note {
            transfer,
            asked: true,
            ..Note::for_tests(direction)
        }
    }

    #[test]
    fn only_a_disk_that_was_made_for_the_mount_is_ever_removed_and_only_on_request() {
        for created in [false, true] {
            let of = |direction| Note {
                created,
                ..note(direction)
            };
            for direction in [Direction::Upload, Direction::Download] {
                assert_eq!(cost(&of(direction), false), Cost::Nothing, "created: {created}");
            }
            assert_eq!(cost(&of(Direction::Download), true), Cost::Nothing);
        }
        let mut note = note(Direction::Upload);
        assert_eq!(cost(&note, true), Cost::DiskThatWasThere);
        note.created = true;
        assert_eq!(cost(&note, true), Cost::DiskOfOurs);
    }

    #[test]
    fn a_disk_whose_transfer_has_ended_well_or_whose_removal_nobody_asked_for_is_kept() {
        let ours = Note {
            created: true,
            ..note(Direction::Upload)
        };
        let phases = [None, Some(&Phase::Finished), Some(&Phase::Failed)];
        for phase in phases {
            for status in ["ok", "illegal"] {
                assert_ne!(
                    left(&ours, phase, Some(status), false),
                    Left::ToRemove,
                    "{phase:?} {status}"
                );
            }
            assert_eq!(left(&ours, phase, Some("locked"), true), Left::Locked);
            assert_eq!(left(&ours, phase, None, true), Left::GoneAsAsked);
        }
        assert_eq!(
            left(&ours, Some(&Phase::Finished), Some("ok"), true),
            Left::EndedWell
        );
        assert_eq!(left(&ours, None, Some("ok"), true), Left::EndedWell);
        assert_eq!(
            left(&ours, Some(&Phase::Failed), Some("ok"), true),
            Left::ToRemove
        );
        assert_eq!(left(&ours, None, Some("illegal"), true), Left::ToRemove);
        let renewing = Note {
            renewing: true,
            ..ours.clone()
        };
        assert_eq!(
            left(&renewing, Some(&Phase::Finished), Some("ok"), true),
            Left::ToRemove
        );
        let mut unanswered = Note {
            transfer: None,
            asked: false,
            ..ours.clone()
        };
        assert_eq!(left(&unanswered, None, Some("ok"), true), Left::ToRemove);
        unanswered.id_given = true;
        assert_eq!(left(&unanswered, None, Some("ok"), true), Left::MayBeOthers);
        assert_eq!(left(&unanswered, None, None, true), Left::GoneAsAsked);
        unanswered.asked = true;
        assert_eq!(left(&unanswered, None, Some("ok"), true), Left::ToRemove);
        let existing = note(Direction::Upload);
        assert_eq!(left(&existing, None, None, false), Left::Gone);
        assert_eq!(
            left(&existing, None, Some("illegal"), false),
            Left::Bad("illegal")
        );
        assert_eq!(
            left(&existing, Some(&Phase::Finished), Some("ok"), false),
            Left::Free
        );
    }

    /// A later mount by a transfer URL has no note that would have kept it from the path.
    #[test]
    fn the_place_of_a_later_mount_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let note = note(Direction::Upload);
        let place = Place::of(dir.path(), &note.mountpoint);
        let record = |pid, namespace: &str| Record {
            mountpoint: note.mountpoint.clone(),
            file: None,
            pid,
            namespace: namespace.to_owned(),
            created: false,
            read_only: false,
        };
        for (pid, namespace) in [(note.pid + 1, note.namespace.as_str()), (note.pid, "pid:[1]")] {
            place.write_record(&record(pid, namespace)).unwrap();
            clear_place(&place, &note);
            assert!(place.record().is_some(), "it was another mount's");
        }
        place.write_record(&record(note.pid, &note.namespace)).unwrap();
        let listener = UnixListener::bind(place.socket()).unwrap();
        clear_place(&place, &note);
        assert!(
            place.record().is_some() && place.socket().exists(),
            "somebody listens"
        );
        drop(listener);
        clear_place(&place, &note);
        assert!(place.record().is_none() && !place.socket().exists());
    }

    /// A transfer with the mark of the mount's request goes before others.
    #[test]
    fn a_transfer_in_the_other_direction_is_never_taken_for_the_mounts() {
        let asked = note(Direction::Upload);
        let open = |id: &str, direction| Transfer {
            id: id.to_owned(),
            phase: Phase::Transferring,
            direction,
            transfer_url: None,
            proxy_url: None,
            host: None,
            disk: Some(asked.disk_id.clone()),
            inactivity_timeout: Some(60),
        };
        let theirs = open("theirs", Direction::Download);
        assert!(asked_for(&asked, vec![theirs.clone()]).is_none());
        let found = asked_for(&asked, vec![open("ours", Direction::Upload), theirs.clone()]);
        assert_eq!(found.map(|t| t.id).as_deref(), Some("ours"));
        let not_asked = Note {
            asked: false,
            ..asked.clone()
        };
        assert!(asked_for(&not_asked, vec![open("ours", Direction::Upload)]).is_none());
    }
}
