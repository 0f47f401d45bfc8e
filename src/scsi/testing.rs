//! A caller for tests: runs commands on a medium that is a plain `Vec`, in portions of a chosen size.

use super::{
    Bounds, Cdb, Command, Context, Identity, LogicalUnit, Luns, Memory, NexusUnit, Outcome,
    OwnerRequest, Port, Sense, Status, Step, Which, start,
};
use crate::backend::{BlockError, BlockIo, Geometry};
use crate::units::{BlockSize, Blocks, Extent, Lba};

/// A CDB of these bytes and zeros.
pub(super) fn cdb(bytes: &[u8]) -> Cdb {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

#[derive(Debug)]
pub(super) struct LunList(pub(super) Vec<u16>);

impl Luns for LunList {
    fn lun(&self, index: usize) -> Option<u16> {
        self.0.get(index).copied()
    }
}

/// A logical unit, its medium, and one nexus without news.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) unit: Option<LogicalUnit>,
    pub(super) medium: Vec<u8>,
    pub(super) nexus: NexusUnit,
    pub(super) luns: LunList,
    /// Bytes of a data buffer and of a scratch buffer.
    pub(super) portion: u32,
    pub(super) scratch: u32,
    pub(super) fail_at: Option<(Lba, BlockError)>,
    pub(super) fail_flush: Option<BlockError>,
    pub(super) drop_writes: bool,
}

/// What came of a command.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: Status,
    pub(super) data_in: Vec<u8>,
    pub(super) taken_out: usize,
    pub(super) asked_in: u64,
    pub(super) asked_out: u64,
    pub(super) ios: Vec<BlockIo>,
}

impl Done {
    pub(super) fn sense(&self) -> Sense {
        match self.status {
            Status::CheckCondition(sense) => sense,
            other => panic!("{other:?}"),
        }
    }
}

impl Rig {
    /// 1024 blocks of 512 bytes, each byte telling where it is.
    pub(super) fn new() -> Self {
        let mut nexus = NexusUnit::new();
        nexus.take();
        Self {
            unit: Some(LogicalUnit {
                geometry: Geometry {
                    block_size: BlockSize::B512,
                    capacity: Blocks(1024),
                    physical_block_exponent: 0,
                    read_only: false,
                    write_cache: true,
                    forgets: false,
                },
                identity: Identity {
                    vendor: "RINGTGT".into(),
                    product: "test disk".into(),
                    revision: "0001".into(),
                    serial: "SN-1".into(),
                },
                online: true,
                stopped: false,
                generation: 0,
            }),
            medium: (0..1024 * 512u32)
                .map(|i| (i ^ (i >> 9)).to_le_bytes()[0])
                .collect(),
            nexus,
            luns: LunList(vec![0]),
            portion: 1 << 20,
            scratch: 1 << 20,
            fail_at: None,
            fail_flush: None,
            drop_writes: false,
        }
    }

    pub(super) fn run(&mut self, cdb: &Cdb) -> Done {
        let bounds = Bounds {
            data_in: u32::MAX,
            data_out: 0,
        };
        self.run_with(cdb, bounds, &[])
    }

    pub(super) fn write(&mut self, cdb: &Cdb, data: &[u8]) -> Done {
        let bounds = Bounds {
            data_in: u32::MAX,
            data_out: u32::try_from(data.len()).unwrap(),
        };
        self.run_with(cdb, bounds, data)
    }

    /// Runs a command to its end. `data_out` is at least as long as the bound says.
    pub(super) fn run_with(&mut self, cdb: &Cdb, bounds: Bounds, data_out: &[u8]) -> Done {
        assert!(data_out.len() >= bounds.data_out as usize);
        let (mut data, mut scratch) = (Vec::new(), Vec::new());
        let mut done = Done {
            status: Status::Busy,
            data_in: Vec::new(),
            taken_out: 0,
            asked_in: 0,
            asked_out: 0,
            ios: Vec::new(),
        };
        let mut command: Option<Command> = None;
        let mut outcome = Outcome::Begin;
        for _ in 0..200_000 {
            let unit = self.unit.clone();
            let mut cx = Context {
                unit: unit.as_ref(),
                nexus: &mut self.nexus,
                luns: &self.luns,
                port: Port {
                    target_name: "iqn.2026-01.test:disk",
                    portal_group_tag: 7,
                },
            };
            let command = command.get_or_insert_with(|| start(cdb, bounds, &mut cx));
            let memory = Memory {
                data: &mut data,
                scratch: &mut scratch,
            };
            let step = command.resume(outcome, memory, &mut cx);
            outcome = match step {
                Step::NeedBuffer { wanted, least } => {
                    let len = wanted.min(self.portion.max(least));
                    data = vec![0xdd; len as usize];
                    Outcome::Buffer { len }
                }
                Step::NeedScratch { wanted, least } => {
                    let len = wanted.min(self.scratch.max(least));
                    scratch = vec![0xdd; len as usize];
                    Outcome::Scratch { len }
                }
                Step::NeedDataOut {
                    remaining,
                    granularity,
                } => {
                    let portion = self.portion.max(granularity);
                    let len = remaining.min(portion - portion % granularity);
                    data = data_out[done.taken_out..][..len as usize].to_vec();
                    done.taken_out += len as usize;
                    assert!(done.taken_out as u64 <= bounds.data_out.into());
                    Outcome::DataOut { len }
                }
                Step::Io { io, buffer } => {
                    done.ios.push(io);
                    let buffer = match buffer {
                        Some(Which::Data) => &mut data[..],
                        Some(Which::Scratch) => &mut scratch[..],
                        None => &mut [],
                    };
                    Outcome::Io(self.io(io, buffer))
                }
                Step::Send { len, status } => {
                    done.data_in.extend_from_slice(&data[..len as usize]);
                    done.status = status.unwrap_or(Status::Busy);
                    Outcome::Sent
                }
                Step::AskOwner(OwnerRequest::SetStopped(stopped)) => {
                    self.unit.as_mut().unwrap().stopped = stopped;
                    Outcome::OwnerDone
                }
                Step::Done(status) => {
                    done.status = status;
                    Outcome::Begin
                }
            };
            if matches!(
                step,
                Step::Done(_)
                    | Step::Send {
                        status: Some(_),
                        ..
                    }
            ) {
                (done.asked_in, done.asked_out) = (command.data_in(), command.data_out());
                assert_eq!(command.opcode(), cdb[0]);
                return done;
            }
        }
        panic!("{cdb:02x?} does not end");
    }

    fn io(&mut self, io: BlockIo, buffer: &mut [u8]) -> Result<(), BlockError> {
        let range = |extent: Extent| {
            let size = self.unit.as_ref().unwrap().geometry.block_size;
            let from = usize::try_from(extent.byte_start(size)).unwrap();
            from..from + usize::try_from(extent.byte_len(size)).unwrap()
        };
        let fails = |extent: Extent| {
            let (at, error) = self.fail_at?;
            (extent.start() <= at && at < extent.end()).then_some(error)
        };
        match io {
            BlockIo::Read(extent) => {
                let from = &self.medium[range(extent)];
                fails(extent).map_or(Ok(()), Err)?;
                buffer[..from.len()].copy_from_slice(from);
            }
            BlockIo::Write { extent, .. } => {
                fails(extent).map_or(Ok(()), Err)?;
                let to = range(extent);
                if !self.drop_writes {
                    let len = to.len();
                    self.medium[to].copy_from_slice(&buffer[..len]);
                }
            }
            BlockIo::Flush => return self.fail_flush.map_or(Ok(()), Err),
            BlockIo::Prefetch(extent) => {
                let _ = &self.medium[range(extent)];
            }
        }
        Ok(())
    }
}
