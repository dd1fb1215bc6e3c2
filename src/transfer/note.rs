//! The note that a killed rhv-mount leaves behind for `recover`: one small file for each transfer of our own.
//!
//! It is written before anything is made in the engine, so that the engine never holds something that nobody
//! knows of; rewritten when the transfer has an id; removed when the transfer has ended. It outlives a
//! reboot, and it holds no password, token or ticket. `note_file` keeps it, and keeps it locked while its
//! process lives; [`Note::owner`] decides from the lock whether that process does. A process that leaves a
//! transfer on its own notes the [`Cause`]; one that was killed can't.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::unfinished::Unfinished;
use crate::engine::{Account, Direction, Mark, Transfer, is_uuid};
use crate::process::identity::{start_of, this_boot, this_machine, this_pid_namespace};
use crate::settings::Task;
use crate::settings::account::LoginPlaces;
use crate::shell;
use crate::trust::Trust;

/// The facts about a transfer. The names of the fields are those in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The canonical path of the mountpoint, or the path of the image that is copied.
    #[serde(with = "crate::path_bytes")]
    pub(crate) mountpoint: PathBuf,
    /// The work for which the disk was opened; notes of older versions are of mounts.
    #[serde(default)]
    pub(crate) task: Task,
    /// The VM whose disks were opened together, this one among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<String>,
    /// The process that serves it.
    pub(crate) pid: u32,
    /// When that process began, see [`start_of`].
    pub(crate) started: Option<u64>,
    pub(crate) engine_url: String,
    pub(crate) username: String,
    pub(crate) trust: Trust,
    /// The places from which the login came.
    #[serde(default)]
    pub(crate) login: LoginPlaces,
    pub(crate) direction: Direction,
    /// The id of the disk, or of the snapshot.
    pub(crate) disk_id: String,
    pub(crate) disk_name: String,
    /// `disk_id` is a disk snapshot.
    pub(crate) snapshot: bool,
    /// The id of the backup as part of which the disk is read, which ends after the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) of_backup: Option<String>,
    /// It is about this backup of the VM `disk_id`, and about no transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backup: Option<NotedBackup>,
    /// The disk was made for this mount.
    pub(crate) created: bool,
    /// The id of the disk that was to be made was chosen before, by the user or for a restore, and no answer
    /// has told that it is ours: it may be somebody else's.
    #[serde(default)]
    pub(crate) id_given: bool,
    /// The engine was asked for a transfer; it may have started one although we have no id.
    pub(crate) asked: bool,
    /// The mark of the request; notes of older versions have none.
    #[serde(default)]
    pub(crate) mark: Option<Mark>,
    /// `None` before the engine has answered.
    pub(crate) transfer: Option<String>,
    pub(crate) host: Option<String>,
    /// The transfer is being replaced by another one, see `renewal`: its end is not the end of the mount.
    #[serde(default)]
    pub(crate) renewing: bool,
    /// The image format as which the head of the raw disk was detected before anything was written, or by
    /// `recover`: a finalize would have removed the disk then.
    #[serde(default)]
    pub(crate) head: Option<String>,
    /// The head of the raw disk was looked at, and writes of such a head are refused since.
    #[serde(default)]
    pub(crate) looked: bool,
    /// The trust in imageio where it is not that in the engine.
    #[serde(default)]
    pub(crate) imageio_trust: Option<Trust>,
    /// The reason why the transfer is left, once its process is gone.
    #[serde(default)]
    pub(crate) cause: Cause,
    /// Every byte that was to be written is on the storage: the process had seen that before it was gone.
    #[serde(default)]
    pub(crate) all_arrived: bool,
    /// The image of a download that is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unfinished: Option<Unfinished>,
    /// The machine that serves it, and since which boot: a home directory may be shared.
    pub(crate) machine: String,
    pub(crate) boot: String,
    /// Its PID namespace, in which `pid` means something.
    #[serde(default)]
    pub(crate) namespace: String,
    /// Its process holds the lock of the file, and everybody who sees the file sees the lock.
    #[serde(default)]
    pub(crate) locked: bool,
}

/// A backup of a VM in a note.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedBackup {
    /// The words in its description that no other backup has.
    pub(crate) token: String,
    /// `None` before the engine has answered.
    pub(crate) id: Option<String>,
    /// The snapshot that the engine has made for it.
    #[serde(default)]
    pub(crate) snapshot: Option<String>,
    /// The checkpoint that it makes, which is in the names of its files.
    #[serde(default)]
    pub(crate) checkpoint: Option<String>,
    /// The manifest that will name the files.
    #[serde(with = "crate::path_bytes")]
    pub(crate) manifest: PathBuf,
    /// The files that have got their names, and are worth nothing without the manifest.
    #[serde(default)]
    pub(crate) files: Vec<Unfinished>,
}

/// The state of a note's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    Free {
        /// Everybody who sees the file sees its locks.
        certain: bool,
    },
    /// Somebody has it.
    Held,
    /// Its file system has no locks.
    Unknown,
}

/// The process that a note belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is gone: what it has left can be ended.
    Gone,
    /// It is at work, and can be seen from here.
    AtWork,
    /// It is at work where it can't be seen from here: in another PID namespace, or on another machine.
    Elsewhere,
    /// Its number is free here, and the lock is not: it is about to be gone, or a `recover` is at work.
    Busy,
    /// Another machine would have to tell.
    Foreign,
    /// Nothing here can tell.
    Unknown,
}

impl Note {
    /// A note of this process's, about no disk and no transfer yet.
    pub(crate) fn of(mountpoint: &Path, account: &Account, direction: Direction) -> Note {
        Note {
            mountpoint: mountpoint.to_owned(),
            task: Task::Mount,
            vm: None,
            pid: std::process::id(),
            started: start_of(std::process::id()),
            engine_url: account.url.clone(),
            username: account.username.clone(),
            trust: account.trust.clone(),
            login: LoginPlaces::default(),
            direction,
            disk_id: String::new(),
            disk_name: String::new(),
            snapshot: false,
            of_backup: None,
            backup: None,
            created: false,
            id_given: false,
            asked: false,
            mark: None,
            transfer: None,
            host: None,
            renewing: false,
            head: None,
            looked: false,
            imageio_trust: None,
            cause: Cause::Killed,
            all_arrived: false,
            unfinished: None,
            machine: this_machine(),
            boot: this_boot(),
            namespace: this_pid_namespace(),
            locked: false,
        }
    }

    /// A note of this process's, for the tests of those who read notes.
    #[cfg(test)]
    pub(crate) fn for_tests(direction: Direction) -> Note {
        let account = Account {
            url: "https://engine.example".into(),
            username: "admin@internal".into(),
            password: crate::secret::Secret::new("unused"),
            trust: Trust::Insecure,
        };
        Note {
            disk_id: "disk".to_owned(),
            ..Note::of(Path::new("/mnt/disk"), &account, direction)
        }
    }

    /// Tells what became of the process that wrote this, whose `lock` was looked at. The lock decides where
    /// it can: the number of a process says nothing outside its own PID namespace and boot, and the name of a
    /// machine does not tell it from another one of that name.
    pub(super) fn owner(&self, lock: Lock) -> Owner {
        // Earlier versions noted no namespace.
        let is_here = self.namespace.is_empty() || self.namespace == this_pid_namespace();
        let is_visible = self.boot == this_boot() && is_here;
        let lives = || self.started.is_some() && start_of(self.pid) == self.started;
        match lock {
            Lock::Free { certain: true } if self.locked => Owner::Gone,
            Lock::Held if !is_visible => Owner::Elsewhere,
            _ if is_visible && lives() => Owner::AtWork,
            Lock::Held => Owner::Busy,
            _ if is_visible => Owner::Gone,
            _ if self.machine != this_machine() => Owner::Foreign,
            Lock::Free { .. } | Lock::Unknown => Owner::Unknown,
        }
    }

    /// True for another reading of the same run's note, which may have been rewritten since. The name of a
    /// note is free when its run has ended, and the next run on that path takes it.
    pub(super) fn is_of_the_run_of(&self, other: &Note) -> bool {
        let run = |note: &Note| (note.pid, note.started);
        let place = |note: &Note| [&note.machine, &note.boot, &note.namespace].map(String::clone);
        run(self) == run(other) && place(self) == place(other)
    }

    /// True for a transfer that is certainly the one that was asked for: it is in the direction of the mount,
    /// and has its mark, or is of a disk that was made for the mount.
    pub(crate) fn is_proven(&self, transfer: &Transfer) -> bool {
        transfer.direction == self.direction && (self.created || transfer.is_of(self.direction, self.mark))
    }

    /// The host, for messages.
    pub(crate) fn host_shown(&self) -> &str {
        self.host.as_deref().unwrap_or("unknown")
    }

    /// The command that ends what is left, for a shell.
    pub(crate) fn recover_line(&self) -> String {
        match self.cause {
            Cause::NotRemoved => self.recover_with("--cancel"),
            // A disk that is no whole copy would stay under the id and the name of the one that was lost.
            Cause::Killed | Cause::Ending
                if self.task == Task::Restore && self.created && !self.all_arrived =>
            {
                self.recover_with("--cancel")
            }
            _ => format!("rhv-mount recover {}", self.which()),
        }
    }

    /// The same with an option.
    pub(crate) fn recover_with(&self, option: &str) -> String {
        format!("rhv-mount recover {option} {}", self.which())
    }

    /// The id by which `recover` takes what is left: that of the transfer or backup, or of the disk or VM
    /// while there is none.
    pub(crate) fn id(&self) -> &str {
        let backup = || self.backup.as_ref().and_then(|backup| backup.id.as_deref());
        self.transfer.as_deref().or_else(backup).unwrap_or(&self.disk_id)
    }

    /// The disk whose status tells how its transfer has ended: no snapshot, and no disk that a backup has.
    pub(crate) fn disk_to_check(&self) -> Option<&str> {
        let is_others = self.snapshot || self.of_backup.is_some() || self.backup.is_some();
        (!is_others).then_some(self.disk_id.as_str())
    }

    /// The word for `recover` that means this note alone: others may stand on the same mountpoint.
    fn which(&self) -> String {
        match is_uuid(self.id()) {
            true => self.id().to_owned(),
            false => shell::word(&self.mountpoint),
        }
    }

    /// The process that it belongs to, for people: the number of one in another container means nothing here.
    pub(crate) fn process_shown(&self, owner: Owner) -> String {
        match owner {
            Owner::AtWork | Owner::Busy | Owner::Gone => format!("process {}", self.pid),
            Owner::Elsewhere | Owner::Foreign | Owner::Unknown => format!(
                "process {} of another container or machine (its name is {})",
                self.pid, self.machine
            ),
        }
    }

    /// The run and its place, for messages: `a mount on /mnt/web01`.
    pub(crate) fn run_shown(&self) -> String {
        let run = match self.task {
            Task::Mount => "a mount on",
            Task::Upload => "an upload of",
            Task::Download => "a download to",
            Task::Checksum => "a checksum of",
            Task::Backup => "a backup to",
            Task::Restore => "a restore from",
        };
        format!("{run} {}", self.mountpoint.display())
    }

    /// True once the end of the mount has begun.
    pub(crate) fn is_ending(&self) -> bool {
        self.cause != Cause::Killed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Phase;

    /// A home directory may be shared by machines with different versions.
    #[test]
    fn a_note_of_an_older_and_of_a_later_version_is_read() {
        let mut json = serde_json::to_value(Note::for_tests(Direction::Upload)).unwrap();
        json["cause"] = "struck_by_lightning".into();
        json["something_new"] = 1.into();
        let later: Note = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(later.cause, Cause::Unheard);
        for new in ["cause", "all_arrived", "login"] {
            json.as_object_mut().unwrap().remove(new);
        }
        let older: Note = serde_json::from_value(json).unwrap();
        assert_eq!((older.cause, older.all_arrived), (Cause::Killed, false));
        assert_eq!(Cause::FinalizeFailed.name(), "finalize_failed");
    }

    #[test]
    fn a_restored_disk_is_kept_only_where_all_of_it_has_arrived() {
        let mut note = Note {
            task: Task::Restore,
            created: true,
            ..Note::for_tests(Direction::Upload)
        };
        for cause in [Cause::Killed, Cause::Ending, Cause::NotRemoved] {
            note.cause = cause;
            assert!(note.recover_line().contains("--cancel"), "{cause:?}");
        }
        (note.cause, note.all_arrived) = (Cause::Ending, true);
        assert!(!note.recover_line().contains("--cancel"));
    }

    #[test]
    fn a_transfer_of_somebody_else_is_never_proven_to_be_ours() {
        let open = |direction, inactivity_timeout| Transfer {
            id: "t".to_owned(),
            phase: Phase::Transferring,
            direction,
            transfer_url: None,
            proxy_url: None,
            host: None,
            disk: None,
            inactivity_timeout: Some(inactivity_timeout),
        };
        let mark = Mark::random();
        let number = serde_json::to_value(mark).unwrap().as_u64().unwrap();
        for direction in [Direction::Upload, Direction::Download] {
            let other = match direction {
                Direction::Upload => Direction::Download,
                Direction::Download => Direction::Upload,
            };
            let mut note = Note {
                mark: Some(mark),
                ..Note::for_tests(direction)
            };
            assert!(note.is_proven(&open(direction, number)));
            assert!(!note.is_proven(&open(direction, number + 1)));
            assert!(!note.is_proven(&open(other, number)));
            // Whoever downloads a disk that was made here has not started its upload.
            note.created = true;
            assert!(note.is_proven(&open(direction, 60)));
            assert!(!note.is_proven(&open(other, number)));
            note.created = false;
            note.mark = None;
            assert!(
                !note.is_proven(&open(direction, number)),
                "without a mark nothing is proven"
            );
        }
    }
}
