//! The control plane: all requests to the oVirt engine. No disk data passes through here.
//!
//! An [`Engine`] is a session. Disks are found or made in it, and a [`Transfer`] of a disk provides the
//! transfer URL. Two facts shape this module (oVirt 4.5, TransferDiskImageCommand):
//! - *The answer to an action proves nothing.* Finalize and cancel are answered with 200 in any phase, even
//!   for a transfer that does not exist. So the outcome is polled for.
//! - *A cancelled upload takes its disk with it*, even a disk that existed before. So [`Engine::cancel`] is
//!   called only for downloads, and for uploads to disks that this run made.
//!
//! Calls block, in waits that have limits and that an [`Interrupt`] ends early.
//!
//! ```text
//! address          the engine's URL, and searches below it
//! agent            the HTTP client with its timeouts
//! transport        TCP, proxy and TLS below it
//! ca               fetches the CA certificate before anything is trusted
//! effect           the kinds of requests, and the bounds on their answers
//! wire             requests and their repetition
//! answers          tells the engine's answers from a front end's
//! opening          the patience with an engine that starts
//! login            the session's token
//! json             the engine's conventions in JSON
//! listing          lists what there is, with ids, for people and programs
//! error            the errors, and the meaning of a fault
//! patience         pauses, limits and signals
//! disks            finds disks and waits for them
//! new_disks        makes disks and removes them again
//! storage_domains  names and data centers of storage domains
//! hosts            finds this machine among the engine's hosts
//! phase            the phases of a transfer
//! transfers        starts and follows transfers
//! endings          finalizes and cancels transfers
//! backups          starts and follows backups of a VM
//! ended_backups    finalizes one, and tells how it has ended
//! refused_backups  why the engine refuses one, and what to do
//! checkpoints      the points in time from which changes are known
//! restoring        makes a VM from its configuration, and attaches disks
//! events           what the engine has noted about an object
//! ```

mod address;
mod agent;
mod answers;
mod backups;
mod ca;
mod checkpoints;
mod disks;
mod effect;
mod ended_backups;
mod endings;
mod error;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hosts;
mod json;
mod listing;
mod login;
mod new_disks;
mod opening;
mod patience;
mod phase;
mod refused_backups;
mod restoring;
mod storage_domains;
mod transfers;
mod transport;
mod wire;

pub(crate) use self::address::address;
pub(crate) use self::backups::{Backup, BackupOrder, Readiness};
pub(crate) use self::ca::certificate;
pub(crate) use self::checkpoints::Checkpoint;
pub(crate) use self::disks::{Disk, MAX_LOCK_WAIT, is_uuid};
pub(crate) use self::ended_backups::BackupEnd;
pub(crate) use self::error::Error;
pub(crate) use self::hosts::this_hardware;
pub(crate) use self::listing::{
    AttachedDisk, BackedVm, Cluster, LeftOut, ListedDisk, ListedDomain, ListedSnapshot, ListedVm, VmDisk,
    VmDisks, VmSnapshot,
};
pub(crate) use self::new_disks::{Format, NewDisk};
pub(crate) use self::patience::{Interrupt, Patience};
pub(crate) use self::phase::{Direction, Phase};
pub(crate) use self::restoring::{NewAttachment, NewVm};
pub(crate) use self::transfers::{Mark, Order, Subject, Transfer, UNATTENDED_LOCK_WAIT};
pub(crate) use self::wire::{Account, Engine, random_id};
