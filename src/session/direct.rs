//! Large payloads, which go past the receive ring to their own memory.

use super::Session;
use super::command::Received;
use super::command_window::Arrival;
use super::data_out::Placement;
use super::home::Home;
use super::memory::Source;
use super::receive::{Direct, Sink};
use crate::buffer::CHUNK;
use crate::pdu::bhs::{BHS_LEN, NopOutBhs, ScsiCommandBhs};
use crate::pdu::code::Opcode;
use crate::pdu::digest::{DIGEST_LEN, RunningDigest};
use crate::pdu::frame::{PduLayout, header};
use crate::pdu::padding;
use crate::units::SerialNumber;

impl Session {
    /// Chooses where a large payload goes, before it comes.
    pub(super) fn begin_direct(
        &mut self,
        home: &mut Home,
        layout: PduLayout,
        pdu: &[u8],
        so_far: &[u8],
    ) {
        let Some(bhs) = pdu.first_chunk::<BHS_LEN>() else {
            return;
        };
        let len = u32::try_from(layout.data_len).expect("24 bits");
        let mut sink = match layout.opcode {
            Opcode::DATA_OUT => match self.place_data_out(header(bhs), len) {
                Placement::Place { slot, at } => Sink::Task { slot, at },
                _ => Sink::Drop,
            },
            Opcode::SCSI_COMMAND => self.command_sink(home, header(bhs), layout),
            _ => match self.take_memory(home, layout.data_len, layout.data_len, 0) {
                Some(buffer) => Sink::Own {
                    buffer,
                    from: Source::Share,
                },
                None => self.promised_sink(home, header(bhs), layout),
            },
        };
        match &mut sink {
            Sink::Own { buffer, .. } => {
                buffer.as_mut_slice()[..so_far.len()].copy_from_slice(so_far);
            }
            Sink::Task { slot, at } => {
                if let Some(data) = self.tasks.get_mut(*slot).data.as_mut() {
                    data.as_mut_slice()[*at..*at + so_far.len()].copy_from_slice(so_far);
                }
            }
            Sink::Drop => {}
        }
        self.rx.end = self.rx.start + layout.data_offset;
        // Padding and digest may be there in part already, when all of the data is.
        let data_end = layout.data_offset + so_far.len();
        self.rx.tail = (self.rx.start + data_end, pdu.len() - data_end);
        self.rx.direct = Some(Direct {
            layout,
            filled: so_far.len(),
            sink,
        });
    }

    /// Memory for the immediate data of a command: as much as the whole write wants, else what the window
    /// promised.
    fn command_sink(&mut self, home: &mut Home, bhs: &ScsiCommandBhs, layout: PduLayout) -> Sink {
        let portion = self.portion(home, self.luns.find(bhs.lun.get()));
        let wanted = (bhs.expected_data_transfer_length.get() as usize)
            .min(portion)
            .max(layout.data_len);
        let in_window = layout.immediate
            || self.window.judge(SerialNumber(bhs.cmd_sn.get())) != Arrival::Outside;
        let allowed = layout.data_len <= self.params.first_burst_length as usize
            && self.params.immediate_data
            && in_window;
        if !allowed {
            return Sink::Drop;
        }
        let first_burst = self.params.first_burst_length as usize;
        let least = layout.data_len.max(wanted.min(first_burst));
        if let Some(buffer) = self.take_memory(home, wanted, least, 0) {
            return Sink::Own {
                buffer,
                from: Source::Share,
            };
        }
        if !layout.immediate
            && least <= CHUNK
            && let Some(buffer) = self.take_promised(home)
        {
            return Sink::Own {
                buffer,
                from: Source::Window,
            };
        }
        Sink::Drop
    }

    /// Memory on the promise of a ping or a text that has a place in the command window; else, when it is its
    /// turn, what the session keeps for one of them.
    fn promised_sink(&mut self, home: &mut Home, bhs: &NopOutBhs, layout: PduLayout) -> Sink {
        if !matches!(layout.opcode, Opcode::NOP_OUT | Opcode::TEXT_REQUEST)
            || layout.data_len > CHUNK
        {
            return Sink::Drop;
        }
        let arrival = if layout.immediate {
            Arrival::Next
        } else {
            self.window.judge(SerialNumber(bhs.cmd_sn.get()))
        };
        let numbered = !layout.immediate && arrival != Arrival::Outside;
        if numbered && let Some(buffer) = self.take_promised(home) {
            let from = Source::Window;
            return Sink::Own { buffer, from };
        }
        // What came before its turn may have to wait for what comes behind it: not with this.
        if arrival == Arrival::Next
            && let Some(buffer) = self.take_reserve(home)
        {
            let from = Source::Reserve;
            return Sink::Own { buffer, from };
        }
        Sink::Drop
    }

    /// Runs a PDU whose data went past the ring. `around`: header and what followed the data.
    pub(super) fn run_direct(&mut self, home: &mut Home, direct: Direct, around: &[u8]) {
        let layout = direct.layout;
        let mut damaged = false;
        if layout.data_digest {
            let data: Option<&[u8]> = match &direct.sink {
                Sink::Own { buffer, .. } => buffer.as_slice().get(..layout.data_len),
                Sink::Task { slot, at } => {
                    let data = self.tasks.get(*slot).data.as_ref();
                    data.and_then(|d| d.as_slice().get(*at..*at + layout.data_len))
                }
                Sink::Drop => None,
            };
            if let Some(data) = data {
                let tail = &around[layout.data_offset..];
                let (pad, digest) = tail.split_at(padding(layout.data_len));
                let mut crc = RunningDigest::new();
                crc.update(data);
                crc.update(pad);
                let digest = digest.first_chunk::<DIGEST_LEN>();
                damaged = !digest.is_some_and(|d| crc.matches(*d));
            }
        }
        let len = layout.data_len;
        let received = match direct.sink {
            Sink::Own { buffer, from } => Received::Own { buffer, len, from },
            Sink::Task { .. } | Sink::Drop => Received::Gone { len },
        };
        self.run_pdu(home, &layout, around, received, damaged);
    }
}
