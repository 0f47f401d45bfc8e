//! Text Requests of the Full Feature Phase (RFC 7143, sections 11.10 and 11.11): control traffic, which may
//! allocate, within bounds.

use zerocopy::IntoBytes;

use super::Session;
use super::command::Received;
use super::home::Home;
use super::login::{TextFacts, full_feature_text};
use super::transmit::Out;
use crate::pdu::bhs::{CONTINUE, FINAL, NO_TAG, TextRequestBhs};
use crate::pdu::code::RejectReason;

/// Most text of one exchange, in bytes.
const LONGEST: usize = 16 * 1024;

/// A negotiation that takes more than one request.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    initiator_task_tag: u32,
    target_transfer_tag: u32,
    request: Vec<u8>,
    /// What is still to be answered, once the request is whole.
    response: Option<Vec<u8>>,
}

impl Session {
    pub(super) fn handle_text(
        &mut self,
        home: &mut Home,
        bhs: &TextRequestBhs,
        data: &Received<'_>,
        immediate: bool,
    ) {
        let exchange = match self.continue_exchange(bhs, data) {
            Ok(exchange) => exchange,
            Err(reason) => {
                self.disown(home, immediate);
                return self.reject(home, reason, bhs.as_bytes());
            }
        };
        if !immediate {
            self.spend_and_unpromise(home);
        }
        self.answer_exchange(home, bhs, exchange, !immediate);
    }

    fn continue_exchange(
        &mut self,
        bhs: &TextRequestBhs,
        data: &Received<'_>,
    ) -> Result<Exchange, RejectReason> {
        let (tag, transfer) = (bhs.initiator_task_tag.get(), bhs.target_transfer_tag.get());
        let old = self.text.take();
        let mut exchange = if transfer == NO_TAG {
            // A new negotiation; it resets an older one (section 11.10.4).
            self.next_text_tag = self.next_text_tag.wrapping_add(1) & 0x7fff_ffff;
            Exchange {
                initiator_task_tag: tag,
                target_transfer_tag: self.next_text_tag,
                request: Vec::new(),
                response: None,
            }
        } else {
            let ours =
                |e: &Exchange| e.initiator_task_tag == tag && e.target_transfer_tag == transfer;
            old.filter(ours).ok_or(RejectReason::INVALID_PDU_FIELD)?
        };
        if bhs.flags & (FINAL | CONTINUE) == FINAL | CONTINUE {
            return Err(RejectReason::INVALID_PDU_FIELD);
        }
        if exchange.response.is_some() {
            return Ok(exchange);
        }
        if exchange.request.len() + data.len() > LONGEST {
            return Err(RejectReason::PROTOCOL_ERROR);
        }
        // There was no memory for it.
        let text = data.bytes().ok_or(RejectReason::LONG_OPERATION_REJECT)?;
        exchange.request.extend_from_slice(text);
        if bhs.flags & CONTINUE == 0 {
            let facts = TextFacts {
                targets: &self.facts.targets,
                target: self.facts.target.as_deref(),
                portal: self.facts.portal,
            };
            let response = full_feature_text(&exchange.request, &mut self.params, &facts)?;
            exchange.request.clear();
            exchange.response = Some(response);
        }
        Ok(exchange)
    }

    fn answer_exchange(
        &mut self,
        home: &mut Home,
        bhs: &TextRequestBhs,
        mut exchange: Exchange,
        numbered: bool,
    ) {
        let limit = self.params.max_send_data_segment_length as usize;
        let mut text = exchange.response.take().unwrap_or_default();
        let asked = bhs.flags & CONTINUE == 0;
        if text.len() > limit {
            exchange.response = Some(text.split_off(limit));
        }
        let whole = exchange.response.is_none();
        let last = asked && whole && bhs.flags & FINAL != 0;
        self.tx.say(Out::Text {
            initiator_task_tag: exchange.initiator_task_tag,
            lun: 0,
            target_transfer_tag: if last {
                NO_TAG
            } else {
                exchange.target_transfer_tag
            },
            last,
            more: !whole,
            text,
            numbered,
        });
        if !last {
            self.text = Some(exchange);
        }
        self.make_ready(home);
    }
}
