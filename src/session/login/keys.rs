//! The key table (RFC 7143, sections 12 and 13): every key there is, with its rule. `negotiate` reads it.

use crate::session::params::{Offer, OperationalParams};

/// How the two sides' values become one (RFC 7143, sections 6.2 and 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Boolean; Yes if both say so.
    And,
    /// Boolean; Yes if one says so.
    Or,
    /// Number; the smaller one.
    Minimum,
    /// Number; the larger one.
    Maximum,
    /// Number that the initiator states about itself; not answered.
    Declare,
    /// The first item of the initiator's list that is in ours; stored as its place in ours.
    FirstListed(&'static [&'static str]),
    /// Text that the initiator states about itself with its first request; `introduction` reads it.
    Introduce,
    /// Text that the initiator states about itself and that changes nothing.
    Remark,
    /// A key of former standards, always answered with "Reject" (section 13.25).
    Obsolete,
    /// A question of the Full Feature Phase (SendTargets).
    Ask,
    /// Only targets send it.
    TargetOnly,
}

/// When a key may be sent (RFC 7143, section 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// LO: in the login of a session's first connection.
    LeadingOnly,
    /// IO: in any login.
    InitializeOnly,
    /// ALL: in logins and in the Full Feature Phase.
    All,
    /// FFPO: in the Full Feature Phase.
    FullFeatureOnly,
}

/// The stage of the login that a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// SecurityNegotiation.
    Security,
    /// LoginOperationalNegotiation.
    Operational,
    /// Any-Stage.
    AnyStage,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Key-name.
    pub name: &'static str,
    /// How two values become one.
    pub rule: Rule,
    /// Least and greatest value; booleans are 0 and 1, lists give a place.
    pub range: (u32, u32),
    /// When it may be sent.
    pub usage: Use,
    /// Where in a login it may be sent.
    pub at: At,
    /// Irrelevant when SessionType=Discovery.
    pub irrelevant_in_discovery: bool,
    /// What we would choose.
    pub ours: fn(&Offer) -> u32,
    /// Puts the result where it is used.
    pub store: fn(&mut OperationalParams, u32),
}

/// Methods of authentication, by the name in AuthMethod (section 12.1). CHAP will stand before "None".
pub const AUTH_METHODS: &[&str] = &["None"];
/// Digests, by the name in HeaderDigest and DataDigest (section 13.1); CRC32C is place 0.
pub const DIGESTS: &[&str] = &["CRC32C", "None"];
/// Semantics of multi-task abort reports, by the name in TaskReporting (section 13.23).
pub const TASK_REPORTING: &[&str] = &["RFC3720"];

/// The key whose failure is not answered with "Reject" but ends the login.
pub const AUTH_METHOD: &str = "AuthMethod";
/// The key that both sides declare.
pub const MAX_RECV_DATA_SEGMENT_LENGTH: &str = "MaxRecvDataSegmentLength";

use At::{AnyStage, Security};
use Rule::{
    And, Ask, Declare, FirstListed, Introduce, Maximum, Minimum, Obsolete, Or, Remark, TargetOnly,
};
use Use::{All, FullFeatureOnly, InitializeOnly};

const LENGTH: (u32, u32) = (512, 0xff_ffff);

/// Every key of RFC 7143, and iSCSIProtocolLevel of RFC 7144; the number is the section of RFC 7143.
#[rustfmt::skip]
pub static KEYS: [Key; COUNT] = [
    row(AUTH_METHOD, FirstListed(AUTH_METHODS)).when(InitializeOnly).at(Security),                                  // 12.1
    row("HeaderDigest", FirstListed(DIGESTS)).when(InitializeOnly).stored(|p, v| p.header_digest = v == 0),         // .1
    row("DataDigest", FirstListed(DIGESTS)).when(InitializeOnly).stored(|p, v| p.data_digest = v == 0),             // .1
    row("MaxConnections", Minimum).range(1, 65_535).ours(|_| 1).not_in_discovery(),                                 // .2
    row("SendTargets", Ask).when(FullFeatureOnly),                                                                  // .3
    row("TargetName", Introduce).when(InitializeOnly).at(AnyStage),                                                 // .4
    row("InitiatorName", Introduce).when(InitializeOnly).at(AnyStage),                                              // .5
    row("TargetAlias", TargetOnly).when(All).at(AnyStage),                                                          // .6
    row("InitiatorAlias", Remark).when(All).at(AnyStage),                                                           // .7
    row("TargetAddress", TargetOnly).when(All).at(AnyStage),                                                        // .8
    row("TargetPortalGroupTag", TargetOnly).when(InitializeOnly).at(AnyStage),                                      // .9
    row("InitialR2T", Or).ours(|o| o.initial_r2t.into()).stored(|p, v| p.initial_r2t = v == 1).not_in_discovery(),  // .10
    row("ImmediateData", And).ours(|o| o.immediate_data.into()).stored(|p, v| p.immediate_data = v == 1).not_in_discovery(), // .11
    row(MAX_RECV_DATA_SEGMENT_LENGTH, Declare).lengths().when(All).stored(|p, v| p.max_send_data_segment_length = v), // .12
    row("MaxBurstLength", Minimum).lengths().ours(|o| o.max_burst_length).stored(|p, v| p.max_burst_length = v).not_in_discovery(), // .13
    row("FirstBurstLength", Minimum).lengths().ours(|o| o.first_burst_length).stored(|p, v| p.first_burst_length = v).not_in_discovery(), // .14
    row("DefaultTime2Wait", Maximum).range(0, 3600).ours(|o| o.default_time2wait.into()).stored(|p, v| p.default_time2wait = short(v)), // .15
    row("DefaultTime2Retain", Minimum).range(0, 3600).ours(|o| o.default_time2retain.into()).stored(|p, v| p.default_time2retain = short(v)), // .16
    row("MaxOutstandingR2T", Minimum).range(1, 65_535).ours(|o| o.max_outstanding_r2t.into()).stored(|p, v| p.max_outstanding_r2t = short(v)).not_in_discovery(), // .17
    row("DataPDUInOrder", Or).ours(|_| 1).not_in_discovery(),                                                       // .18
    row("DataSequenceInOrder", Or).ours(|_| 1).not_in_discovery(),                                                  // .19
    row("ErrorRecoveryLevel", Minimum).range(0, 2).ours(|_| 0),                                                     // .20
    row("SessionType", Introduce).at(AnyStage),                                                                     // .21
    row("TaskReporting", FirstListed(TASK_REPORTING)).not_in_discovery(),                                           // .23
    row("iSCSIProtocolLevel", Minimum).range(0, 31).ours(|_| 1).not_in_discovery(),                                 // .24
    row("IFMarker", Obsolete).when(InitializeOnly),                                                                 // .25
    row("OFMarker", Obsolete).when(InitializeOnly),                                                                 // .25
    row("IFMarkInt", Obsolete).when(InitializeOnly),                                                                // .25
    row("OFMarkInt", Obsolete).when(InitializeOnly),                                                                // .25
    row("X#NodeArchitecture", Remark),                                                                              // .26
];
const COUNT: usize = 30;
const _: () = assert!(
    COUNT <= 64,
    "`negotiate` keeps the set of keys seen in a u64"
);

/// The row of `name` and its place in the table.
#[must_use]
pub fn find(name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.name == name)
}

/// A row as most of them are: LO, operational, boolean.
const fn row(name: &'static str, rule: Rule) -> Key {
    Key {
        name,
        rule,
        range: (0, 1),
        usage: Use::LeadingOnly,
        at: At::Operational,
        irrelevant_in_discovery: false,
        ours: |_| 0,
        store: |_, _| (),
    }
}

impl Key {
    const fn range(mut self, least: u32, greatest: u32) -> Self {
        self.range = (least, greatest);
        self
    }
    const fn lengths(mut self) -> Self {
        self.range = LENGTH;
        self
    }
    const fn when(mut self, usage: Use) -> Self {
        self.usage = usage;
        self
    }
    const fn at(mut self, at: At) -> Self {
        self.at = at;
        self
    }
    const fn not_in_discovery(mut self) -> Self {
        self.irrelevant_in_discovery = true;
        self
    }
    const fn ours(mut self, ours: fn(&Offer) -> u32) -> Self {
        self.ours = ours;
        self
    }
    const fn stored(mut self, store: fn(&mut OperationalParams, u32)) -> Self {
        self.store = store;
        self
    }
}

/// A number whose range ends below 2^16.
fn short(value: u32) -> u16 {
    u16::try_from(value).expect("the key's range ends below 2^16")
}
