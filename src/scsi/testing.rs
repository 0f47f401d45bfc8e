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

/// A command on its way.
struct Run<'a> {
    data: Vec<u8>,
    scratch: Vec<u8>,
    to_come: &'a [u8],
    done: Done,
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
        let pattern: Vec<u8> = (0..=250).cycle().take(763).collect();
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
            medium: (0..1024)
                .map(|block| &pattern[block % 251..][..512])
                .collect::<Vec<_>>()
                .concat(),
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
        let mut run = Run {
            data: Vec::new(),
            scratch: Vec::new(),
            to_come: &data_out[..bounds.data_out as usize],
            done: Done {
                status: Status::Busy,
                data_in: Vec::new(),
                taken_out: 0,
                asked_in: 0,
                asked_out: 0,
                ios: Vec::new(),
            },
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
                data: &mut run.data,
                scratch: &mut run.scratch,
            };
            let step = command.resume(outcome, memory, &mut cx);
            let Some(next) = self.act(step, &mut run) else {
                run.done.asked_in = command.data_in();
                run.done.asked_out = command.data_out();
                assert_eq!(command.opcode(), cdb[0]);
                return run.done;
            };
            outcome = next;
        }
        panic!("{cdb:02x?} does not end");
    }

    /// Does what the step says; `None` when it ends the command.
    fn act(&mut self, step: Step, run: &mut Run<'_>) -> Option<Outcome> {
        Some(match step {
            Step::NeedBuffer { wanted, least } => {
                let len = wanted.min(self.portion.max(least));
                run.data = vec![0xdd; len as usize];
                Outcome::Buffer { len }
            }
            Step::NeedScratch { wanted, least } => {
                let len = wanted.min(self.scratch.max(least));
                run.scratch = vec![0xdd; len as usize];
                Outcome::Scratch { len }
            }
            Step::NeedDataOut {
                remaining,
                granularity,
            } => {
                let portion = self.portion.max(granularity);
                let len = remaining.min(portion - portion % granularity);
                let (now, later) = run.to_come.split_at(len as usize);
                (run.data, run.to_come) = (now.to_vec(), later);
                run.done.taken_out += now.len();
                Outcome::DataOut { len }
            }
            Step::Io { io, buffer } => {
                run.done.ios.push(io);
                let buffer = match buffer {
                    Some(Which::Data) => &mut run.data[..],
                    Some(Which::Scratch) => &mut run.scratch[..],
                    None => &mut [],
                };
                Outcome::Io(self.io(io, buffer))
            }
            Step::Send { len, status } => {
                run.done
                    .data_in
                    .extend_from_slice(&run.data[..len as usize]);
                if let Some(status) = status {
                    run.done.status = status;
                    return None;
                }
                Outcome::Sent
            }
            Step::AskOwner(OwnerRequest::SetStopped(stopped)) => {
                self.unit.as_mut().expect("asked by one").stopped = stopped;
                Outcome::OwnerDone
            }
            Step::Done(status) => {
                run.done.status = status;
                return None;
            }
        })
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
