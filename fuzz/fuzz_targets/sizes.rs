//! See `rhv_mount::fuzzing::sizes`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::sizes;

fuzz_target!(|data: &[u8]| sizes(data));
