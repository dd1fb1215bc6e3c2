//! See `rhv_mount::fuzzing::engine_values`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::engine_values;

fuzz_target!(|data: &[u8]| engine_values(data));
