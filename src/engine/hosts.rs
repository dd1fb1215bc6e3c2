//! Finds out whether this machine is one of the engine's hosts. The transfer is then requested on this host,
//! and the data goes through imageio's unix socket instead of the network.

use tracing::info;

use super::address::{query, quoted};
use super::json::{list, text};
use super::{Engine, Error};
use crate::process::rights;

/// The file with the machine's hardware id, written by vdsm.
const HARDWARE_ID: &str = "/etc/vdsm/vdsm.id";

/// The variable with another path of that file: a container on a host has its own `/etc`.
const HARDWARE_ID_VARIABLE: &str = "RHV_MOUNT_VDSM_ID";

/// Returns the hardware id of this machine if it is a host.
pub(crate) fn this_hardware() -> Option<String> {
    let path = std::env::var_os(HARDWARE_ID_VARIABLE).unwrap_or_else(|| HARDWARE_ID.into());
    let id = rights::with(|| std::fs::read_to_string(path)).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

impl Engine {
    /// Returns the engine's id of the host with this hardware id, if the host is up and belongs to the data
    /// center of the storage domain. Another host could not prepare the disk, and an upload that fails to
    /// start loses its disk.
    pub(crate) fn find_host(&self, hardware: &str, storage_domain: &str) -> Result<Option<String>, Error> {
        let Some(center) = self.data_center(storage_domain)? else {
            return Ok(None);
        };
        let search = format!(
            "hw_id={hardware} and datacenter={} and status=Up",
            quoted(&center)
        );
        let what = "search for this host";
        let hosts = self.listed(what, "host", self.get(what, &query("/hosts", &search))?)?;
        let host = list(&hosts, "host").first().and_then(|h| text(h, "id"));
        info!(?host, "this machine has the hardware id {hardware}");
        Ok(host)
    }
}
