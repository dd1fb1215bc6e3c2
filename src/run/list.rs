//! `rhv-mount list`: what the engine has, as a table for people or as JSON for programs.

use serde::Serialize;

use super::table::{Column, numbers, table, words};
use crate::amounts;
use crate::engine::{
    AttachedDisk, Engine, Interrupt, ListedDisk, ListedDomain, ListedSnapshot, ListedVm, VmSnapshot,
};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::{plain_json, print};
use crate::settings::account::{engine_account, trust};
use crate::settings::cli::{ListArgs, Listed, Output};
use crate::settings::config_file::Section;

/// Prints the objects that `args` asks for.
pub(super) fn list(args: &ListArgs) -> Result<u8, Failure> {
    let section = Section::read(&args.engine)?;
    let trust = trust(args.engine.cafile.clone(), args.engine.insecure, &section)?;
    let account = engine_account(&args.engine, &section, trust)?;
    let engine = Engine::login(&account, &Interrupt::default())?;
    let shown = shown(&engine, args);
    engine.logout();
    print(&shown?)?;
    Ok(Exit::Done as u8)
}

fn shown(engine: &Engine, args: &ListArgs) -> Result<String, Failure> {
    let name = args.name.as_deref();
    match args.what {
        Listed::Disks => {
            let disks = engine.list_disks(name)?;
            render(args.output, &disks, |disks| table(disks, &disk_columns()))
        }
        Listed::Snapshots => {
            let snapshots = engine.list_snapshots(name)?;
            render(args.output, &snapshots, |snapshots| {
                table(snapshots, &snapshot_columns())
            })
        }
        Listed::Domains => {
            let domains = engine.list_domains(name)?;
            render(args.output, &domains, |domains| table(domains, &domain_columns()))
        }
        Listed::Vms => {
            let vms = engine.list_vms(name)?;
            render(args.output, &vms, vms_text)
        }
    }
}

/// The rows as JSON, an array of objects, or as `text` shows them.
fn render<T: Serialize>(
    output: Output,
    rows: &[T],
    text: impl Fn(&[T]) -> String,
) -> Result<String, Failure> {
    match output {
        Output::Text => Ok(text(rows)),
        Output::Json => {
            let json = serde_json::to_string_pretty(rows).map_err(|e| Failure::text(Exit::Other, e))?;
            Ok(format!("{}\n", plain_json(&json)))
        }
    }
}

/// A table of the VMs, and tables of the disks and snapshots of each that has been asked for its own.
fn vms_text(vms: &[ListedVm]) -> String {
    let mut out = table(vms, &vm_columns());
    for vm in vms {
        let name = plain(&vm.name);
        if let Some(disks) = &vm.disks {
            out += &format!("\nDisks of {name}:\n{}", table(disks, &attached_columns()));
        }
        if let Some(snapshots) = &vm.snapshots {
            out += &format!(
                "\nSnapshots of {name} (`rhv-mount list snapshots` shows those of its disks):\n{}",
                table(snapshots, &vm_snapshot_columns())
            );
        }
    }
    out
}

fn disk_columns() -> [Column<ListedDisk>; 6] {
    [
        words("NAME", |disk: &ListedDisk| disk.name.clone()),
        words("ID", |disk| disk.id.clone()),
        numbers("SIZE", |disk| size(disk.size)),
        words("FORMAT", |disk| said(&disk.format)),
        words("STATUS", |disk| said(&disk.status)),
        words("STORAGE DOMAIN", |disk| {
            domain(&disk.storage_domain, &disk.storage_domain_id)
        }),
    ]
}

fn snapshot_columns() -> [Column<ListedSnapshot>; 10] {
    [
        words("DISK", |one: &ListedSnapshot| one.disk.clone()),
        words("DISK SNAPSHOT", |one| one.id.clone()),
        words("ACTIVE", |one| yes_or_no(Some(one.active))),
        words("DATE", |one| said(&one.date)),
        numbers("SIZE", |one| size(one.size)),
        words("FORMAT", |one| said(&one.format)),
        words("STATUS", |one| said(&one.status)),
        words("VM", |one| said(&one.vm)),
        words("VM SNAPSHOT", |one| said(&one.vm_snapshot_id)),
        words("DESCRIPTION", |one| said(&one.description)),
    ]
}

fn domain_columns() -> [Column<ListedDomain>; 8] {
    [
        words("NAME", |domain: &ListedDomain| domain.name.clone()),
        words("ID", |domain| domain.id.clone()),
        words("STATUS", |domain| said(&domain.status)),
        words("TYPE", |domain| said(&domain.kind)),
        words("STORAGE", |domain| said(&domain.storage_type)),
        numbers("AVAILABLE", |domain| size(domain.available)),
        numbers("USED", |domain| size(domain.used)),
        words("DATA CENTER", |domain| domain.data_centers.join(", ")),
    ]
}

fn vm_columns() -> [Column<ListedVm>; 4] {
    [
        words("NAME", |vm: &ListedVm| vm.name.clone()),
        words("ID", |vm| vm.id.clone()),
        words("STATUS", |vm| said(&vm.status)),
        numbers("DISKS", |vm| {
            vm.disk_count.map(|n| n.to_string()).unwrap_or_default()
        }),
    ]
}

fn attached_columns() -> [Column<AttachedDisk>; 8] {
    [
        words("NAME", |one: &AttachedDisk| one.disk.name.clone()),
        words("ID", |one| one.disk.id.clone()),
        numbers("SIZE", |one| size(one.disk.size)),
        words("FORMAT", |one| said(&one.disk.format)),
        words("STATUS", |one| said(&one.disk.status)),
        words("ACTIVE", |one| yes_or_no(one.active)),
        words("BOOTABLE", |one| yes_or_no(one.bootable)),
        words("STORAGE DOMAIN", |one| {
            domain(&one.disk.storage_domain, &one.disk.storage_domain_id)
        }),
    ]
}

fn vm_snapshot_columns() -> [Column<VmSnapshot>; 5] {
    [
        words("VM SNAPSHOT", |one: &VmSnapshot| one.id.clone()),
        words("DATE", |one| said(&one.date)),
        words("TYPE", |one| said(&one.kind)),
        words("STATUS", |one| said(&one.status)),
        words("DESCRIPTION", |one| said(&one.description)),
    ]
}

fn said(words: &Option<String>) -> String {
    words.clone().unwrap_or_default()
}

fn size(bytes: Option<u64>) -> String {
    bytes.map(amounts::size).unwrap_or_default()
}

fn yes_or_no(flag: Option<bool>) -> String {
    let word = flag.map(|flag| if flag { "yes" } else { "no" });
    word.unwrap_or_default().to_owned()
}

/// A storage domain by its name; by its id where this user may not see the name.
fn domain(name: &Option<String>, id: &Option<String>) -> String {
    said(if name.is_some() { name } else { id })
}
