//! See `rhv_mount::fuzzing::notes`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::notes;

fuzz_target!(|data: &[u8]| notes(data));
