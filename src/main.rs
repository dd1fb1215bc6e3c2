//! `rhv-mount`: see `rhv_mount::main`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    rhv_mount::main()
}
