//! iSCSI without sockets: bytes and completions in, bytes and block operations out.

pub mod discovery;
pub mod login;
pub mod params;
pub mod target;

/// A logical unit of this process: an index that control gives out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitId(pub u32);

/// A reactor of this process, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReactorId(pub u16);
