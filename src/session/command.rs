//! The arrival of a SCSI command, and the order in which tasks start.

use super::Session;
use super::error::Event;
use super::home::Home;
use super::memory::Source;
use super::task::{Attribute, Need, State};
use crate::buffer::Buffer;
use crate::pdu::bhs::{FINAL, READ, ScsiCommandBhs, WRITE};
use crate::pdu::code::RejectReason;
use crate::pdu::frame::{Ahs, AhsSegments};
use crate::scsi::sense::key;
use crate::scsi::{Outcome, Sense};

/// A task attribute that is not supported: INVALID MESSAGE ERROR (SPC-5, annex F).
const INVALID_MESSAGE: Sense = Sense::new(key::ABORTED_COMMAND, 0x49, 0x00);
/// No memory for data that came unasked: INSUFFICIENT RESOURCES.
const INSUFFICIENT_RESOURCES: Sense = Sense::new(key::ABORTED_COMMAND, 0x55, 0x03);

/// The data that came with a PDU.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// In the receive ring.
    Bytes(&'a [u8]),
    /// In a buffer of its own.
    Own {
        buffer: Buffer,
        len: usize,
        from: Source,
    },
    /// Already in its task's buffer, or dropped.
    Gone { len: usize },
}

impl Received<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Own { len, .. } | Self::Gone { len } => *len,
        }
    }

    /// Whether it has a buffer that was taken on `source`.
    pub(super) fn is_from(&self, source: Source) -> bool {
        matches!(self, Self::Own { from, .. } if *from == source)
    }

    /// The bytes, where they are with the PDU.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Own { buffer, len, .. } => Some(&buffer.as_slice()[..*len]),
            Self::Gone { .. } => None,
        }
    }
}

impl Session {
    /// A SCSI Command that is to be executed now (its CmdSN has been taken in).
    pub(super) fn handle_scsi_command(
        &mut self,
        home: &mut Home,
        bhs: &ScsiCommandBhs,
        ahs: &[u8],
        data: Received<'_>,
        immediate: bool,
    ) {
        let tag = bhs.initiator_task_tag.get();
        let Some(slot) = self.tasks.insert(tag) else {
            self.disown(home, immediate);
            self.forget_received(home, data);
            let reason = RejectReason::IMMEDIATE_COMMAND_REJECT;
            return self.reject(home, reason, zerocopy::IntoBytes::as_bytes(bhs));
        };
        home.count(Event::CommandStarted);
        // The promise that came with the place in the window now belongs to the task.
        let spent = data.is_from(Source::Window);
        let promised = !immediate && self.spend_promise(spent);
        if immediate {
            self.immediate_tasks += 1;
        }
        let lun = bhs.lun.get();
        let unit = self.luns.find(lun);
        let task = self.tasks.get_mut(slot);
        task.lun = lun;
        task.unit = unit;
        task.cmd_sn = crate::units::SerialNumber(bhs.cmd_sn.get());
        task.immediate = immediate;
        task.promised = promised;
        task.expected_len = bhs.expected_data_transfer_length.get();
        task.reads = bhs.flags & READ != 0;
        task.writes = bhs.flags & WRITE != 0;
        task.cdb = bhs.cdb;
        task.attribute = match bhs.flags & 7 {
            2 => Attribute::Ordered,
            3 => Attribute::HeadOfQueue,
            _ => Attribute::Simple,
        };
        for segment in AhsSegments::new(ahs) {
            if let Ok(Ahs::BidirectionalReadLength(len)) = segment {
                task.bidirectional_read_len = len;
            }
        }
        let refused = self.land_immediate(home, slot, bhs.flags & FINAL != 0, data);
        if bhs.flags & 7 > 3 {
            // ACA and reserved attributes: NACA is not supported, so there is never an ACA to be in.
            self.fail_data_out(slot, INVALID_MESSAGE);
        } else if let Some(sense) = refused {
            home.count(Event::BadDataOut);
            self.fail_data_out(slot, sense);
        }
        self.start_or_wait(home, slot);
    }

    /// Puts immediate data where it belongs, and makes room for the unsolicited data that follows.
    fn land_immediate(
        &mut self,
        home: &mut Home,
        slot: u16,
        is_final: bool,
        data: Received<'_>,
    ) -> Option<Sense> {
        let len = u32::try_from(data.len()).expect("bounded by the framing");
        let params = self.params;
        let task = self.tasks.get_mut(slot);
        task.out.unsolicited_open = task.writes && !is_final;
        if len == 0 && !task.out.unsolicited_open {
            self.release_promise(home, slot);
            self.forget_data(data);
            return None;
        }
        let limit = params.first_burst_length.min(task.expected_len);
        let allowed = task.writes
            && (len == 0 || params.immediate_data)
            && (is_final || !params.initial_r2t)
            && len <= limit;
        if !allowed {
            self.forget_data(data);
            return Some(Sense::UNEXPECTED_UNSOLICITED_DATA);
        }
        let expected = task.expected_len;
        let wanted = self.portion_for(home, slot, expected);
        match data {
            Received::Own { buffer, .. } if buffer.len() >= limit as usize || is_final => {
                self.put_data(slot, buffer);
            }
            Received::Gone { .. } => return Some(INSUFFICIENT_RESOURCES),
            Received::Bytes(_) | Received::Own { .. } => {
                let landed = self.land(home, slot, (wanted, limit as usize), 0);
                let bytes = data.bytes().unwrap_or_default();
                if let Some(buffer) = self.tasks.get_mut(slot).data.as_mut()
                    && landed
                {
                    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                }
                self.forget_data(data);
                if !landed {
                    return Some(INSUFFICIENT_RESOURCES);
                }
            }
        }
        let task = self.tasks.get_mut(slot);
        task.out.unsolicited = len;
        home.counters.add(Event::BytesWritten, u64::from(len));
        None
    }

    /// Starts the task, unless older tasks must end first (SAM-5, section 8.6).
    fn start_or_wait(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get(slot);
        let attribute = task.attribute;
        let lun = self.luns.at(task.unit);
        let must_wait = match attribute {
            Attribute::HeadOfQueue => false,
            Attribute::Simple => lun.dormant > 0 || lun.ordered,
            Attribute::Ordered => lun.dormant > 0 || lun.active > 0,
        };
        if must_wait {
            lun.dormant += 1;
            self.dormant.push_back(slot);
            self.tasks.get_mut(slot).state = State::Dormant;
            return;
        }
        self.enter(slot);
        self.drive(home, slot, Outcome::Begin);
    }

    fn enter(&mut self, slot: u16) {
        let task = self.tasks.get_mut(slot);
        task.active = true;
        task.state = State::Running;
        let ordered = task.attribute == Attribute::Ordered;
        let lun = self.luns.at(task.unit);
        lun.active += 1;
        lun.ordered |= ordered;
    }

    /// The task no longer runs: tasks that waited for it may start, in the next turn of the line.
    pub(super) fn leave(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get_mut(slot);
        if !std::mem::take(&mut task.active) {
            return;
        }
        let (unit, ordered) = (task.unit, task.attribute == Attribute::Ordered);
        let lun = self.luns.at(unit);
        lun.active -= 1;
        lun.ordered &= !ordered;
        if lun.dormant > 0 {
            self.wake_dormant(home, unit);
        }
    }

    /// Starts what may start now of the dormant tasks of a LUN.
    pub(super) fn wake_dormant(&mut self, home: &mut Home, unit: Option<u16>) {
        let mut at = 0;
        while at < self.dormant.len() {
            let slot = self.dormant[at];
            let task = self.tasks.get(slot);
            if task.unit != unit {
                at += 1;
                continue;
            }
            let attribute = task.attribute;
            let lun = self.luns.at(unit);
            if lun.ordered || (attribute == Attribute::Ordered && lun.active > 0) {
                return;
            }
            lun.dormant -= 1;
            self.dormant.remove(at);
            self.enter(slot);
            self.wait_for_turn(home, slot, Need::Turn(Outcome::Begin));
        }
    }
}
