//! Images that qemu-img makes, read here; images that are written here, checked by qemu-img.

mod bounds;
mod chains;
mod qcow2;
mod tools;
mod vmdk;
mod written;
