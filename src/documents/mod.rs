//! The manual and the completions, as files for a package.
//!
//! Names, synopses, descriptions and options come from the definition of the command line. What cannot be
//! derived from it (EXAMPLES, EXIT STATUS, ENVIRONMENT, FILES, NOTES, SEE ALSO) is written by hand, in one
//! file for each page in `docs/man`. The tests here compare all of it, the help, the README and
//! `docs/usage.md` with the parser.
//!
//! This is a part of tests and of builds with the feature `documents`, and never of the program that is
//! shipped: `examples/documents.rs` calls it, and `scripts/documents` calls that.

mod man;
#[cfg(test)]
mod semantics;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::Path;

use crate::run::completion;

/// The places of the completions below `/usr/share`, where the shells look for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/rhv-mount"),
    ("zsh", "zsh/site-functions/_rhv-mount"),
    ("fish", "fish/vendor_completions.d/rhv-mount.fish"),
];

/// Writes all files below `folder`, in the places that they have below `/usr/share`.
pub fn write(folder: &Path) -> io::Result<()> {
    for (place, text) in files()? {
        let path = folder.join(place);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// Returns every file: its place below `/usr/share`, and its text.
fn files() -> io::Result<Vec<(String, String)>> {
    let pages = man::pages()?.into_iter();
    let mut files: Vec<_> = pages
        .map(|(name, text)| (format!("man/man1/{name}.1"), text))
        .collect();
    for (shell, place) in COMPLETIONS {
        let script = completion::script(shell)?;
        let script = match shell {
            "zsh" => autoloaded(script)?,
            _ => script,
        };
        files.push((place.to_owned(), script));
    }
    Ok(files)
}

/// zsh runs the file as a function when it completes for the first time. The script only defines the function
/// that completes, so this calls it then.
fn autoloaded(script: String) -> io::Result<String> {
    let name = script
        .split_once("function ")
        .and_then(|(_, rest)| rest.split_once("()"));
    let (name, _) = name.ok_or_else(|| io::Error::other("the script for zsh defines no function"))?;
    let call = format!("if [ \"$funcstack[1]\" = _rhv-mount ]; then\n    {name} \"$@\"\nfi\n");
    Ok(script + &call)
}
