//! Every fault switch of the stand-in, with the outcome that rhv-mount must reach. `faults` runs the rows.
//!
//! Each of a row's exit codes is right. Where rhv-mount may either mend a fault or give up, 0 is among them,
//! and then the disk must hold every byte.

use serde_json::{Value, json};

use crate::rig::{
    CANNOT_CONNECT, CANNOT_REACH_ENGINE, DATA_MAY_BE_LOST, DONE, ENGINE_FAILED, LOGIN_REFUSED, USAGE,
};

/// The disk of a row's mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// A disk that the mount creates.
    New,
    /// The same, with `--keep-on-failure`.
    Kept,
    /// A disk that existed before.
    Old,
}

/// The state of the disk after a failure. After a success it always holds the new bytes and is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The disk exists, is free, and holds its old bytes.
    Untouched,
    /// The disk is removed.
    Gone,
    /// The disk exists; its bytes and its lock are not checked.
    There,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) switch: &'static str,
    pub(crate) value: Value,
    pub(crate) times: Option<u32>,
    /// For a fault of requests, the pattern that matches them. All other faults match the disk's name.
    pub(crate) requests: Option<&'static str>,
    pub(crate) of: Of,
    pub(crate) codes: &'static [i32],
    /// Words that the messages must contain, after a success too.
    pub(crate) words: &'static [&'static str],
    pub(crate) fate: Fate,
    /// COMMAND sets the switch when it has written half of the image.
    pub(crate) midway: bool,
}

fn row(
    switch: &'static str,
    of: Of,
    codes: &'static [i32],
    words: &'static [&'static str],
    fate: Fate,
) -> Row {
    Row {
        switch,
        value: json!(true),
        times: None,
        requests: None,
        of,
        codes,
        words,
        fate,
        midway: false,
    }
}

impl Row {
    fn value(mut self, value: Value) -> Self {
        self.value = value;
        self
    }

    fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn requests(mut self, pattern: &'static str) -> Self {
        self.requests = Some(pattern);
        self
    }

    fn midway(mut self) -> Self {
        self.midway = true;
        self
    }
}

use Fate::{Gone, There, Untouched};
use Of::{Kept, New, Old};

const FINE: &[i32] = &[DONE];
const FAILED: &[i32] = &[ENGINE_FAILED];
const LOST: &[i32] = &[DATA_MAY_BE_LOST];
const MENDED_OR_FAILED: &[i32] = &[DONE, ENGINE_FAILED, CANNOT_CONNECT];

/// The remedy for a disk that is left because nobody could look at it.
const LOOKS: &str = "looks again";

const NEW_DISK: &str = "POST .*/disks$";
const NEW_TRANSFER: &str = "POST .*/imagetransfers$";
const FINALIZE: &str = "/finalize$";

/// Faults of single requests and of sessions. They run one after the other, since they hit every client.
pub(crate) fn of_requests() -> Vec<Row> {
    vec![
        row("slow", New, FINE, &[], Gone).value(json!(0.2)),
        row("answer_slow", New, FINE, &[], Gone).value(json!(0.2)),
        // rhv-mount can't know whether the engine performed a request that was cut off: nothing may be left
        // behind, and nothing created twice.
        row("cut_before", New, FINE, &[], Gone).times(2).requests("GET"),
        row("cut_before", New, MENDED_OR_FAILED, &[], Gone)
            .times(1)
            .requests(NEW_DISK),
        row("cut_before", Old, MENDED_OR_FAILED, &[], Untouched)
            .times(1)
            .requests(NEW_TRANSFER),
        row("cut_before", Old, FINE, &[], There)
            .times(1)
            .requests(FINALIZE),
        row(
            "cut_before",
            Old,
            &[CANNOT_REACH_ENGINE],
            &["no answer|closed|disconnected"],
            Untouched,
        )
        .requests("sso"),
        row("cut_after", New, FINE, &[], Gone).times(2).requests("GET"),
        row("cut_after", New, MENDED_OR_FAILED, &[], Gone)
            .times(1)
            .requests(NEW_DISK),
        row("cut_after", New, MENDED_OR_FAILED, &[], Gone)
            .times(1)
            .requests(NEW_TRANSFER),
        row("cut_after", Old, MENDED_OR_FAILED, &[], Untouched)
            .times(1)
            .requests(NEW_TRANSFER),
        row("cut_after", Old, FINE, &[], There)
            .times(1)
            .requests(FINALIZE),
        row("unavailable", New, FINE, &[], Gone).times(2),
        row("unavailable", New, FINE, &[], Gone)
            .times(1)
            .requests(NEW_DISK),
        row("unavailable", Old, FINE, &[], There)
            .times(2)
            .requests(FINALIZE),
        row("unavailable", Old, FINE, &[], There).times(2).requests("sso"),
        row(
            "unavailable",
            Old,
            FAILED,
            &["engine unavailable", "503"],
            Untouched,
        ),
        row("html_error", New, FINE, &[], Gone).times(1).requests("GET"),
        row("html_error", New, FAILED, &["500"], Gone),
        row("front_end", Old, FINE, &[], There).times(2).requests("GET"),
        row("garbage", New, FAILED, &["nonsense|json"], Gone),
        row("garbage", Old, MENDED_OR_FAILED, &[], Untouched)
            .times(1)
            .requests(NEW_TRANSFER),
        row("huge", Old, FAILED, &["nonsense|large|bytes"], Untouched),
        // rhv-mount does not follow a redirect with a login.
        row(
            "redirect",
            Old,
            &[USAGE, ENGINE_FAILED, CANNOT_CONNECT],
            &["redirect"],
            Untouched,
        ),
        row("fault", Old, FAILED, &["related operation", "409"], Untouched).requests(NEW_TRANSFER),
        row("fault", New, FAILED, &["related operation", "409"], Gone).requests(NEW_TRANSFER),
        row(
            "login_refused",
            Old,
            &[LOGIN_REFUSED],
            &["admin@internal", "password"],
            Untouched,
        ),
        // This switch selects the shape of login errors, and has no effect without an error.
        row("sso_oauth_shape", Old, FINE, &[], There),
        row("token_expired", New, FINE, &[], Gone).times(1),
        row("token_expired", Old, FINE, &[], There)
            .times(1)
            .requests(FINALIZE),
        row(
            "token_expired",
            Old,
            &[LOGIN_REFUSED, ENGINE_FAILED],
            &["401|log in|login"],
            Untouched,
        ),
        row("token_requests", New, FINE, &[], Gone).value(json!(4)),
        row("expire_sessions", New, FINE, &[], Gone).midway(),
    ]
}

/// Faults of disks and transfers. They match the disk's name, so they run in parallel.
pub(crate) fn of_transfers() -> Vec<Row> {
    vec![
        row("disk_illegal", New, FAILED, &["illegal"], Gone),
        row("disk_slow", New, FINE, &[], Gone).value(json!(1.5)),
        row("transfer_locked", New, FINE, &[], Gone).times(2),
        row("transfer_locked", Old, FAILED, &["locked"], Untouched),
        row("transfer_unlisted", New, FINE, &[], Gone),
        row("transfer_fault", New, FAILED, &["no host"], Gone),
        row("transfer_fault", Old, FAILED, &["no host"], Untouched),
        // The engine itself removes the disk when an upload does not start.
        row("transfer_fault", New, FAILED, &["no host"], Gone).value(json!("failed")),
        row("transfer_fault", Old, FAILED, &["no host"], Gone).value(json!("failed")),
        row("stay_initializing", New, FINE, &[], Gone).value(json!(1.0)),
        row("stay_initializing", New, FAILED, &["initializing"], Gone),
        // Nobody can look at the first bytes of a raw disk, so its upload is not finalized.
        row("stay_initializing", Old, FAILED, &["initializing", LOOKS], There),
        row("paused_before_data", New, FAILED, &["paused_system"], Gone),
        row(
            "paused_before_data",
            Old,
            FAILED,
            &["paused_system", LOOKS],
            There,
        ),
        row("ticket_lost", New, FINE, &["does not know the ticket"], Gone).times(1),
        row("ticket_lost", Old, FAILED, &["no such ticket", LOOKS], There).times(1),
        row("unknown_phase", New, FINE, &[], Gone).times(3),
        row("url_missing", New, FINE, &[], Gone),
        row("url_missing", Old, FINE, &[], There).value(json!("proxy_url")),
        row("url_missing", New, FAILED, &["url"], Gone).value(json!("both")),
        row("url_missing", Old, FAILED, &["url", LOOKS], There).value(json!("both")),
        row("url_missing", Kept, FAILED, &["url", LOOKS], There).value(json!("both")),
        row("url_host", New, FINE, &["proxy"], Gone),
        row("url_host", Old, FINE, &["proxy"], There).value(json!("silent")),
        row("extend_stopped", Old, FINE, &[], There),
        row("extend_fails", Old, FINE, &[], There),
        row("resume_fails", Old, FINE, &[], There),
        row("resume_slow", Old, FINE, &[], There),
        row("finalize_slow", New, FINE, &[], Gone).value(json!(2.0)),
        row("finalize_pause", New, LOST, &["paused_system|illegal"], Gone),
        row(
            "finalize_pause",
            Old,
            LOST,
            &["paused_system|illegal", "rhv-mount recover"],
            There,
        ),
        row("finalize_failure", New, LOST, &["finalize"], Gone),
        row("finalize_failure", Old, LOST, &["finalize"], Gone),
        row("finalize_vanish", New, FINE, &[], Gone),
        row("finalize_vanish", Old, FINE, &[], There),
        row("finalize_vanish", New, LOST, &["illegal"], Gone).value(json!("illegal")),
        row("finalize_vanish", Old, LOST, &["illegal"], There).value(json!("illegal")),
        row("finalize_vanish", New, LOST, &["gone|removed|locked"], Gone).value(json!("removed")),
        row("finalize_vanish", Old, LOST, &["gone|removed|locked"], Gone).value(json!("removed")),
        row("pause_now", New, FINE, &[], Gone).midway(),
        row("pause_now", Old, FINE, &[], There).midway(),
        row("cancel_now", New, LOST, &["data may be lost"], Gone).midway(),
        row("cancel_now", Old, LOST, &["data may be lost"], Gone).midway(),
        row("ticket_expire", Old, FINE, &[], There).midway(),
        row("ticket_remove", New, &[DONE, DATA_MAY_BE_LOST], &[], Gone).midway(),
        row("ticket_remove", Old, &[DONE, DATA_MAY_BE_LOST], &[], There).midway(),
    ]
}
