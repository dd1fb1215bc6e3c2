//! Paths in JSON: a string where the path is UTF-8, else the array of its bytes.
//!
//! A path on Linux is any bytes but NUL, and serde refuses to write one that is not UTF-8. Fields take this
//! form with `#[serde(with = "crate::path_bytes")]`; a path that is UTF-8 is written as serde writes it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Either form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Written> for PathBuf {
    fn from(written: Written) -> PathBuf {
        match written {
            Written::Text(text) => text.into(),
            Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

/// Returns the bytes of a path that no text can hold: one that is not UTF-8.
pub(crate) fn bytes_beside_text(path: &Path) -> Option<Vec<u8>> {
    path.to_str()
        .is_none()
        .then(|| path.as_os_str().as_bytes().to_vec())
}

pub(crate) fn serialize<S: Serializer>(path: &impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    let path = path.as_ref();
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => path.as_os_str().as_bytes().serialize(serializer),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Written::deserialize(deserializer).map(PathBuf::from)
}

/// The same for a path that may be missing.
pub(crate) mod option {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Written;

    pub(crate) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => super::serialize(path, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(PathBuf::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "crate::path_bytes")]
        path: PathBuf,
        #[serde(default, with = "crate::path_bytes::option")]
        other: Option<PathBuf>,
    }

    #[test]
    fn a_path_of_any_bytes_comes_back_and_one_in_utf_8_is_a_string() {
        let latin = PathBuf::from(OsString::from_vec(b"/mnt/caf\xe9".to_vec()));
        for (path, other) in [
            (latin.clone(), None),
            ("/mnt/café".into(), Some(latin.clone())),
            ("/mnt/a".into(), Some("/mnt/b".into())),
        ] {
            let both = Both { path, other };
            let json = serde_json::to_string(&both).unwrap();
            assert_eq!(serde_json::from_str::<Both>(&json).unwrap(), both, "{json}");
        }
        let plain = Both {
            path: "/mnt/a".into(),
            other: None,
        };
        assert_eq!(
            serde_json::to_value(plain).unwrap()["path"],
            serde_json::json!("/mnt/a")
        );
        let old: Both = serde_json::from_str(r#"{"path": "/mnt/a"}"#).unwrap();
        assert_eq!(old.other, None);
        assert_eq!(bytes_beside_text(&latin).as_deref(), Some(&b"/mnt/caf\xe9"[..]));
        assert_eq!(bytes_beside_text(Path::new("/mnt/a")), None);
    }
}
