//! The outcome of a restore: for people the lines on stdout, for programs one object.

use serde::Serialize;

use super::disks::Whole;
use super::plan::Plan;
use super::vm::Made;
use crate::amounts;
use crate::failure::Failure;
use crate::logging::plain;
use crate::output::{plain_json, print, report};
use crate::settings::cli::Output;

/// For programs; `docs/backup.md` has the names.
#[derive(Serialize)]
struct Told<'a> {
    /// When the backup was begun, in UTC.
    point: &'a str,
    /// The VM that was made.
    vm: Option<ToldVm<'a>>,
    disks: Vec<ToldDisk<'a>>,
    bytes: u64,
    seconds: u64,
}

#[derive(Serialize)]
struct ToldVm<'a> {
    id: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
struct ToldDisk<'a> {
    /// Its id now; none where it is not whole.
    id: Option<&'a str>,
    /// Its id when it was backed up.
    was: &'a str,
    name: &'a str,
    size: u64,
    file: &'a str,
    verified_by: Option<&'static str>,
}

/// Tells what was made.
pub(super) fn tell(
    form: Output,
    plan: &Plan,
    disks: &[Result<Whole, Failure>],
    vm: Option<&Made>,
    seconds: u64,
) -> Result<(), Failure> {
    let told: Vec<ToldDisk<'_>> = plan
        .disks
        .iter()
        .zip(disks)
        .map(|(disk, made)| ToldDisk {
            id: made.as_ref().ok().map(|whole| whole.id.as_str()),
            was: &disk.kept.id,
            name: &disk.kept.name,
            size: disk.kept.size,
            file: &disk.kept.files[0].name,
            verified_by: made.as_ref().ok().map(|whole| match whole.by_server {
                true => "server",
                false => "client",
            }),
        })
        .collect();
    let bytes: u64 = told
        .iter()
        .filter(|disk| disk.id.is_some())
        .map(|disk| disk.size)
        .sum();
    if form == Output::Json {
        let all = Told {
            point: &plan.time,
            vm: vm.map(|vm| ToldVm {
                id: &vm.id,
                name: &vm.name,
            }),
            disks: told,
            bytes,
            seconds,
        };
        let json = serde_json::to_string_pretty(&all).map_err(std::io::Error::from)?;
        return Ok(print(&format!("{}\n", plain_json(&json)))?);
    }
    for disk in &told {
        if let Some(id) = disk.id {
            report(plain(&format!(
                "disk {} ({}): restored as {id}, {}, verified",
                disk.was,
                disk.name,
                amounts::size(disk.size)
            )));
        }
    }
    let count = told.iter().filter(|disk| disk.id.is_some()).count();
    if count > 0 {
        let what = match vm {
            Some(vm) => format!("VM {} ({})", vm.name, vm.id),
            None => format!("disks of {}", plan.vm_shown),
        };
        report(plain(&format!(
            "{what}: restored as of {}, {}, {} in {}, verified",
            plan.time,
            match count == told.len() {
                true => amounts::count(count, "disk"),
                false => format!("{count} of {} disks", told.len()),
            },
            amounts::size(bytes),
            amounts::time(seconds)
        )));
    }
    Ok(())
}
