//! The control socket of the stand-in for the engine, through which a test changes its state or makes it
//! misbehave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Engine;
use super::state::DiskState;

impl Engine {
    /// Adds a pre-existing disk. `spec` has its `name` and `size`; `tests/engine/control.py` knows more
    /// fields.
    #[track_caller]
    pub fn add_disk(&self, spec: &Value) -> DiskState {
        let value = self.control("POST", "/disks", Some(spec));
        serde_json::from_value(value).expect("the new disk")
    }

    /// Adds VMs, a list of objects with a `name`; `tests/engine/control.py` knows more fields.
    #[track_caller]
    pub fn add_vms(&self, specs: &Value) {
        self.control("POST", "/vms", Some(specs));
    }

    /// Changes a VM, known by its name or id: its `status`, and what else `tests/engine/vms.py` knows.
    #[track_caller]
    pub fn change_vm(&self, vm: &str, spec: &Value) {
        self.control("POST", &format!("/vms/{vm}"), Some(spec));
    }

    /// Makes a snapshot of a VM at once; returns its id.
    #[track_caller]
    pub fn make_snapshot(&self, vm: &str, description: &str) -> String {
        let order = json!({"description": description});
        let made = self.control("POST", &format!("/vms/{vm}/snapshots"), Some(&order));
        made["id"].as_str().expect("the id of the snapshot").to_owned()
    }

    /// Writes to a disk as its guest does: a list of writes, which `tests/engine/guest.py` describes.
    #[track_caller]
    pub fn guest_writes(&self, disk: &str, writes: &Value) {
        self.control("POST", &format!("/disks/{disk}/guest"), Some(writes));
    }

    /// Copies what the guest of a disk reads now into a raw file.
    #[track_caller]
    pub fn guest_copy(&self, disk: &str, to: &Path) {
        let order = json!({"to": to});
        self.control("POST", &format!("/disks/{disk}/copy"), Some(&order));
    }

    #[track_caller]
    pub fn change_disk(&self, id: &str, spec: &Value) {
        self.control("POST", &format!("/disks/{id}"), Some(spec));
    }

    #[track_caller]
    pub fn switch(&self, order: &Value) -> Value {
        self.control("POST", "/switches", Some(order))
    }

    #[track_caller]
    pub fn clear_switches(&self) {
        self.control("DELETE", "/switches", None);
    }

    /// Returns the names of all switches, which the engine lists in its answer to an unknown one.
    pub fn switch_names(&self) -> Vec<String> {
        let order = json!({"switch": "no_such_switch"});
        let (_, answer) = self.exchange("POST", "/switches", Some(&order));
        let error = answer["error"].as_str().expect("an error with the names");
        let (_, names) = error.split_once("there are: ").expect("the names in the error");
        names.split(", ").map(str::to_owned).collect()
    }

    /// Returns a shell line that sets a switch, for a program that runs on the mount.
    pub fn switch_line(&self, order: &Value) -> String {
        format!(
            "curl --silent --fail --max-time 10 --output /dev/null --unix-socket '{}' \
             --data '{order}' http://control/switches",
            self.ready.control.display()
        )
    }

    /// Restarts the servers that `kill_storage` has killed; returns true when there were any.
    #[track_caller]
    pub fn restart_storage(&self) -> bool {
        self.control("POST", "/storage", None)["met"].as_u64() > Some(0)
    }

    #[track_caller]
    pub fn state(&self, part: &str) -> Value {
        self.control("GET", "/state", None)[part].take()
    }

    #[track_caller]
    pub fn control(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, value) = self.exchange(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {value}");
        value
    }

    pub fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        exchange(&self.ready.control, method, path, body)
    }
}

fn exchange(control: &Path, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let mut stream = UnixStream::connect(control).expect("connect to the control socket");
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).expect("limit the control socket");
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream
        .write_all((head + &body).as_bytes())
        .expect("ask the control socket");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the control socket answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let value = serde_json::from_str(body).expect("the control socket speaks JSON");
    (status.expect("an HTTP status"), value)
}

/// Returns the tokens and tickets that the engine with this control socket has ever issued.
#[track_caller]
pub fn given_out(control: &Path) -> Vec<String> {
    let (_, mut state) = exchange(control, "GET", "/state", None);
    serde_json::from_value(state["secrets"].take()).expect("the secrets")
}
