//! The manifest of a backup: a JSON file that names its files, and what the guest sees in each.
//!
//! `docs/backup.md` describes the fields. A reader refuses a version that it does not know, and a name that
//! leads out of the directory. It opens files only: a pipe that has the name of a manifest would have it
//! wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::block_hash::Checksum;
use crate::engine::VmDisk;
use crate::failure::{Exit, Failure};
use crate::images::{ImageError, is_passing, write_whole};
use crate::process::rights;

/// The end of the names of manifests.
pub(super) const MANIFEST: &str = ".manifest.json";

/// The version of the form below.
const VERSION: u32 = 1;

/// Upper bound on a manifest, in bytes: some ten thousand disks.
const MAX_BYTES: u64 = 16 << 20;

/// The part of a disk that its file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// The whole disk.
    Full,
    /// The changes since its backing file.
    Incremental,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Incremental => "incremental",
        }
    }
}

/// The way in which the engine has made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Hybrid,
    Live,
    Cold,
}

/// A VM, or a disk that has no file, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
}

impl Named {
    pub(super) fn of(disk: &VmDisk, why: &str) -> Named {
        Named {
            id: disk.id.clone(),
            name: disk.name.clone(),
            why: why.to_owned(),
        }
    }
}

/// A disk, and its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mode: Mode,
    /// The name of the file, in the directory of the manifest.
    pub(super) file: String,
    /// Bytes of the guest's disk.
    pub(super) size: u64,
    /// Bytes of the file.
    pub(super) file_size: u64,
    /// The name of the file below it; none of a full one.
    pub(super) backing: Option<String>,
    /// The checkpoint from which its changes are known; none of a disk whose volumes are raw.
    pub(super) checkpoint: Option<String>,
    /// The block hash of what the guest sees.
    pub(super) checksum: Checksum,
    /// `server`, or `client` where the disk was read twice instead.
    pub(super) verified_by: String,
}

/// A file of the SDK's example that a file of the backup goes over. It is part of that one's chain from then
/// on, which was verified as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Adopted {
    /// The id of its disk.
    pub(super) disk: String,
    /// The name of the file, in the directory of the manifest.
    pub(super) file: String,
    /// Bytes of the file.
    pub(super) file_size: u64,
    /// The name of the file below it; none of a full one.
    pub(super) backing: Option<String>,
}

/// The facts that the manifests of a directory tell of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known<'a> {
    /// Bytes of the file.
    pub(super) file_size: u64,
    /// The name of the file below it.
    pub(super) backing: Option<&'a str>,
}

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) vm: Named,
    /// The id of the backup in the engine.
    pub(super) backup: String,
    pub(super) kind: Kind,
    /// When it was begun, in UTC.
    pub(super) time: String,
    /// The checkpoint that it has made.
    pub(super) checkpoint: Option<String>,
    /// The checkpoint from which changes were asked for; none of a full backup.
    #[serde(default)]
    pub(super) from_checkpoint: Option<String>,
    /// The file with the configuration of the VM, in the directory of the manifest.
    pub(super) configuration: Option<String>,
    pub(super) disks: Vec<Entry>,
    /// The files of the SDK's example below those of `disks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) adopted: Vec<Adopted>,
    /// The manifest of the backup that the same run has made before, of the other disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) second_of: Option<String>,
    /// Disks that could not, or were not to, take part.
    pub(super) left_out: Vec<Named>,
    /// Disks that should have been in it, and have no file.
    pub(super) failed: Vec<Named>,
    /// Its own name.
    #[serde(skip)]
    pub(super) name: PathBuf,
}

/// Manifests that can't be read, with the reasons.
pub(super) type Unreadable = Vec<(PathBuf, String)>;

impl Manifest {
    /// The manifest of a backup in which no disk is yet; it gets this name.
    pub(super) fn begin(name: PathBuf, vm: Named, backup: &str, kind: Kind, time: &str) -> Manifest {
        Manifest {
            version: VERSION,
            vm,
            backup: backup.to_owned(),
            kind,
            time: time.to_owned(),
            checkpoint: None,
            from_checkpoint: None,
            configuration: None,
            disks: Vec::new(),
            adopted: Vec::new(),
            second_of: None,
            left_out: Vec::new(),
            failed: Vec::new(),
            name,
        }
    }

    pub(super) fn file_name(&self) -> &Path {
        &self.name
    }

    /// The names of all files that it names, but for itself.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        let disks = self.disks.iter().map(|entry| entry.file.as_str());
        let adopted = self.adopted.iter().map(|one| one.file.as_str());
        disks.chain(adopted).chain(self.configuration.as_deref())
    }

    /// The names of the files below those that it names.
    pub(super) fn backings(&self) -> impl Iterator<Item = &str> {
        let disks = self.disks.iter().map(|entry| entry.backing.as_deref());
        disks
            .chain(self.adopted.iter().map(|one| one.backing.as_deref()))
            .flatten()
    }

    /// Has the files of another program's that it names written to the storage; tells why that fails. One
    /// that is not there is not its matter, and some file systems sync no file that is open to be read.
    pub(super) fn sync_adopted(&self, dir: &Path) -> Option<String> {
        self.adopted.iter().find_map(|one| {
            let file = File::open(dir.join(&one.file)).ok()?;
            let error = file.sync_all().err()?;
            let cannot = matches!(
                error.raw_os_error(),
                Some(libc::EACCES | libc::EBADF | libc::EINVAL)
            );
            (!cannot).then(|| format!("{}: {error}", one.file))
        })
    }

    /// Tells why a file that it names is not there with its length.
    pub(super) fn lacks(&self, dir: &Path) -> Option<String> {
        let disks = self.disks.iter().map(|entry| (&entry.file, entry.file_size));
        let mut all = disks.chain(self.adopted.iter().map(|one| (&one.file, one.file_size)));
        all.find_map(|(name, size)| match fs::metadata(dir.join(name)) {
            Ok(meta) if meta.len() == size => None,
            Ok(meta) => Some(format!("{name} has {} bytes instead of {size}", meta.len())),
            Err(e) => Some(format!("{name}: {e}")),
        })
    }

    /// The facts that it tells of a file of a disk.
    fn knows(&self, file: &str) -> Option<Known<'_>> {
        let entry = self.disks.iter().find(|entry| entry.file == file);
        let entry = entry.map(|entry| Known {
            file_size: entry.file_size,
            backing: entry.backing.as_deref(),
        });
        entry.or_else(|| {
            let adopted = self.adopted.iter().find(|one| one.file == file)?;
            Some(Known {
                file_size: adopted.file_size,
                backing: adopted.backing.as_deref(),
            })
        })
    }

    /// Writes it, at once and as a whole.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let path = dir.join(&self.name);
        let unwritten = |why: String| {
            let text = format!(
                "the manifest {} is not written: {why}; its files count for nothing",
                path.display()
            );
            Failure::text(Exit::Other, text)
        };
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| unwritten(e.to_string()))?;
        json.push(b'\n');
        let to = path.clone();
        rights::with(move || write_whole(&to, &json)).map_err(|e| match e {
            // It has its name, and counts as soon as the storage is flushed.
            ImageError::Unflushed { .. } => Failure::text(Exit::Other, e),
            e => unwritten(e.to_string()),
        })
    }

    /// Reads one; a text says why it can't be used. What passes on this machine is an error: a manifest that
    /// was passed over for that would be missed where it matters.
    fn read(path: &Path) -> io::Result<Result<Manifest, String>> {
        let bytes = match bytes_of(path, MAX_BYTES) {
            Err(e) if is_passing(&e) => return Err(e),
            bytes => bytes.map_err(|e| e.to_string()),
        };
        let read = bytes.and_then(|bytes| Manifest::of_bytes(&bytes));
        Ok(read.map(|manifest| Manifest {
            name: path.file_name().map(PathBuf::from).unwrap_or_default(),
            ..manifest
        }))
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Manifest, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if version.version != VERSION {
            return Err(format!(
                "it has version {}, and this program knows version {VERSION}",
                version.version
            ));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let disks = manifest.disks.iter().filter_map(|disk| disk.backing.as_deref());
        let adopted = manifest.adopted.iter().filter_map(|one| one.backing.as_deref());
        let mut names = manifest.files().chain(disks).chain(adopted);
        let elsewhere = names.find(|name| !is_plain_name(name)).map(str::to_owned);
        drop(names);
        match elsewhere {
            Some(name) => Err(format!("it names {name}, which is not in its directory")),
            None => Ok(manifest),
        }
    }

    /// Reads those of a directory, the oldest first; and those that can't be read, with the reason.
    pub(super) fn all(dir: &Path) -> io::Result<(Vec<Manifest>, Unreadable)> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let is_one = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.ends_with(MANIFEST) && !name.starts_with('.'));
            paths.extend(is_one.then_some(path));
        }
        Manifest::all_of(paths)
    }

    /// Reads the manifests at these paths. The run of another VM may remove some of them in the meantime.
    fn all_of(paths: Vec<PathBuf>) -> io::Result<(Vec<Manifest>, Unreadable)> {
        let (mut read, mut unreadable) = (Vec::new(), Vec::new());
        for path in paths {
            let is_gone = |path: &Path| {
                let looked = fs::symlink_metadata(path);
                looked.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            };
            match Manifest::read(&path)? {
                Ok(manifest) => read.push(manifest),
                Err(_) if is_gone(&path) => {}
                Err(why) => unreadable.push((path, why)),
            }
        }
        read.sort_by(|a, b| (&a.time, &a.name).cmp(&(&b.time, &b.name)));
        unreadable.sort();
        Ok((read, unreadable))
    }
}

/// Returns what the manifests say of a file.
pub(super) fn known<'a>(file: &str, manifests: &'a [Manifest]) -> Option<Known<'a>> {
    manifests.iter().find_map(|manifest| manifest.knows(file))
}

/// Reads a file of at most `most` bytes. A pipe is not waited for, and a device is not read.
pub(super) fn bytes_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if meta.len() > most {
        let length = meta.len();
        return Err(io::Error::other(format!(
            "it has {length} bytes, which is too many"
        )));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// True for the name of a file, and nothing that leads elsewhere.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(one)), None) if one == name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::block_hash::Method;

    /// A manifest of one full disk.
    pub(in crate::backup) fn manifest(file: &str, backing: Option<&str>) -> Manifest {
        Manifest {
            version: VERSION,
            vm: Named {
                id: "v".into(),
                name: "web".into(),
                why: String::new(),
            },
            backup: "b".into(),
            kind: Kind::Hybrid,
            time: "2026-11-29T08:35:01Z".into(),
            checkpoint: Some("c".into()),
            from_checkpoint: None,
            configuration: None,
            disks: vec![Entry {
                id: "d".into(),
                name: "disk".into(),
                mode: Mode::Full,
                file: file.into(),
                size: 1 << 20,
                file_size: 1 << 18,
                backing: backing.map(str::to_owned),
                checkpoint: Some("c".into()),
                checksum: Checksum::of(Method::default(), &[0; 32]),
                verified_by: "server".into(),
            }],
            adopted: vec![],
            second_of: None,
            left_out: vec![],
            failed: vec![],
            name: PathBuf::new(),
        }
    }

    /// Else it would be in the way of a backup that has nothing to do with it.
    #[test]
    fn a_manifest_that_goes_while_others_are_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["1", "2", "3"].map(|name| folder.path().join(name));
        fs::write(&paths[0], serde_json::to_vec(&manifest("a", None)).unwrap()).unwrap();
        std::os::unix::fs::symlink("nowhere", &paths[2]).unwrap();
        let (read, unreadable) = Manifest::all_of(paths.to_vec()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(
            unreadable.len(),
            1,
            "a link that leads nowhere stays: {unreadable:?}"
        );
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let written = manifest("a.qcow2", None);
        let bytes = serde_json::to_vec(&written).unwrap();
        assert_eq!(Manifest::of_bytes(&bytes).unwrap(), written);
    }

    /// Somebody who may write the directory could have every later run wait for ever.
    #[test]
    fn a_pipe_with_the_name_of_a_manifest_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.manifest.json");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (read, unreadable) = Manifest::all(folder.path()).unwrap();
        assert!(read.is_empty());
        assert_eq!(unreadable, [(path, "it is no file".to_owned())]);
    }

    #[test]
    fn a_file_of_the_sdks_example_is_known_by_the_manifest_that_goes_over_it() {
        let mut one = manifest("b", Some("s"));
        one.adopted = vec![Adopted {
            disk: "d".into(),
            file: "s".into(),
            file_size: 7,
            backing: Some("a".into()),
        }];
        assert_eq!(one.files().collect::<Vec<_>>(), ["b", "s"]);
        let bytes = serde_json::to_vec(&one).unwrap();
        assert_eq!(Manifest::of_bytes(&bytes).unwrap(), one);
        let all = [manifest("a", None), one];
        assert_eq!(known("s", &all).unwrap().backing, Some("a"));
        assert_eq!(known("s", &all).unwrap().file_size, 7);
        assert_eq!(known("x", &all), None);
        let mut elsewhere = all[1].clone();
        elsewhere.adopted[0].backing = Some("../a".into());
        let bytes = serde_json::to_vec(&elsewhere).unwrap();
        assert!(Manifest::of_bytes(&bytes).unwrap_err().contains("../a"));
    }

    #[test]
    fn a_later_version_and_a_name_that_leads_elsewhere_are_refused() {
        let mut json = serde_json::to_value(manifest("a.qcow2", None)).unwrap();
        json["version"] = 2.into();
        let why = Manifest::of_bytes(json.to_string().as_bytes()).unwrap_err();
        assert!(why.contains("version 2"), "{why}");
        for name in ["../a", "/etc/shadow", "a/b", "", ".", "..", "a/"] {
            for (file, backing) in [(name, None), ("a", Some(name))] {
                let bytes = serde_json::to_vec(&manifest(file, backing)).unwrap();
                let why = Manifest::of_bytes(&bytes).unwrap_err();
                assert!(why.contains("not in its directory"), "{name}: {why}");
            }
        }
    }
}
