//! See `rhv_mount::fuzzing::manifests`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhv_mount::fuzzing::manifests;

fuzz_target!(|data: &[u8]| manifests(data));
