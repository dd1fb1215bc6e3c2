//! See `rhv_mount::fuzzing::mount_options`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::mount_options;

fuzz_target!(|data: &[u8]| mount_options(data));
