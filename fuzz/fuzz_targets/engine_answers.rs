//! See `rhv_mount::fuzzing::engine_answers`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::engine_answers;

fuzz_target!(|data: &[u8]| engine_answers(data));
