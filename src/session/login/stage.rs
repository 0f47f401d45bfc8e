//! The stages of a login: each has its data and no other, and moving on consumes it.

use super::negotiate::Negotiation;
use super::refusal::Refusal;
use crate::pdu::code::LoginStage;

/// Where a login stands (RFC 7143, section 6.3). CHAP adds a stage that holds the challenge it sent.
#[derive(Debug)]
pub(super) enum LoginState {
    /// SecurityNegotiation: which AuthMethod.
    SecurityNegotiation(AwaitAuthMethod),
    /// LoginOperationalNegotiation.
    OperationalNegotiation(AwaitKeys),
}

/// Nothing has to be remembered while None is the only method.
#[derive(Debug)]
pub(super) struct AwaitAuthMethod;

/// Whether we have declared our part.
#[derive(Debug)]
pub(super) struct AwaitKeys {
    declared: bool,
}

/// One complete request: its text, and the stage it wants to go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct StageRequest<'a> {
    pub(super) text: &'a [u8],
    pub(super) transit: Option<LoginStage>,
}

/// What a request leads to.
#[derive(Debug)]
pub(super) enum Next {
    /// The same stage goes on, or the one that the initiator wanted begins.
    Continue(LoginState),
    /// Everything is agreed.
    FullFeaturePhase,
}

impl LoginState {
    /// The state in which a login starts with `stage`.
    pub(super) const fn starting(stage: LoginStage) -> Result<Self, Refusal> {
        match stage {
            LoginStage::SECURITY_NEGOTIATION => Ok(Self::SecurityNegotiation(AwaitAuthMethod)),
            LoginStage::OPERATIONAL_NEGOTIATION => {
                Ok(Self::OperationalNegotiation(AwaitKeys { declared: false }))
            }
            _ => Err(Refusal::Stage),
        }
    }

    /// Its code.
    pub(super) const fn stage(&self) -> LoginStage {
        match self {
            Self::SecurityNegotiation(_) => LoginStage::SECURITY_NEGOTIATION,
            Self::OperationalNegotiation(_) => LoginStage::OPERATIONAL_NEGOTIATION,
        }
    }

    /// Consumes this stage and one complete request; appends the answers to `reply`.
    pub(super) fn handle(
        self,
        request: StageRequest<'_>,
        negotiation: &mut Negotiation,
        reply: &mut Vec<u8>,
    ) -> Result<Next, Refusal> {
        negotiation.request(self.stage(), request.text, reply)?;
        match self {
            Self::SecurityNegotiation(AwaitAuthMethod) => {}
            Self::OperationalNegotiation(AwaitKeys { declared }) => {
                if !declared {
                    negotiation.declare(reply);
                }
            }
        }
        match (request.transit, self) {
            (None, Self::OperationalNegotiation(_)) => {
                Ok(Next::Continue(Self::OperationalNegotiation(AwaitKeys {
                    declared: true,
                })))
            }
            (None, same) => Ok(Next::Continue(same)),
            (Some(LoginStage::FULL_FEATURE_PHASE), _) => Ok(Next::FullFeaturePhase),
            (Some(stage), _) => Self::starting(stage).map(Next::Continue),
        }
    }
}
