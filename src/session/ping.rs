//! NOP-Out: what an initiator asks to be echoed (RFC 7143, sections 11.18 and 11.19).

use zerocopy::IntoBytes;

use super::Session;
use super::command::Received;
use super::command_window::Arrival;
use super::home::Home;
use super::memory::Source;
use super::transmit::{INLINE, Inline, Out, Payload};
use crate::buffer::CHUNK;
use crate::pdu::bhs::{BHS_LEN, NO_TAG, NopOutBhs};
use crate::pdu::code::{Opcode, RejectReason};
use crate::pdu::frame::{PduLayout, header};
use crate::units::SerialNumber;

impl Session {
    pub(super) fn handle_nop_out(
        &mut self,
        home: &mut Home,
        bhs: &NopOutBhs,
        data: Received<'_>,
        immediate: bool,
    ) {
        let tag = bhs.initiator_task_tag.get();
        if tag == NO_TAG {
            // Section 11.18.1: no answer is wanted. (Answers to our own pings: with keepalive.)
            self.disown(home, immediate);
            return self.forget_received(home, data);
        }
        let Some(ping) = self.keep_ping(home, data, immediate) else {
            // Section 11.19.2: what comes back is never less than what fits; so without memory, nothing does.
            self.disown(home, immediate);
            let reason = RejectReason::IMMEDIATE_COMMAND_REJECT;
            return self.reject(home, reason, bhs.as_bytes());
        };
        let window = Source::Window;
        let on_promise = matches!(&ping, Payload::Own { from, .. } if *from == window);
        if !immediate && !on_promise {
            self.spend_and_unpromise(home);
        }
        self.tx.say(Out::NopIn {
            initiator_task_tag: tag,
            lun: bhs.lun.get(),
            ping,
            numbered: !immediate,
        });
        self.make_ready(home);
    }

    /// The ping data, as much of it as the initiator takes in one PDU; `None`: there is no memory for it.
    fn keep_ping(
        &mut self,
        home: &mut Home,
        data: Received<'_>,
        immediate: bool,
    ) -> Option<Payload> {
        let limit = self.params.max_send_data_segment_length as usize;
        let len = data.len().min(limit);
        if len <= INLINE {
            let ping = data.bytes().map(|b| Payload::Inline(Inline::of(&b[..len])));
            self.forget_received(home, data);
            return ping;
        }
        let bytes = match data {
            Received::Own { buffer, from, .. } => return Some(Payload::Own { buffer, len, from }),
            Received::Gone { .. } => return None,
            Received::Bytes(bytes) => &bytes[..len],
        };
        let mut from = Source::Share;
        let mut buffer = self.take_memory(home, len, len, 0);
        if buffer.is_none() && !immediate && len <= CHUNK {
            from = Source::Window;
            buffer = self.take_promised(home);
        }
        if buffer.is_none() && len <= CHUNK {
            from = Source::Reserve;
            buffer = self.take_reserve(home);
        }
        let mut buffer = buffer?;
        buffer.as_mut_slice()[..len].copy_from_slice(bytes);
        Some(Payload::Own { buffer, len, from })
    }

    /// Whether this is a ping whose `len` bytes have no place before the answer to an earlier one has left.
    /// (That one waits for nobody but its own initiator, who must read it.)
    pub(super) fn must_wait_for_a_ping(
        &mut self,
        home: &mut Home,
        layout: &PduLayout,
        pdu: &[u8],
        len: usize,
    ) -> bool {
        if layout.opcode != Opcode::NOP_OUT || self.reserved || !(INLINE..=CHUNK).contains(&len) {
            return false;
        }
        let Some(bhs) = pdu.first_chunk::<BHS_LEN>() else {
            return false;
        };
        let nop: &NopOutBhs = header(bhs);
        let is_next = || self.window.judge(SerialNumber(nop.cmd_sn.get())) == Arrival::Next;
        let has_promise = !layout.immediate && self.promises > 0;
        if nop.initiator_task_tag.get() == NO_TAG || has_promise || !(layout.immediate || is_next())
        {
            return false;
        }
        match self.take_memory(home, len, len, 0) {
            Some(buffer) => {
                self.memory -= buffer.len();
                false
            }
            None => true,
        }
    }
}
