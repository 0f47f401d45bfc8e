//! Targets, their portal groups and LUNs: an immutable snapshot that control makes.

use std::net::SocketAddr;
use std::sync::Arc;

use super::UnitId;

/// One iSCSI target (RFC 7143, section 2.2).
#[derive(Clone, Debug)]
pub struct Target {
    /// iSCSI name, in its normal form.
    pub name: String,
    /// TargetAlias, if it has one.
    pub alias: Option<String>,
    /// Portal groups, by tag.
    pub portal_groups: Vec<PortalGroup>,
    /// Which logical unit each LUN is; ordered by LUN.
    pub luns: Vec<(u16, UnitId)>,
}

/// A target portal group (RFC 7143, section 2.2).
#[derive(Clone, Debug)]
pub struct PortalGroup {
    /// TargetPortalGroupTag.
    pub tag: u16,
    /// Where it listens (the bound addresses).
    pub portals: Vec<SocketAddr>,
}

/// Every target there is. Replaced as a whole, never changed.
#[derive(Clone, Debug, Default)]
pub struct TargetSet {
    /// Ordered by name.
    pub targets: Vec<Arc<Target>>,
}
