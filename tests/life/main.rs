//! The whole life of a disk and its transfer: rhv-mount against a stand-in for the oVirt engine
//! (`tests/engine`) that hands out real tickets of a real ovirt-imageio daemon, with a real qemu-nbd behind
//! them.
//!
//! The tests judge a disk's bytes, its lock and the requests to the engine on the engine's side. They need
//! the packages and tools of `scripts/setup test`. Each test has its own engine, so they can run in parallel.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod authority;
mod backup_chains;
mod backup_faults;
mod backup_kept;
mod backup_killed;
mod backup_left;
mod backup_of_the_sdk;
mod backups;
mod configuration;
mod configuration_files;
mod copying;
mod created;
mod creating;
mod downloads;
mod example_of_the_sdk;
mod existing;
mod fault_table;
mod faults;
mod heads;
mod interrupted;
mod jobs;
mod left_behind;
mod listing;
mod listing_of_vms;
mod locked;
mod lost_at_the_start;
mod old_engine;
mod other_engine;
mod outcomes;
mod owners;
mod pasted;
mod pausing;
mod pods;
mod populating;
mod recovering;
mod refusals;
mod renewing;
mod restarting;
mod restore_faults;
mod restore_refused;
mod restoring;
mod rig;
mod secrets;
mod selftest;
mod starting;
mod state;
mod staying;
mod supervised;
mod systemd;
mod talking;
mod told;
mod unread;
mod unseen;
mod verified;
mod vm_backups;
mod vm_backups_killed;
mod vm_backups_since;
mod vm_failing;
mod vm_many;
mod vm_mounts;
mod vm_refused;
mod vm_writing;
mod waiting;
