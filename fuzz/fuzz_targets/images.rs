//! See `rhv_mount::fuzzing::images`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::images;

fuzz_target!(|data: &[u8]| images(data));
