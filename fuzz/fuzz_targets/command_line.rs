//! See `rhv_mount::fuzzing::command_line`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::command_line;

fuzz_target!(|data: &[u8]| command_line(data));
