//! See `rhv_mount::fuzzing::control_messages`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::control_messages;

fuzz_target!(|data: &[u8]| control_messages(data));
