//! The rules of negotiation (RFC 7143, section 6.2): one `match` on [`Rule`], and what is remembered of
//! one login so that nothing is negotiated twice.

use super::keys::{self, At, Key, Rule, Use};
use super::refusal::Refusal;
use crate::buffer::CHUNK;
use crate::pdu::code::{LoginStage, RejectReason};
use crate::pdu::text::{self, Pair, Pairs, write_pair};
use crate::session::discovery::{self, Query};
use crate::session::params::{Offer, OperationalParams};
use crate::session::target::{Target, TargetSet};
use std::net::SocketAddr;

const FIRST_BURST_LENGTH: &str = "FirstBurstLength";
const REJECT: &str = "Reject";
const IRRELEVANT: &str = "Irrelevant";
const NOT_UNDERSTOOD: &str = "NotUnderstood";

/// What the initiator hears of its proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: a declaration.
    None,
    /// A number.
    Number(u32),
    /// A boolean.
    Boolean(bool),
    /// An item of its list, or one of the reserved words.
    Word(&'static str),
}

/// What comes of one proposal: the answer, and the value to keep, if it is one.
pub type Settled = (Answer, Option<u32>);

/// Settles a proposal for `key` by its rule; `ours` is what we would choose.
///
/// # Errors
/// When the value is one that cannot even be answered with "Reject".
pub fn settle(key: &Key, value: &str, ours: u32) -> Result<Settled, Refusal> {
    if [REJECT, IRRELEVANT, NOT_UNDERSTOOD].contains(&value) {
        return Err(Refusal::ReservedValue);
    }
    let number = || {
        let number = text::number(value).and_then(|n| u32::try_from(n).ok());
        number.filter(|n| (key.range.0..=key.range.1).contains(n))
    };
    let numeric = |result: fn(u32, u32) -> u32| match number() {
        Some(theirs) => {
            let value = result(theirs, ours);
            (Answer::Number(value), Some(value))
        }
        None => (Answer::Word(REJECT), None),
    };
    let boolean = |result: fn(bool, bool) -> bool| match text::boolean(value) {
        Some(theirs) => {
            let value = result(theirs, ours == 1);
            (Answer::Boolean(value), Some(u32::from(value)))
        }
        None => (Answer::Word(REJECT), None),
    };
    Ok(match key.rule {
        Rule::And => boolean(|a, b| a && b),
        Rule::Or => boolean(|a, b| a || b),
        Rule::Minimum => numeric(u32::min),
        Rule::Maximum => numeric(u32::max),
        Rule::Declare => (Answer::None, Some(number().ok_or(Refusal::Declaration)?)),
        Rule::FirstListed(names) => first_listed(names, value),
        Rule::Introduce | Rule::Remark => (Answer::None, None),
        Rule::Obsolete => (Answer::Word(REJECT), None),
        Rule::Ask | Rule::TargetOnly => return Err(Refusal::KeyOutOfPlace),
    })
}

/// The first item of their list that is in ours (section 6.2.1).
fn first_listed(ours: &'static [&'static str], theirs: &str) -> Settled {
    let mut places = text::list(theirs).filter_map(|item| ours.iter().position(|&o| o == item));
    match places.next() {
        Some(place) => (Answer::Word(ours[place]), u32::try_from(place).ok()),
        None => (Answer::Word(REJECT), None),
    }
}

fn write_answer(out: &mut Vec<u8>, key: &str, answer: Answer) {
    match answer {
        Answer::None => {}
        Answer::Number(value) => write_pair(out, key, value),
        Answer::Boolean(value) => text::write_boolean(out, key, value),
        Answer::Word(value) => write_pair(out, key, value),
    }
}

/// What one login has negotiated so far.
#[derive(Clone, Debug)]
pub struct Negotiation {
    offer: Offer,
    params: OperationalParams,
    leading: bool,
    discovery: bool,
    /// Keys seen, by place in the table.
    seen: u64,
    /// Keys seen that are not in the table.
    foreign: Vec<String>,
    most_keys: usize,
    /// Keys that only come with the first request may come.
    introduction: bool,
}

impl Negotiation {
    /// Nothing is negotiated; at most `most_keys` keys will be. Unsolicited data of a command is never more
    /// than what the command window promises it room for.
    pub(super) fn new(offer: Offer, most_keys: usize) -> Self {
        let chunk = u32::try_from(CHUNK).expect("64 KiB");
        let offer = Offer {
            first_burst_length: offer.first_burst_length.min(chunk),
            ..offer
        };
        Self {
            offer,
            params: OperationalParams::DEFAULT,
            leading: true,
            discovery: false,
            seen: 0,
            foreign: Vec::new(),
            most_keys,
            introduction: true,
        }
    }

    /// What the first request said: whether this is a session's first connection, and its type.
    pub(super) const fn set_session(&mut self, leading: bool, discovery: bool) {
        self.leading = leading;
        self.discovery = discovery;
    }

    /// Takes the pairs of one request of `stage`, and appends the answers to `reply`.
    pub(super) fn request(
        &mut self,
        stage: LoginStage,
        request: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        // FirstBurstLength is answered last: its bound, MaxBurstLength, may stand behind it.
        let mut last = None;
        for pair in Pairs::new(request) {
            let pair = pair?;
            if pair.key == FIRST_BURST_LENGTH && last.is_none() {
                last = Some(pair);
            } else {
                self.pair(stage, pair, reply)?;
            }
        }
        if let Some(pair) = last {
            self.pair(stage, pair, reply)?;
        }
        self.introduction = false;
        Ok(())
    }

    fn pair(
        &mut self,
        stage: LoginStage,
        pair: Pair<'_>,
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Some((place, key)) = keys::find(pair.key) else {
            return self.foreign_pair(pair, reply);
        };
        if !self.is_in_place(stage, key) {
            return Err(Refusal::KeyOutOfPlace);
        }
        if self.seen & 1 << place != 0 {
            return Err(Refusal::KeyTwice);
        }
        self.seen |= 1 << place;
        let (answer, value) = settle(key, pair.value, self.our_value(key))?;
        if key.name == keys::AUTH_METHOD && value.is_none() {
            return Err(Refusal::AuthMethod);
        }
        if self.discovery && key.irrelevant_in_discovery {
            write_pair(reply, key.name, IRRELEVANT);
            return Ok(());
        }
        if let Some(value) = value {
            (key.store)(&mut self.params, value);
        }
        write_answer(reply, key.name, answer);
        Ok(())
    }

    /// What we would choose, as far as it depends on what is agreed already: a FirstBurstLength above an
    /// agreed MaxBurstLength would be illegal (section 13.14).
    fn our_value(&self, key: &Key) -> u32 {
        let ours = (key.ours)(&self.offer);
        if key.name == FIRST_BURST_LENGTH {
            ours.min(self.params.max_burst_length)
        } else {
            ours
        }
    }

    const fn is_in_place(&self, stage: LoginStage, key: &Key) -> bool {
        let at = match key.at {
            At::AnyStage => true,
            At::Security => stage.0 == LoginStage::SECURITY_NEGOTIATION.0,
            At::Operational => stage.0 == LoginStage::OPERATIONAL_NEGOTIATION.0,
        };
        let now = match key.usage {
            Use::LeadingOnly => self.leading,
            Use::InitializeOnly | Use::All => true,
            Use::FullFeatureOnly => false,
        };
        at && now && (self.introduction || !matches!(key.rule, Rule::Introduce))
    }

    /// A key that no standard we know has: private ones ("X-") and later ones (section 6.2).
    fn foreign_pair(&mut self, pair: Pair<'_>, reply: &mut Vec<u8>) -> Result<(), Refusal> {
        if [REJECT, IRRELEVANT, NOT_UNDERSTOOD].contains(&pair.value) {
            return Err(Refusal::ReservedValue);
        }
        if self.foreign.iter().any(|key| key == pair.key) {
            return Err(Refusal::KeyTwice);
        }
        if self.foreign.len() >= self.most_keys {
            return Err(Refusal::TooLong);
        }
        self.foreign.push(pair.key.to_owned());
        write_pair(reply, pair.key, NOT_UNDERSTOOD);
        Ok(())
    }

    /// Appends what we declare about ourselves in the operational stage.
    pub(super) fn declare(&mut self, reply: &mut Vec<u8>) {
        let ours = self.offer.max_recv_data_segment_length;
        write_pair(reply, keys::MAX_RECV_DATA_SEGMENT_LENGTH, ours);
        self.params.max_recv_data_segment_length = ours;
    }

    /// What was agreed on, once everything is.
    ///
    /// # Errors
    /// When FirstBurstLength is greater than MaxBurstLength (section 13.14) and counts.
    pub(super) fn result(&self) -> Result<OperationalParams, Refusal> {
        let mut params = self.params;
        if params.first_burst_length > params.max_burst_length {
            // Irrelevant without unsolicited data, and with no data at all.
            if !self.discovery && (params.immediate_data || !params.initial_r2t) {
                return Err(Refusal::FirstBurstLength);
            }
            params.first_burst_length = params.max_burst_length;
        }
        Ok(params)
    }
}

/// What a Text Request of the Full Feature Phase is answered from.
#[derive(Clone, Copy, Debug)]
pub struct TextFacts<'a> {
    /// Every target there is.
    pub targets: &'a TargetSet,
    /// The session's target; `None` in a discovery session.
    pub target: Option<&'a Target>,
    /// Our address of the connection.
    pub portal: SocketAddr,
}

/// Answers one whole Text Request (the text of all its continuations) of the Full Feature Phase:
/// SendTargets (appendix C), and what little may be negotiated there (section 6.4). `params` changes
/// only when all of it is right.
///
/// # Errors
/// The reason for a Reject: a key that is not for the Full Feature Phase, or twice; SendTargets=All in a
/// normal session; text that is no text.
pub fn full_feature_text(
    request: &[u8],
    params: &mut OperationalParams,
    facts: &TextFacts<'_>,
) -> Result<Vec<u8>, RejectReason> {
    let mut agreed = *params;
    let mut reply = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for pair in Pairs::new(request) {
        let pair = pair.map_err(|_| RejectReason::PROTOCOL_ERROR)?;
        // A SendTargets stands alone (appendix C), and it is all that a discovery session may ask.
        let asked =
            seen.contains(&"SendTargets") || (pair.key == "SendTargets" && !seen.is_empty());
        let discovery = facts.target.is_none() && pair.key != "SendTargets";
        if asked || discovery || seen.contains(&pair.key) || seen.len() >= FULL_FEATURE_KEYS {
            return Err(RejectReason::PROTOCOL_ERROR);
        }
        seen.push(pair.key);
        full_feature_pair(pair, &mut agreed, facts, &mut reply)?;
    }
    *params = agreed;
    Ok(reply)
}

/// Most keys in one Text Request.
const FULL_FEATURE_KEYS: usize = 64;

fn full_feature_pair(
    pair: Pair<'_>,
    params: &mut OperationalParams,
    facts: &TextFacts<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), RejectReason> {
    const REFUSED: RejectReason = RejectReason::PROTOCOL_ERROR;
    let Some((_, key)) = keys::find(pair.key) else {
        if [REJECT, IRRELEVANT, NOT_UNDERSTOOD].contains(&pair.value) {
            return Err(REFUSED);
        }
        write_pair(reply, pair.key, NOT_UNDERSTOOD);
        return Ok(());
    };
    match (key.rule, key.usage) {
        (Rule::Ask, _) => send_targets(pair.value, facts, reply),
        (_, Use::All) => {
            let (answer, value) = settle(key, pair.value, 0).map_err(|_| REFUSED)?;
            if let Some(value) = value {
                (key.store)(params, value);
            }
            write_answer(reply, key.name, answer);
            Ok(())
        }
        _ => Err(REFUSED),
    }
}

fn send_targets(
    value: &str,
    facts: &TextFacts<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), RejectReason> {
    let query = match (facts.target, value) {
        (None, "All") => Query::All,
        // "All" MUST NOT be supported in a normal session, nor an empty value have a meaning in a
        // discovery session (appendix C).
        (Some(_), "All") | (None, "") => return Err(RejectReason::PROTOCOL_ERROR),
        (Some(target), "") => Query::Named(&target.name),
        (Some(target), name) if !name.eq_ignore_ascii_case(&target.name) => return Ok(()),
        (_, name) => Query::Named(name),
    };
    discovery::send_targets(facts.targets, query, facts.portal, reply);
    Ok(())
}
