//! Fuzz targets for input from a user (command line, sizes, addresses, configuration), and for the redaction
//! of secrets.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{assert_presentable, first_line};
use crate::engine::address;
use crate::failure::{Exit, Failure};
use crate::secret::{HIDDEN, clean, forget_all, hide};
use crate::settings::cli::{Action, expand_mount_options};
use crate::settings::config_file::Section;
use crate::settings::values::{parse_connections, parse_mode, parse_size};

fn is_long(word: &str) -> bool {
    word.len() >= 8 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Parses a size, a number of connections, and file permissions. A size must be its number times its unit,
/// and no other text may be accepted as one.
pub fn sizes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(size) = parse_size(text) {
        assert_eq!(parse_size(&size.to_string()), Ok(size));
        let unit = text.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        let known = |letter: &str| ["", "b", "ib"].map(|end| format!("{letter}{end}"));
        let lower = unit.to_ascii_lowercase();
        let shift = match lower.as_str() {
            "" | "b" => 0,
            unit if known("k").iter().any(|k| k == unit) => 10,
            unit if known("m").iter().any(|k| k == unit) => 20,
            unit if known("g").iter().any(|k| k == unit) => 30,
            unit if known("t").iter().any(|k| k == unit) => 40,
            other => panic!("{other} is no unit"),
        };
        let number: f64 = text[..text.len() - unit.len()]
            .parse()
            .expect("it was taken for a number");
        let exact = number * 2f64.powi(shift);
        assert!(
            (size as f64 - exact).abs() <= 1.0 + exact / 1e15,
            "{text} is {size}"
        );
    }
    if let Ok(n) = parse_connections(text) {
        assert!((1..=64).contains(&n));
    }
    if let Ok(mode) = parse_mode(text) {
        assert!(mode <= 0o777);
    }
}

fn lines_as_args(data: &[u8]) -> Vec<OsString> {
    let program = [OsString::from("rhv-mount")].into_iter();
    let args = data.split(|b| *b == b'\n').take(32);
    program
        .chain(args.map(|arg| OsString::from_vec(arg.to_owned())))
        .collect()
}

/// Arguments, one on each line, of which `-o` lists become options of ours. None is lost or changed, and none
/// becomes anything but a long option.
pub fn mount_options(data: &[u8]) {
    let args = lines_as_args(data);
    let given = args.clone();
    let out = match expand_mount_options(args) {
        Ok(out) => out,
        Err(e) => {
            assert_eq!(e.exit, Exit::Usage);
            return assert_presentable(&e, &[]);
        }
    };
    let is_list = |arg: &OsString| arg.as_bytes().starts_with(b"-o");
    let ours = given.iter().take_while(|arg| *arg != "--");
    let rest = given.iter().skip_while(|arg| *arg != "--");
    assert!(
        rest.eq(out.iter().skip_while(|arg| *arg != "--")),
        "COMMAND was touched"
    );
    if !ours.clone().any(is_list) {
        assert_eq!(given, out);
    }
    for arg in out.iter().take_while(|arg| *arg != "--") {
        let is_given = given.contains(arg);
        let from_list = || {
            let (_, value) = first_split(arg.as_bytes(), b'=');
            arg.as_bytes().starts_with(b"--")
                && arg.len() > 2
                && given
                    .iter()
                    .any(|g| contains(g.as_bytes(), value.unwrap_or_default()))
        };
        assert!(is_given || from_list(), "{arg:?} comes from nowhere");
    }
}

fn first_split(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|b| *b == at) {
        Some(n) => (&bytes[..n], Some(&bytes[n + 1..])),
        None => (bytes, None),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|w| w == part)
}

/// Parses a whole command line, one argument per line. A refusal must be one line without the ticket of a
/// transfer URL. An accepted command line must be within its bounds, with COMMAND unchanged and no option
/// silently dropped.
pub fn command_line(data: &[u8]) {
    forget_all();
    let args = lines_as_args(data);
    let tickets: Vec<String> = args
        .iter()
        .filter_map(|arg| arg.to_str()?.split_once("/images/"))
        .map(|(_, ticket)| ticket.trim_matches('/').to_owned())
        .filter(|ticket| is_long(ticket))
        .collect();
    match Action::parse(args.clone()) {
        Err(failure) => {
            assert_eq!(failure.exit, Exit::Usage);
            let tickets: Vec<&str> = tickets.iter().map(String::as_str).collect();
            assert_presentable(&failure, &tickets);
        }
        Ok(Action::Mount(mount)) => {
            assert!(
                (1..=64).contains(&mount.connection.connections)
                    && mount.mode.is_none_or(|mode| mode <= 0o777)
            );
            assert!(
                mount._mount_options.is_empty(),
                "options were dropped: {:?}",
                mount._mount_options
            );
            let command = args.iter().skip_while(|arg| *arg != "--").skip(1);
            assert!(mount.command.iter().eq(command), "COMMAND was touched");
        }
        Ok(_) => {}
    }
}

/// Reads a configuration file; the input's first line is the name of the section. The result must be the same
/// each time, and its password must be in no message.
pub fn config_file(data: &[u8]) {
    forget_all();
    let (name, text) = first_line(data);
    let (Ok(name), Ok(text)) = (std::str::from_utf8(name), std::str::from_utf8(text)) else {
        return;
    };
    let path = Path::new("ovirt-img.conf");
    let read = || Section::of_text(text.to_owned(), path, name);
    match read() {
        Ok(section) => {
            let again = read().expect("it was read before");
            for key in [
                "engine_url",
                "username",
                "password",
                "cafile",
                "secure",
                "log_level",
                "size",
            ] {
                assert_eq!(section.get(key), again.get(key), "{key}");
            }
            if let Some(password) = section.get("password").filter(|p| is_long(p)) {
                assert_eq!(clean(&format!("<{password}>")), format!("<{HIDDEN}>"));
            }
            for key in ["secure", "preallocated"] {
                if let Err(e) = section.flag(key) {
                    assert_presentable(&Failure::from(e), &[]);
                }
            }
        }
        Err(e) => assert_presentable(&Failure::from(e), &[]),
    }
}

/// Parses the engine's address. An accepted one must consist of scheme, host and an optional port, and must
/// survive a second parse unchanged.
pub fn engine_address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match address(text) {
        Ok(url) => {
            let host = url
                .strip_prefix("https://")
                .or_else(|| url.strip_prefix("http://"));
            let host = host.expect("no other scheme is accepted");
            assert!(
                !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']),
                "{url}"
            );
            assert!(!url.contains(char::is_control));
            assert_eq!(address(&url).expect("it was accepted"), url);
            assert_eq!(
                address(&format!("{url}/ovirt-engine/api")).expect("the same"),
                url
            );
        }
        Err(e) => assert_presentable(&Failure::from(e), &[]),
    }
}

/// Redacts a text; the input's first line has the secrets, separated by blanks. No long secret may remain in
/// the text. A word that is a secret, even a short one, must become the replacement and nothing else. Without
/// a secret the text must not change.
pub fn redaction(data: &[u8]) {
    forget_all();
    let (secrets, text) = first_line(data);
    let (Ok(secrets), Ok(text)) = (std::str::from_utf8(secrets), std::str::from_utf8(text)) else {
        return;
    };
    // A secret with a `*` in it can't be distinguished from the replacement.
    let secrets: Vec<&str> = secrets
        .split_whitespace()
        .filter(|s| !s.contains('*'))
        .take(8)
        .collect();
    for secret in &secrets {
        hide(secret);
    }
    let cleaned = clean(text);
    for secret in secrets.iter().filter(|s| s.len() >= 8) {
        assert!(!cleaned.contains(secret), "{secret} in {cleaned}");
    }
    let mut words = cleaned.split(' ');
    for word in text.split(' ') {
        let now = words.next().expect("no blank is part of a secret");
        if secrets.contains(&word) {
            assert_eq!(now, HIDDEN, "{word}");
        }
    }
    if !secrets.iter().any(|s| text.contains(s.get(..8).unwrap_or(s))) {
        assert_eq!(cleaned, text);
    }
}
