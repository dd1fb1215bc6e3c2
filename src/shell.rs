//! Words as a shell reads them, so that a command line in one of our messages can be pasted, whatever a path
//! in it is called.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// Quotes `word` for sh and bash, where that is needed. Control characters and bytes that are not UTF-8 take
/// the form `$'\xNN'`, which bash, ksh, zsh and POSIX.1-2024 know.
pub(crate) fn word(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| is_plain(&byte)) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            let mut quoted = "$'".to_owned();
            for byte in word.as_bytes() {
                match byte {
                    b'\'' | b'\\' => quoted += &format!("\\{}", char::from(*byte)),
                    b' '..=b'~' => quoted.push(char::from(*byte)),
                    _ => {
                        let _ = write!(quoted, "\\x{byte:02x}");
                    }
                }
            }
            quoted + "'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_every_word() {
        let words: [&[u8]; 7] = [
            b"/mnt/disk",
            b"/mnt/a b",
            b"it's",
            b"",
            b"caf\xe9 \\x",
            b"a\nb'c",
            b"$(true) `x`",
        ];
        for bytes in words {
            let line = format!("printf %s {}", word(OsStr::from_bytes(bytes)));
            let said = std::process::Command::new("bash").args(["-c", &line]).output();
            assert_eq!(said.unwrap().stdout, bytes, "{line}");
        }
        assert_eq!(word("/mnt/disk"), "/mnt/disk");
    }
}
