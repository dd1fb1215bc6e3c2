//! See `rhv_mount::fuzzing::imageio_answers`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::imageio_answers;

fuzz_target!(|data: &[u8]| imageio_answers(data));
