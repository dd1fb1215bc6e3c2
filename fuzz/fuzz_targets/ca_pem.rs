//! See `rhv_mount::fuzzing::ca_pem`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::ca_pem;

fuzz_target!(|data: &[u8]| ca_pem(data));
