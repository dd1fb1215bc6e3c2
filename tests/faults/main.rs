//! rhv-mount against a server that misbehaves on purpose.
//!
//! `server` is an imageio server in this process with a write cache per connection and faults on demand;
//! `rig` mounts the built program on top of it. The tests are black-box tests: they look at files, exit
//! codes, messages, and the requests that the server received.

#![allow(unreachable_pub, reason = "nothing in a test crate is reachable from outside")]

mod aged;
mod answers;
mod attributes;
mod bad_options;
mod bad_servers;
mod bare_system;
mod checksums;
mod command;
mod company;
mod completions;
mod containers;
mod copies;
mod cousins;
mod endings;
mod endless;
mod extents;
mod failed_reads;
mod features;
mod fetched;
mod few_connections;
mod flush_promise;
mod hanging;
mod hanging_images;
mod heads;
mod holders;
mod hostile;
mod killed;
mod killed_callers;
mod limits;
mod local_sockets;
mod log_places;
mod memory;
mod metrics;
mod model;
mod mountpoints;
mod notified;
mod odd_end;
mod one_file;
mod owner;
mod pid_files;
mod progress;
mod reads;
mod redaction;
mod remount;
mod requests;
mod rig;
mod rights;
mod sent;
mod server;
mod server_itself;
mod short_lives;
mod silent;
mod slips;
mod slow_storage;
mod sticky_errors;
mod strange_paths;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod survived;
mod sync_mount;
mod terminal;
mod truncate_rule;
mod unheard;
mod units;
mod unread;
mod verified;
mod verified_copies;
