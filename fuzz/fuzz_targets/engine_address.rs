//! See `rhv_mount::fuzzing::engine_address`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::engine_address;

fuzz_target!(|data: &[u8]| engine_address(data));
