//! The whole life of a disk and its transfer: rhv-mount against a stand-in of the oVirt engine (`tests/engine`) that
//! hands out real tickets of a real ovirt-imageio daemon, with a real qemu-nbd behind them.
//!
//! What a disk holds, whether it is locked and what was asked of the engine is always judged on the engine's side.
//! Needs what `scripts/setup test` installs. Each test has an engine of its own, so they may run side by side.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod authority;
mod configuration;
mod created;
mod creating;
mod downloads;
mod existing;
mod fault_table;
mod faults;
mod old_engine;
mod recovering;
mod refusals;
mod renewing;
mod rig;
mod secrets;
mod selftest;
mod state;
mod staying;
mod talking;
mod waiting;
