//! Settings of glibc's allocator under which freed memory goes back to the system.
//!
//! glibc gives threads heaps of their own, eight for each processor, and after the first large buffer that is
//! freed it takes the next ones from these heaps too. Buffers of all sizes, which one thread allocates and
//! another one frees, leave holes in each of them: measured, 490 MiB after two minutes of a mixed load whose
//! limits add up to 224 MiB, and growing; with the settings here 90 to 170 MiB, and as fast. (mimalloc as the
//! global allocator took 736 MiB under such a load, and moved an eighth less.) A program reads the settings
//! when it starts, so the next of our processes gets them, and COMMAND gets the user's own. Other C libraries
//! ignore them.

use std::env::var_os;
use std::process::Command;

/// Two heaps, with large buffers (a cell, a chunk) apart from them. `disk` recycles the buffers that it uses
/// again.
const SETTINGS: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "524288")];

/// Sets the variables for a process of ours; a value that the user has set stays.
pub(crate) fn tune(command: &mut Command) {
    for (name, value) in SETTINGS {
        if var_os(name).is_none() {
            command.env(name, value);
        }
    }
}

/// Removes the variables that [`tune`] has set, for a program of the user's.
pub(crate) fn as_before(command: &mut Command) {
    for (name, value) in SETTINGS {
        if var_os(name).is_some_and(|set| set == value) {
            command.env_remove(name);
        }
    }
}
