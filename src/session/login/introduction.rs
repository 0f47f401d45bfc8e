//! Who logs in to what: the keys that the first Login Request must bring (RFC 7143, section 6.3).

use std::net::SocketAddr;
use std::sync::Arc;

use super::refusal::Refusal;
use crate::pdu::text::{Pairs, write_pair};
use crate::session::target::{Target, TargetSet, initiator_name};

/// What the first request says of both ends.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    /// Normal form.
    pub(super) initiator_name: String,
    /// SessionType=Discovery.
    pub(super) discovery: bool,
    /// Of a normal session.
    pub(super) target: Option<Arc<Target>>,
    /// Of the portal that the login came in on; `None` where no target is.
    pub(super) portal_group_tag: Option<u16>,
}

impl Introduction {
    /// Reads it from the text of the whole first request, for a connection to `portal`. The text's other
    /// keys are left to the negotiation, as is a key that comes twice.
    pub(super) fn read(
        text: &[u8],
        targets: &TargetSet,
        portal: SocketAddr,
    ) -> Result<Self, Refusal> {
        let (mut initiator, mut target, mut session) = (None, None, "Normal");
        for pair in Pairs::new(text) {
            let pair = pair?;
            match pair.key {
                "InitiatorName" => initiator = Some(pair.value),
                "TargetName" => target = Some(pair.value),
                "SessionType" => session = pair.value,
                _ => {}
            }
        }
        let initiator = initiator.filter(|name| !name.is_empty());
        let initiator_name = initiator_name(initiator.ok_or(Refusal::NoInitiatorName)?)
            .ok_or(Refusal::InitiatorName)?;
        let discovery = match session {
            "Normal" => false,
            "Discovery" => true,
            _ => return Err(Refusal::SessionType),
        };
        let (target, portal_group_tag) = if discovery {
            // The tag is due in sessions of all types (section 6.3.1); where several targets share the
            // portal, the first one's.
            let mut groups = targets.targets.iter().filter_map(|t| t.group_at(portal));
            (None, groups.next().map(|group| group.tag))
        } else {
            let name = target.filter(|name| !name.is_empty());
            let target = targets.find(name.ok_or(Refusal::NoTargetName)?);
            let target = target.ok_or(Refusal::TargetNotFound)?;
            let group = target.group_at(portal).ok_or(Refusal::TargetNotFound)?;
            (Some(Arc::clone(target)), Some(group.tag))
        };
        Ok(Self {
            initiator_name,
            discovery,
            target,
            portal_group_tag,
        })
    }

    /// What the first answer starts with: the portal group's tag (sections 6.3.1 and 13.9) and the
    /// target's alias (section 13.6).
    pub(super) fn greeting(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(tag) = self.portal_group_tag {
            write_pair(&mut text, "TargetPortalGroupTag", tag);
        }
        let target = self.target.as_deref();
        if let Some(alias) = target.and_then(|target| target.alias.as_deref()) {
            write_pair(&mut text, "TargetAlias", alias);
        }
        text
    }
}
