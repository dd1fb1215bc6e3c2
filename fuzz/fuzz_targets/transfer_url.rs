//! See `rhv_mount::fuzzing::transfer_url`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::transfer_url;

fuzz_target!(|data: &[u8]| transfer_url(data));
