//! See `rhv_mount::fuzzing::extents_answer`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::extents_answer;

fuzz_target!(|data: &[u8]| extents_answer(data));
