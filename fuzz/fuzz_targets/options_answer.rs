//! See `rhv_mount::fuzzing::options_answer`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::options_answer;

fuzz_target!(|data: &[u8]| options_answer(data));
