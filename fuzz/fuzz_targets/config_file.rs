//! See `rhv_mount::fuzzing::config_file`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::config_file;

fuzz_target!(|data: &[u8]| config_file(data));
