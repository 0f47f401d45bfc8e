//! Commands, and the table of those that are outstanding.

/// A SCSI command to issue.
#[derive(Clone, Debug)]
pub struct Command {
    /// Comes back with the answer.
    pub cookie: u64,
    /// Logical unit number as it is on the wire (SAM-5, section 4.7): LUN 1 is `1 << 48`.
    pub lun: u64,
    /// Command descriptor block, padded with zeros.
    pub cdb: [u8; 16],
    /// Data, and in which direction. Its length is the expected data transfer length.
    pub payload: Payload,
    /// Task attribute (RFC 7143, section 11.3.1): 1 is SIMPLE.
    pub attribute: u8,
    /// Sends it as an immediate command, outside the window.
    pub immediate: bool,
}

impl Command {
    /// A SIMPLE command.
    #[must_use]
    pub const fn new(cookie: u64, lun: u64, cdb: [u8; 16], payload: Payload) -> Self {
        Self {
            cookie,
            lun,
            cdb,
            payload,
            attribute: 1,
            immediate: false,
        }
    }
}

/// The single-level LUN `number` as it is on the wire: peripheral addressing below 256, flat space
/// addressing from there (SAM-5, sections 4.7.7.1 and 4.7.7.5).
#[must_use]
pub const fn wire_lun(number: u16) -> u64 {
    let first_level = if number < 256 {
        number
    } else {
        0x4000 | (number & 0x3fff)
    };
    (first_level as u64) << 48
}

/// A command's buffer. It goes in with the command and comes back with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// No data.
    None,
    /// Data read goes here, from the start; the length is what is expected.
    Read(Vec<u8>),
    /// Data read is counted and thrown away.
    Discard(u32),
    /// Data to write.
    Write(Vec<u8>),
}

impl Payload {
    /// Expected data transfer length in bytes. A buffer cannot be longer than 2^32 - 1.
    #[must_use]
    pub fn expected_len(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Discard(len) => *len,
            Self::Read(buffer) | Self::Write(buffer) => {
                u32::try_from(buffer.len()).unwrap_or(u32::MAX)
            }
        }
    }
}

/// What an outstanding tag stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Nop,
    TaskManagement,
    Text,
    Logout,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) kind: Kind,
    pub(super) cookie: u64,
    pub(super) payload: Payload,
    /// CmdSN it was sent with.
    pub(super) cmd_sn: u32,
    /// The next DataSN of Data-In, or the next R2TSN.
    pub(super) next_sn: u32,
    /// Bytes of Data-In so far.
    pub(super) received: u32,
}

#[derive(Debug)]
struct Slot {
    /// In bits 16 to 30 of the tag, so that a late answer to an old task is noticed.
    generation: u32,
    task: Option<Task>,
}

/// Outstanding requests by initiator task tag. Tags never have their highest bit set: tests that make
/// their own PDUs may use those.
#[derive(Debug)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Tasks {
    pub(super) fn new(max: u16) -> Self {
        Self {
            slots: (0..max)
                .map(|_| Slot {
                    generation: 0,
                    task: None,
                })
                .collect(),
            free: (0..max).rev().collect(),
        }
    }

    pub(super) const fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) const fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives `task` a tag; `None` when all are taken.
    pub(super) fn insert(&mut self, task: Task) -> Result<u32, Task> {
        let Some(index) = self.free.pop() else {
            return Err(task);
        };
        let slot = &mut self.slots[usize::from(index)];
        slot.task = Some(task);
        Ok(slot.generation << 16 | u32::from(index))
    }

    fn slot(&mut self, tag: u32) -> Option<&mut Slot> {
        self.slots
            .get_mut((tag & 0xffff) as usize)
            .filter(|slot| slot.generation == tag >> 16)
    }

    pub(super) fn get(&mut self, tag: u32) -> Option<&mut Task> {
        self.slot(tag)?.task.as_mut()
    }

    pub(super) fn remove(&mut self, tag: u32) -> Option<Task> {
        let slot = self.slot(tag)?;
        let task = slot.task.take()?;
        slot.generation = (slot.generation + 1) & 0x7fff;
        #[allow(clippy::cast_possible_truncation, reason = "the low half on purpose")]
        self.free.push(tag as u16);
        Some(task)
    }

    /// Takes the task out only if it is of this kind.
    pub(super) fn remove_kind(&mut self, tag: u32, kind: Kind) -> Option<Task> {
        if self.get(tag)?.kind != kind {
            return None;
        }
        self.remove(tag)
    }
}
