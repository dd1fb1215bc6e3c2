//! `rhv-mount`: see `rhv_mount::run`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    rhv_mount::run::main()
}
