//! The control plane: everything that is asked of the oVirt engine, and nothing of the data.
//!
//! Called by `run` only. An [`Engine`] is a session; [`Disk`]s are found or made in it, and a [`Transfer`] is
//! what gives a transfer URL. Two facts rule this module (oVirt 4.5, TransferDiskImageCommand):
//! - *an action's answer proves nothing*: finalize and cancel say 200 from any phase, also for a transfer that does
//!   not exist; the outcome is polled for;
//! - *an upload that is cancelled takes its disk with it*, whoever made the disk. [`Engine::cancel`] is therefore called
//!   for downloads, and for uploads to disks that this very mount made.
//!
//! ```text
//! address    the URL, searches            ca        the CA certificate, before any trust
//! wire       requests, what may be repeated         login     the session
//! json       the engine's way to write it           patience  waiting with a limit
//! disks      find, make, wait, remove               hosts     is this machine one of the engine's
//! phase      where a transfer stands                transfers start, follow, finalize, cancel
//! ```

mod address;
mod agent;
mod ca;
mod disks;
mod endings;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hosts;
mod json;
mod login;
mod new_disks;
mod patience;
mod phase;
mod storage_domains;
mod transfers;
mod wire;

pub(crate) use self::address::address;
pub(crate) use self::ca::certificate;
pub(crate) use self::disks::is_uuid;
pub(crate) use self::error::Error;
pub(crate) use self::hosts::this_hardware;
pub(crate) use self::new_disks::{Format, NewDisk};
pub(crate) use self::patience::{Interrupt, Patience};
pub(crate) use self::phase::{Direction, Phase};
pub(crate) use self::transfers::{Order, Subject, Transfer};
pub(crate) use self::wire::{Account as Access, Engine, random_id};
