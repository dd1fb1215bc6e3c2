//! `backup --list DIR`: the points in time that a directory has, from its manifests. No engine is asked, and
//! no image is read.

use std::path::Path;

use serde::Serialize;

use super::manifest::{Entry, Manifest, known};
use super::orphans::unnamed_by_now;
use crate::amounts;
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::{plain_json, print, tell};
use crate::settings::cli::Output;

/// All points, for programs; `docs/backup.md` has the names.
#[derive(Serialize)]
struct Told<'a> {
    points: Vec<Point<'a>>,
    /// The files that no manifest names.
    unnamed: Vec<String>,
}

#[derive(Serialize)]
struct Point<'a> {
    manifest: String,
    #[serde(flatten)]
    of: &'a Manifest,
    /// The files that are needed for each disk, its own first.
    chains: Vec<Vec<&'a str>>,
}

/// Prints the points of `dir`; returns the exit code.
pub(crate) fn list(dir: &Path, form: Output) -> Result<u8, Failure> {
    let unreadable_dir = |e| Failure::text(Exit::Usage, format!("cannot read {}: {e}", dir.display()));
    let (manifests, unreadable) = Manifest::all(dir).map_err(unreadable_dir)?;
    for (path, why) in &unreadable {
        tell(plain(&format!(
            "the manifest {} can't be used: {why}",
            path.display()
        )));
    }
    let unnamed = unnamed_by_now(dir, &manifests).map_err(unreadable_dir)?;
    let points: Vec<Point<'_>> = manifests
        .iter()
        .map(|of| Point {
            manifest: of.file_name().display().to_string(),
            of,
            chains: of.disks.iter().map(|entry| chain(entry, &manifests)).collect(),
        })
        .collect();
    let text = match form {
        Output::Json => {
            let json = serde_json::to_string_pretty(&Told { points, unnamed })
                .map_err(|e| Failure::text(Exit::Other, e))?;
            format!("{}\n", plain_json(&json))
        }
        Output::Text => {
            let none = format!("{} has no backups\n", dir.display());
            let points = match points.is_empty() {
                true => none,
                false => points.iter().map(text).collect(),
            };
            let others = unnamed
                .iter()
                .map(|name| plain(&format!("{name}: no manifest names it")) + "\n");
            points + &others.collect::<String>()
        }
    };
    print(&text)?;
    let code = if unreadable.is_empty() {
        Exit::Done
    } else {
        Exit::Other
    };
    Ok(code as u8)
}

/// Returns the files that are needed for a disk, its own first: each entry's backing file is another entry's
/// file, or one of the SDK's example. A name that comes back ends it.
pub(super) fn chain<'a>(entry: &'a Entry, manifests: &'a [Manifest]) -> Vec<&'a str> {
    let mut files = vec![entry.file.as_str()];
    let mut next = entry.backing.as_deref();
    while let Some(name) = next.filter(|name| !files.contains(name)) {
        files.push(name);
        next = known(name, manifests).and_then(|known| known.backing);
    }
    files
}

fn text(point: &Point<'_>) -> String {
    let of = point.of;
    let mut lines = vec![format!(
        "{}  VM {} ({}), checkpoint {}",
        of.time,
        of.vm.name,
        of.vm.id,
        of.checkpoint.as_deref().unwrap_or("none")
    )];
    for (entry, chain) in of.disks.iter().zip(&point.chains) {
        lines.push(format!(
            "  {} ({})  {}, {} of {}, {}",
            entry.id,
            entry.name,
            entry.mode.name(),
            amounts::size(entry.file_size),
            amounts::size(entry.size),
            match chain.len() {
                1 => "alone".to_owned(),
                n => format!("with {} below it", amounts::count(n - 1, "file")),
            }
        ));
    }
    for one in of.failed.iter().chain(&of.left_out) {
        lines.push(format!("  {} ({})  not in it: {}", one.id, one.name, one.why));
    }
    lines.iter().map(|line| plain(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    #[test]
    fn a_chain_goes_down_to_the_full_file_and_never_round() {
        let manifests = [
            manifest("a", None),
            manifest("b", Some("a")),
            manifest("c", Some("b")),
            manifest("x", Some("y")),
            manifest("y", Some("x")),
        ];
        let chain_of = |n: usize| chain(&manifests[n].disks[0], &manifests);
        assert_eq!(chain_of(2), ["c", "b", "a"]);
        assert_eq!(chain_of(0), ["a"]);
        assert_eq!(chain_of(3), ["x", "y"]);
    }
}
