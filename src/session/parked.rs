//! Commands that came before their turn (RFC 7143, section 4.2.2.1).

use super::Session;
use super::command::Received;
use super::error::Event;
use super::home::Home;
use super::memory::Source;
use super::transmit::{INLINE, Inline};
use crate::buffer::CHUNK;
use crate::pdu::bhs::{BHS_LEN, ScsiCommandBhs};
use crate::pdu::code::Opcode;
use crate::pdu::frame::{Ahs, AhsSegments, header};
use crate::units::SerialNumber;

/// A command that came before its turn, or a number that is to be passed over.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) cmd_sn: SerialNumber,
    /// `None`: nothing is to be done when its turn comes.
    pub(super) command: Option<ParkedCommand>,
}

#[derive(Debug)]
pub(super) struct ParkedCommand {
    pub(super) header: Inline,
    pub(super) data: Received<'static>,
}

impl ParkedCommand {
    /// Its header, if it is a SCSI command.
    fn scsi_command(&self) -> Option<&ScsiCommandBhs> {
        let bhs: &ScsiCommandBhs = header(self.header.as_slice().first_chunk()?);
        (bhs.opcode & 0x3f == Opcode::SCSI_COMMAND.0).then_some(bhs)
    }
}

/// What of a header matters later: all of it, as far as a Reject has room to show it; beyond that, the one
/// additional header segment that means something here.
fn essence(whole_header: &[u8]) -> Inline {
    let (bhs, ahs) = whole_header.split_at(BHS_LEN.min(whole_header.len()));
    let length = AhsSegments::new(ahs).find_map(|segment| match segment {
        Ok(Ahs::BidirectionalReadLength(len)) => Some(len),
        _ => None,
    });
    match length {
        Some(len) if whole_header.len() > INLINE => {
            let mut short = [0; BHS_LEN + 8];
            short[..BHS_LEN].copy_from_slice(bhs);
            short[BHS_LEN..].copy_from_slice(&bidirectional_read_length(len));
            Inline::of(&short)
        }
        _ => Inline::of(whole_header),
    }
}

/// That segment (section 11.2.2.4).
const fn bidirectional_read_length(len: u32) -> [u8; 8] {
    let [a, b, c, d] = len.to_be_bytes();
    [0, 5, 2, 0, a, b, c, d]
}

/// Commands that were aborted before they came: those before this CmdSN, of one LUN (an index) or of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forsaken {
    unit: Option<u16>,
    before: SerialNumber,
}

impl Session {
    /// Keeps a command until its turn comes.
    pub(super) fn park(
        &mut self,
        home: &mut Home,
        cmd_sn: SerialNumber,
        whole_header: &[u8],
        data: Received<'_>,
    ) {
        if self.parked.iter().any(|p| p.cmd_sn == cmd_sn)
            || self.parked.len() == self.parked.capacity()
        {
            home.count(Event::OutsideWindow);
            return self.forget_received(home, data);
        }
        // Whatever is inside of the window has to be kept: nobody sends it again. Where there is no memory for
        // its data (which was never promised any, then), it fails when its turn comes.
        let data = match data {
            Received::Own { buffer, len, from } => Received::Own { buffer, len, from },
            Received::Bytes([]) => Received::Bytes(&[]),
            Received::Bytes(bytes) => self.keep_bytes(home, bytes),
            Received::Gone { len } => Received::Gone { len },
        };
        self.parked.push(Parked {
            cmd_sn,
            command: Some(ParkedCommand {
                header: essence(whole_header),
                data,
            }),
        });
    }

    fn keep_bytes(&mut self, home: &mut Home, bytes: &[u8]) -> Received<'static> {
        let len = bytes.len();
        let mut from = Source::Share;
        let mut buffer = self.take_memory(home, len, len, 0);
        if buffer.is_none() && len <= CHUNK {
            buffer = self.take_promised(home);
            from = Source::Window;
        }
        let Some(mut buffer) = buffer else {
            return Received::Gone { len };
        };
        buffer.as_mut_slice()[..len].copy_from_slice(bytes);
        Received::Own { buffer, len, from }
    }

    /// Runs what waited for the CmdSN that has just been taken in.
    pub(super) fn run_parked(&mut self, home: &mut Home) {
        loop {
            let next = self.window.exp_cmd_sn();
            let Some(at) = self.parked.iter().position(|p| p.cmd_sn == next) else {
                return;
            };
            let parked = self.parked.swap_remove(at);
            self.window.admit();
            match parked.command {
                Some(command) => {
                    let header = command.header.as_slice();
                    self.execute(home, header, command.data, false);
                }
                None => self.disown(home, false),
            }
        }
    }

    /// Considers a CmdSN as received (section 11.6.1, rule b). False: it has been, by something else than
    /// the SCSI command `tag`, which is not to suffer for it.
    pub(super) fn plug(&mut self, home: &mut Home, cmd_sn: SerialNumber, tag: u32) -> bool {
        if let Some(at) = self.parked.iter().position(|p| p.cmd_sn == cmd_sn) {
            let command = self.parked[at].command.as_ref();
            let named = |c: &ParkedCommand| {
                (c.scsi_command()).is_some_and(|bhs| bhs.initiator_task_tag.get() == tag)
            };
            if command.is_some_and(|c| !named(c)) {
                return false;
            }
            let parked = self.parked.swap_remove(at);
            self.forget_parked(home, parked);
        }
        if self.parked.len() < self.parked.capacity() {
            self.parked.push(Parked {
                cmd_sn,
                command: None,
            });
        }
        self.run_parked(home);
        true
    }

    /// Aborts what comes before `cmd_sn` but is not running yet: parked commands, and those that are still
    /// missing. They are answered no more, so nothing is to be waited for (sections 4.2.3.3 and 11.5.1). Of
    /// one LUN; `None`: of all. False: there were too many such functions.
    pub(super) fn forsake(
        &mut self,
        home: &mut Home,
        unit: Option<u16>,
        cmd_sn: SerialNumber,
    ) -> bool {
        let first = self.window.exp_cmd_sn();
        let ahead = cmd_sn.distance_from(first);
        if ahead == 0 || ahead > self.window.open() {
            return true;
        }
        for at in 0..self.parked.len() {
            let parked = &self.parked[at];
            let command = parked.command.as_ref();
            let affected = command
                .and_then(ParkedCommand::scsi_command)
                .is_some_and(|bhs| unit.is_none() || self.luns.find(bhs.lun.get()) == unit);
            if affected && parked.cmd_sn.is_before(cmd_sn) {
                let (cmd_sn, command) = (parked.cmd_sn, self.parked[at].command.take());
                self.forget_parked(home, Parked { cmd_sn, command });
            }
        }
        self.forsaken.retain(|f| first.is_before(f.before));
        if let Some(same) = self.forsaken.iter_mut().find(|f| f.unit == unit) {
            if same.before.is_before(cmd_sn) {
                same.before = cmd_sn;
            }
        } else if self.forsaken.len() < self.forsaken.capacity() {
            let before = cmd_sn;
            self.forsaken.push(Forsaken { unit, before });
        } else {
            return false;
        }
        true
    }

    /// Whether a function has aborted this command before it came.
    pub(super) fn is_forsaken(&mut self, bhs: &ScsiCommandBhs) -> bool {
        if self.forsaken.is_empty() {
            return false;
        }
        let cmd_sn = SerialNumber(bhs.cmd_sn.get());
        // Commands come in order: what is over now must not have a say half a circle of CmdSNs later.
        self.forsaken.retain(|f| cmd_sn.is_before(f.before));
        let unit = self.luns.find(bhs.lun.get());
        (self.forsaken.iter()).any(|f| f.unit.is_none() || f.unit == unit)
    }

    /// A parked command will not be carried out.
    pub(super) fn forget_parked(&mut self, home: &mut Home, parked: Parked) {
        if let Some(command) = parked.command {
            self.forget_received(home, command.data);
        }
    }
}
