//! Writes the manual and the completions into a folder, in the places that they have below `/usr/share`.
//!
//!     cargo run --features documents --example documents -- FOLDER

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: documents FOLDER");
        return ExitCode::from(2);
    };
    match rhv_mount::documents::write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!(
                "documents: cannot write into {}: {e}",
                Path::new(&folder).display()
            );
            ExitCode::FAILURE
        }
    }
}
