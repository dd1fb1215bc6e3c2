//! The command line and the environment of forklift's populator for oVirt, whose place `populate` takes.
//!
//! Forklift's controller makes a pod for each claim. It gives the image arguments and no command, so they
//! begin with an option, and the image's entry point must know by itself what they mean ([`in_our_words`]).
//! Go's `flag` package, which the original reads them with, takes `-name` for `--name`. All keys of the
//! secret are variables of the environment: `user`, `password`, `insecureSkipVerify`, and `cacert`, which is
//! the certificate itself and no path.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::account::{LoginPlaces, engine_account, trust, variable};
use super::cli::{EngineArgs, ImageFormat, PopulateArgs};
use super::config_file::{ConfigError, Section, yes_or_no};
use super::copy::{CopySettings, Image, Volume};
use super::{DiskSettings, EngineSource, OutputSettings, Source, Task, Wanted, absolute, usage};
use crate::engine::{Account, address};
use crate::failure::Failure;
use crate::secret::{Secret, hide};
use crate::trust::Trust;

/// The name under which the program is the populator, and nothing else.
const NAME: &[u8] = b"ovirt-populator";

/// The name of the subcommand.
const SUBCOMMAND: &str = "populate";

/// The options of the original.
const FLAGS: [&str; 8] = [
    "volume-path",
    "secret-name",
    "disk-id",
    "engine-url",
    "cr-name",
    "cr-namespace",
    "owner-uid",
    "pvc-size",
];

/// The option that no other command has, so that it tells whose command line this is.
const TELLTALE: &str = "volume-path";

/// The variable that holds the password.
pub(super) const PASSWORD: &str = "password";

/// The variable that holds certificates.
const CA: &str = "cacert";

/// Returns the command line of a populator as one of `populate`, and any other as it is. It is a populator's
/// when the program has that name, or when a word of it is `--volume-path` and none before it is a
/// subcommand.
pub(crate) fn in_our_words(args: Vec<OsString>) -> Vec<OsString> {
    let Some((program, words)) = args.split_first() else {
        return args;
    };
    let is_named = Path::new(program)
        .file_name()
        .is_some_and(|name| name.as_bytes() == NAME);
    let says_so = words.first().is_some_and(|word| word == SUBCOMMAND);
    let mut options = words.iter().take_while(|word| *word != "--");
    let is_told = words
        .first()
        .is_some_and(|word| word.as_bytes().starts_with(b"-"))
        && options.any(|word| flag(word) == Some(TELLTALE));
    if !(is_named || says_so || is_told) {
        return args;
    }
    let name = (!says_so).then(|| SUBCOMMAND.into());
    let words = words.iter().map(|word| match flag(word) {
        // The second dash.
        Some(_) if !word.as_bytes().starts_with(b"--") => {
            OsString::from_vec([b"-", word.as_bytes()].concat())
        }
        _ => word.clone(),
    });
    std::iter::once("rhv-mount".into())
        .chain(name)
        .chain(words)
        .collect()
}

/// The flag of the original that `word` is, with one dash or two, and with or without a value.
fn flag(word: &OsString) -> Option<&'static str> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    let name = name.split(|byte| *byte == b'=').next()?;
    FLAGS.into_iter().find(|flag| flag.as_bytes() == name)
}

impl CopySettings {
    /// Checks the options of `populate`, and adds the environment.
    pub(crate) fn of_populate(args: PopulateArgs) -> Result<CopySettings, Failure> {
        let section = Section::read(&args.run.engine)?;
        let trusted = trusted(&args.run.engine, &section, &variable)?;
        let account = account(&args.run.engine, &section, trusted.clone())?;
        let verify = variable("RHV_MOUNT_VERIFY").map(|text| yes_or_no("RHV_MOUNT_VERIFY", &text));
        let source = Source::Engine(Box::new(EngineSource {
            account,
            login: LoginPlaces::of(&args.run.engine, &section),
            wanted: Wanted::Existing(args.disk_id),
            proxy: args.run.connection.proxy,
            of_vm: None,
            keep_on_failure: false,
        }));
        let path = absolute(&args.volume_path)?;
        if !path.parent().is_some_and(Path::is_dir) {
            return Err(usage(format!(
                "--volume-path {}: there is no such folder; is the volume mounted in this container?",
                path.display()
            )));
        }
        Ok(CopySettings {
            image: Image::File {
                path,
                format: Some(ImageFormat::Raw),
                force: true,
                anywhere: false,
            },
            stamps: None,
            verify: !args.no_verify && verify.transpose()?.unwrap_or(true),
            disk: DiskSettings {
                unattended: true,
                ..DiskSettings::gather(args.run.connection, source, trusted, Task::Download, true)?
            },
            output: OutputSettings::gather(args.run.output, &section)?,
            outcome: None,
            volume: Some(Volume {
                bytes: args.pvc_size,
                owner: args.owner_uid,
                listen: args.metrics_listen,
            }),
        })
    }
}

/// Decides whom to trust: options, then the variables of forklift's secret, then all else.
fn trusted(
    args: &EngineArgs,
    section: &Section,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Trust, ConfigError> {
    let given = args.cafile.is_some() || args.insecure;
    let skip = variable("insecureSkipVerify").map(|text| boolean("insecureSkipVerify", &text));
    match (skip.transpose()?, variable(CA)) {
        _ if given => trust(args.cafile.clone(), args.insecure, section),
        (Some(true), _) => Ok(Trust::Insecure),
        (_, Some(text)) => Ok(Trust::CaText {
            variable: CA.to_owned(),
            text,
        }),
        (_, None) => trust(None, false, section),
    }
}

/// Reads what Go's `strconv.ParseBool` reads.
fn boolean(name: &str, text: &str) -> Result<bool, ConfigError> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ConfigError::Value(format!(
            "{name} is {text}: it takes true or false"
        ))),
    }
}

/// The engine and the user. The variables of forklift's secret come before those of `ovirt-img`.
fn account(args: &EngineArgs, section: &Section, trust: Trust) -> Result<Account, ConfigError> {
    let mut args = args.clone();
    if args.username.is_none() && section.get("username").is_none() {
        args.username = variable("user").map(|name| name.trim_end_matches(['\n', '\r']).to_owned());
    }
    let of = |given: Option<String>, key: &str, name: &str| {
        given
            .or_else(|| section.get(key).map(str::to_owned))
            .or_else(|| variable(name))
    };
    args.engine_url = of(args.engine_url.take(), "engine_url", "OVIRT_URL");
    args.username = of(args.username.take(), "username", "OVIRT_USERNAME");
    let is_elsewhere = args.password_file.is_some() || section.get("password").is_some();
    // A secret that was made of a file often ends with a line break, which the original leaves out.
    let trimmed = |text: String| text.trim_end_matches(['\n', '\r']).to_owned();
    let password = variable(PASSWORD).filter(|_| !is_elsewhere).map(trimmed);
    match (&args.engine_url, &args.username, password) {
        (Some(url), Some(username), Some(password)) if !password.is_empty() => {
            let password = Secret::new(password);
            hide(password.expose());
            Ok(Account {
                url: address(url)?,
                username: username.clone(),
                password,
                trust,
            })
        }
        _ => engine_account(&args, section, trust),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::cli::Action;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn translated(line: &str) -> String {
        let words = in_our_words(words(line)).into_iter();
        let words: Vec<String> = words.map(|word| word.into_string().unwrap()).collect();
        words.join(" ")
    }

    /// The arguments as forklift's controller writes them.
    const CONTROLLERS: &str = "--volume-path=/mnt/disk.img --secret-name=s --disk-id=d \
                               --engine-url=https://e --cr-name=c --cr-namespace=n --pvc-size=1024 \
                               --owner-uid=u";

    fn parsed(line: &str) -> PopulateArgs {
        match Action::parse(in_our_words(words(line))) {
            Ok(Action::Populate(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_arguments_of_the_controller_are_those_of_populate() {
        for program in [
            "rhv-mount",
            "/usr/bin/rhv-mount",
            "/usr/local/bin/ovirt-populator",
        ] {
            let args = parsed(&format!("{program} {CONTROLLERS}"));
            assert_eq!(args.volume_path, Path::new("/mnt/disk.img"), "{program}");
            assert_eq!((args.pvc_size, args.owner_uid.as_str()), (Some(1024), "u"));
            assert_eq!(args.run.engine.engine_url.as_deref(), Some("https://e"));
            assert_eq!((args.disk_id.as_str(), args.no_verify), ("d", false));
        }
    }

    #[test]
    fn flags_are_read_in_every_form_of_the_flag_package_and_the_last_one_counts() {
        let args =
            parsed("rhv-mount -disk-id=a -volume-path /dev/block --owner-uid u -pvc-size=7 --disk-id b");
        assert_eq!(args.volume_path, Path::new("/dev/block"));
        assert_eq!((args.disk_id.as_str(), args.owner_uid.as_str()), ("b", "u"));
        assert_eq!(args.pvc_size, Some(7));
        let args = parsed("rhv-mount populate -volume-path=/mnt/disk.img -disk-id=d -secret-name=");
        assert_eq!((args.pvc_size, args.secret_name.as_deref()), (None, Some("")));
        for line in [
            "ovirt-populator --disk-id=d",
            "ovirt-populator /mnt",
            "rhv-mount --volume-path=/mnt/disk.img --disk-id=d --pvc-size=0",
            "rhv-mount --volume-path=/mnt/disk.img --disk-id=d --pvc-size=many",
        ] {
            assert!(Action::parse(in_our_words(words(line))).is_err(), "{line}");
        }
    }

    #[test]
    fn other_command_lines_stay_as_they_are() {
        for line in [
            "rhv-mount",
            "rhv-mount -c prod /mnt",
            "rhv-mount status",
            "rhv-mount download x.raw --disk volume-path",
            "rhv-mount --disk web01 /mnt -- cat --volume-path=x",
            "rhv-mount download --volume-path=x",
            "rhv-mount --disk-id=d /mnt",
        ] {
            assert_eq!(translated(line), line);
        }
    }

    #[test]
    fn the_variables_say_whom_to_trust_and_options_come_before_them() {
        let of = |args: &EngineArgs, skip: &str, ca: &str| {
            let (skip, ca) = (skip.to_owned(), ca.to_owned());
            let variable = move |name: &str| {
                let value = match name {
                    CA => &ca,
                    _ => &skip,
                };
                Some(value.clone()).filter(|value| !value.is_empty())
            };
            trusted(args, &Section::default(), &variable)
        };
        let none = EngineArgs::default();
        for skip in ["true", "1", "T", "True\n"] {
            assert_eq!(of(&none, skip, "pem").unwrap(), Trust::Insecure, "{skip}");
        }
        let pem = Trust::CaText {
            variable: CA.to_owned(),
            text: "pem".to_owned(),
        };
        for skip in ["", "false", "0", "F"] {
            assert_eq!(of(&none, skip, "pem").unwrap(), pem, "{skip}");
        }
        let error = of(&none, "perhaps", "pem").unwrap_err().to_string();
        assert!(error.contains("insecureSkipVerify is perhaps"), "{error}");
        let given = EngineArgs {
            cafile: Some("/ca.pem".into()),
            ..none
        };
        assert_eq!(
            of(&given, "true", "pem").unwrap(),
            Trust::CaFile("/ca.pem".into())
        );
    }
}
