//! See `rhv_mount::fuzzing::redaction`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::redaction;

fuzz_target!(|data: &[u8]| redaction(data));
