//! The one disk that the user named: on the command line, in the configuration file or in the environment.

use std::fs;
use std::path::PathBuf;

use super::account::{LoginPlaces, engine_account, variable};
use super::cli::{DiskArgs, EngineArgs};
use super::config_file::{Section, yes_or_no};
use super::values::parse_size;
use super::{EngineSource, Source, URL_VARIABLE, Wanted, source, usage};
use crate::engine::{Format, NewDisk, is_uuid};
use crate::failure::Failure;
use crate::imageio::TransferUrl;
use crate::trust::Trust;

/// The one disk that the user named.
pub(super) enum Choice {
    Url(String),
    UrlFile(PathBuf),
    Disk(String),
    Snapshot(String),
    Create(String),
    /// Every disk of a VM, for a mount only.
    Vm(String),
}

impl Choice {
    /// Takes the disk from the command line, else from the configuration file, else from the environment.
    /// Each may name one disk.
    pub(super) fn of(args: &DiskArgs, section: &Section) -> Result<Choice, Failure> {
        match Choice::for_mount((None, None), args, section)? {
            Choice::Vm(name) => Err(usage(format!(
                "the section of ovirt-img.conf, or the environment, names the VM {name}, and this is for one \
                 disk: name it with --disk"
            ))),
            choice => Ok(choice),
        }
    }

    /// Does the same for a mount, which has a SOURCE, and which may be of a VM.
    pub(super) fn for_mount(
        (source, vm): (Option<&str>, Option<&str>),
        args: &DiskArgs,
        section: &Section,
    ) -> Result<Choice, Failure> {
        let named = |get: &dyn Fn(&str) -> Option<String>| {
            [
                get("transfer_url").map(Choice::Url),
                get("transfer_url_file").map(PathBuf::from).map(Choice::UrlFile),
                get("disk").map(Choice::Disk),
                get("disk_snapshot").map(Choice::Snapshot),
                get("create").map(Choice::Create),
                get("vm").map(Choice::Vm),
            ]
        };
        let given = [
            args.transfer_url.clone().map(Choice::Url),
            args.transfer_url_file.clone().map(Choice::UrlFile),
            args.disk.clone().map(Choice::Disk),
            args.disk_snapshot.clone().map(Choice::Snapshot),
            args.create.clone().map(Choice::Create),
            vm.map(str::to_owned).map(Choice::Vm),
        ];
        if let Some(source) = source.filter(|source| *source != source::NONE) {
            match given
                .iter()
                .flatten()
                .find(|choice| choice.name() != Some(source))
            {
                None if given.iter().all(Option::is_none) => return Ok(Choice::Disk(source.to_owned())),
                None => {}
                Some(other) => {
                    return Err(usage(format!(
                        "two disks are named: SOURCE {source}, and another one by {option}; give SOURCE \
                         `{none}`, or no {option}",
                        none = source::NONE,
                        option = other.option()
                    )));
                }
            }
        }
        let of_file = named(&|key| section.get(key).map(str::to_owned));
        let of_environment = named(&|key| variable(&format!("RHV_MOUNT_{}", key.to_uppercase())));
        let places = [
            ("on the command line", given),
            ("in the section of ovirt-img.conf", of_file),
            ("in the environment", of_environment),
        ];
        for (place, choices) in places {
            let mut choices = choices.into_iter().flatten();
            match (choices.next(), choices.next()) {
                (Some(one), None) => return Ok(one),
                (Some(_), Some(_)) => return Err(usage(format!("two disks are named {place}: name one"))),
                (None, _) => {}
            }
        }
        Err(usage(format!(
            "which disk? name one with SOURCE, --disk, --disk-snapshot or --create, all of a VM with --vm, \
             or give a transfer URL (https://HOST:54322/images/TICKET) with --transfer-url-file, \
             {URL_VARIABLE} or --transfer-url"
        )))
    }

    /// The name or id that the user gave; the URL of a transfer is a secret and no name.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Choice::Url(_) | Choice::UrlFile(_) => None,
            Choice::Disk(name) | Choice::Snapshot(name) | Choice::Create(name) | Choice::Vm(name) => {
                Some(name)
            }
        }
    }

    /// The size that is named for the disk that is to be made, in bytes; `None` for one that is there.
    pub(super) fn size(&self, args: &DiskArgs, section: &Section) -> Result<Option<u64>, Failure> {
        match (self, args.size, elsewhere("size", section)) {
            (Choice::Create(_), Some(size), _) => Ok(Some(size)),
            (Choice::Create(_), None, Some(text)) => {
                let size = parse_size(&text).map_err(|e| usage(format!("size {text}: {e}")));
                size.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The option that makes this choice.
    fn option(&self) -> &'static str {
        match self {
            Choice::Url(_) => "--transfer-url",
            Choice::UrlFile(_) => "--transfer-url-file",
            Choice::Disk(_) => "--disk",
            Choice::Snapshot(_) => "--disk-snapshot",
            Choice::Create(_) => "--create",
            Choice::Vm(_) => "--vm",
        }
    }

    pub(super) fn source(
        self,
        args: &DiskArgs,
        (engine, proxy): (&EngineArgs, bool),
        section: &Section,
        trust: &Trust,
    ) -> Result<Source, Failure> {
        let wanted = match self {
            Choice::Url(url) => return Ok(Source::Transfer(TransferUrl::parse(&url)?)),
            Choice::UrlFile(path) => {
                let text = fs::read_to_string(&path)
                    .map_err(|e| usage(format!("cannot read --transfer-url-file {}: {e}", path.display())))?;
                return Ok(Source::Transfer(TransferUrl::parse(&text)?));
            }
            Choice::Disk(name) => Wanted::Existing(name),
            Choice::Snapshot(id) => Wanted::Snapshot(id),
            Choice::Create(_) => Wanted::New(new_disk(self, args, section)?),
            Choice::Vm(name) => {
                return Err(usage(format!(
                    "--vm {name} is no single disk: name one with --disk"
                )));
            }
        };
        if !matches!(wanted, Wanted::New(_))
            && (args.size.is_some()
                || args.storage_domain.is_some()
                || args.format.is_some()
                || args.disk_id.is_some())
        {
            return Err(usage(
                "--size, --storage-domain, --format and --disk-id are for --create",
            ));
        }
        Ok(Source::Engine(Box::new(EngineSource {
            account: engine_account(engine, section, trust.clone())?,
            login: LoginPlaces::of(engine, section),
            wanted,
            proxy,
            keep_on_failure: args.keep_on_failure,
            of_vm: None,
        })))
    }
}

/// Tells whether the section, or else the environment, asks for a mount that refuses writes.
pub(super) fn read_only_elsewhere(section: &Section) -> Result<bool, Failure> {
    const VARIABLE: &str = "RHV_MOUNT_READ_ONLY";
    let of_environment = || {
        variable(VARIABLE)
            .map(|text| yes_or_no(VARIABLE, &text))
            .transpose()
    };
    Ok(match section.flag("read_only")? {
        Some(asked) => asked,
        None => of_environment()?.unwrap_or(false),
    })
}

/// The words of the section, or else of the environment.
pub(super) fn elsewhere(key: &str, section: &Section) -> Option<String> {
    let value = section.get(key).map(str::to_owned);
    value.or_else(|| variable(&format!("RHV_MOUNT_{}", key.to_uppercase())))
}

fn new_disk(choice: Choice, args: &DiskArgs, section: &Section) -> Result<NewDisk, Failure> {
    if args.read_only {
        return Err(usage(
            "--create beside --read-only: a new disk has nothing to read",
        ));
    }
    let size = choice.size(args, section)?;
    let size = size.ok_or_else(|| usage("--create needs --size"))?;
    let other = |key| elsewhere(key, section);
    if size == 0 {
        return Err(usage("--size 0: a disk needs a size"));
    }
    let id = args.disk_id.clone().or_else(|| other("disk_id"));
    if let Some(id) = id.as_ref().filter(|id| !is_uuid(id)) {
        return Err(usage(format!("--disk-id {id} is not a UUID")));
    }
    let format = match (args.format, other("format").as_deref()) {
        (Some(format), _) => format,
        (None, None | Some("raw")) => Format::Raw,
        (None, Some("qcow2")) => Format::Qcow2,
        (None, Some(text)) => return Err(usage(format!("format {text}: it takes raw or qcow2"))),
    };
    let storage_domain = args.storage_domain.clone().or_else(|| other("storage_domain"));
    Ok(NewDisk {
        name: choice.name().unwrap_or_default().to_owned(),
        size,
        storage_domain: storage_domain.ok_or_else(|| usage("--create needs --storage-domain"))?,
        format,
        preallocated: args.preallocated || section.flag("preallocated")?.unwrap_or(false),
        id,
        incremental: false,
        wipe_after_delete: false,
    })
}

/// Tells whether the section, or else the environment, says yes.
pub(super) fn flag_elsewhere(key: &str, section: &Section) -> Result<bool, Failure> {
    if let Some(said) = section.flag(key)? {
        return Ok(said);
    }
    let name = format!("RHV_MOUNT_{}", key.to_uppercase());
    let said = variable(&name).map(|text| yes_or_no(&name, &text)).transpose()?;
    Ok(said.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_section_can_ask_for_a_mount_that_refuses_writes() {
        for (line, read_only) in [("read_only = yes", true), ("read_only = no", false), ("", false)] {
            let text = format!("[a]\nusername = x\n{line}\n");
            let section = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
            assert_eq!(read_only_elsewhere(&section).unwrap(), read_only, "{line}");
        }
        let text = "[a]\nread_only = perhaps\n".to_owned();
        let section = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
        assert!(read_only_elsewhere(&section).is_err());
    }
}
