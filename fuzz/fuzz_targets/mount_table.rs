//! See `rhv_mount::fuzzing::mount_table`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::mount_table;

fuzz_target!(|data: &[u8]| mount_table(data));
