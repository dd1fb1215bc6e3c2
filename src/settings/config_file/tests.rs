use std::os::unix::fs::PermissionsExt;

use super::*;

fn section(text: &str, name: &str) -> Result<Section, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ovirt-img.conf");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Section::of_file(&path, name)
}

#[test]
fn a_section_is_read_as_ovirt_img_reads_it() {
    let text = "[Prod]\nengine_url = https://e.example:8443\nusername=admin@ovirt@internalsso\n\
                password = p#a;s s%word\nsecure = no\n[other]\nusername: x@y\n[prod]\nUserName = z\n";
    let prod = section(text, "Prod").unwrap();
    assert_eq!(prod.get("engine_url"), Some("https://e.example:8443"));
    assert_eq!(prod.get("username"), Some("admin@ovirt@internalsso"));
    assert_eq!(prod.get("password"), Some("p#a;s s%word"));
    assert_eq!(prod.flag("secure").unwrap(), Some(false));
    assert_eq!(section(text, "other").unwrap().get("username"), Some("x@y"));
    assert_eq!(section(text, "prod").unwrap().get("username"), Some("z"));
    let error = section(text, "missing").unwrap_err().to_string();
    assert!(error.contains("[missing]") && error.contains("other"), "{error}");
}

#[test]
fn a_section_is_taken_from_the_first_file_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let places = [dir.path().join("user.conf"), dir.path().join("system.conf")];
    let error = Section::of_first(&places, "a").unwrap_err().to_string();
    assert!(
        error.contains("user.conf and ") && error.contains("--config-file"),
        "{error}"
    );
    fs::write(&places[1], "[a]\nusername = system\n[b]\nusername = system\n").unwrap();
    let user = |name: &str| {
        let section = Section::of_first(&places, name).unwrap();
        section.get("username").map(str::to_owned)
    };
    assert_eq!(user("a").as_deref(), Some("system"));
    fs::write(&places[0], "[a]\nusername = user\n").unwrap();
    assert_eq!(user("a").as_deref(), Some("user"));
    assert_eq!(user("b").as_deref(), Some("system"));
    let error = Section::of_first(&places, "c").unwrap_err().to_string();
    assert!(
        error.contains("user.conf: there are a;") && error.contains("system.conf"),
        "{error}"
    );
    fs::write(&places[0], "[a\n").unwrap();
    assert!(
        Section::of_first(&places, "b").is_err(),
        "a file that is broken is not passed over"
    );
}

#[test]
fn a_file_with_a_password_that_others_can_read_is_refused_as_a_password_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ovirt-img.conf");
    fs::write(&path, "[open]\nusername = x\n[closed]\npassword = y\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Section::of_file(&path, "open").is_ok());
    let error = Section::of_file(&path, "closed").unwrap_err().to_string();
    assert!(
        error.contains("mode 640") && error.contains("chmod 600"),
        "{error}"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Section::of_file(&path, "closed").is_ok());
}

/// The map of a section has no order: chance would decide which of the two is taken.
#[test]
fn a_key_that_is_there_twice_is_refused() {
    let text = "[DEFAULT]\nusername = x\n[a]\nUsername = y\nusername = z\n[b]\nUSERNAME = w\n";
    let error = section(text, "a").unwrap_err().to_string();
    assert!(error.contains("username"), "{error}");
    assert_eq!(section(text, "b").unwrap().get("username"), Some("w"));
}

#[test]
fn a_key_may_be_written_as_the_option_is() {
    for key in ["read-only", "read_only", "Read-Only"] {
        let read = section(&format!("[a]\n{key} = yes\n"), "a").unwrap();
        assert_eq!(read.flag("read_only").unwrap(), Some(true), "{key}");
    }
    assert!(section("[a]\nread-only = yes\nread_only = no\n", "a").is_err());
}

#[test]
fn an_option_that_no_section_gives_is_found_and_a_key_of_another_program_is_not() {
    let text = "[a]\nretry-time = 9\nkeep_on_failure = yes\ndisk = x\nbuffer_size = 1\n";
    assert_eq!(
        section(text, "a").unwrap().unread_options(),
        ["keep_on_failure", "retry_time"]
    );
    let all: String = KEYS
        .iter()
        .map(|key| format!("{key} = value-of-a-test\n"))
        .collect();
    assert!(
        section(&format!("[a]\n{all}"), "a")
            .unwrap()
            .unread_options()
            .is_empty()
    );
}
