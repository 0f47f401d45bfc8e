//! Whole sessions with hand-made PDUs, and a medium that finishes when it is told to.

mod commands;
mod cores;
mod functions;
mod memory;
mod orders;
mod trouble;
mod whole;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use zerocopy::IntoBytes;

use super::target::{Target, TargetSet};
use super::*;
use crate::backend::{Backend, BlockError, BlockIo, Completion, Geometry, IoTag, Submit};
use crate::buffer::{Pool, PoolConfig};
use crate::pdu::bhs::*;
use crate::pdu::code::*;
use crate::pdu::digest::{data_digest, header_digest};
use crate::pdu::padding;
use crate::scsi::Identity;
use crate::units::{BlockSize, Blocks, SerialNumber};

const BLOCKS: u64 = 8192;

/// Blocks of 512 bytes; operations wait in `queue` while `holds`.
#[derive(Debug, Default)]
struct Medium {
    bytes: Vec<u8>,
    holds: bool,
    queue: VecDeque<(u16, IoTag, BlockIo, Option<Buffer>)>,
    fail_reads: bool,
}

impl Medium {
    fn run(&mut self, tag: IoTag, io: BlockIo, mut buffer: Option<Buffer>) -> Completion {
        let mut result = Ok(());
        match (io, buffer.as_mut()) {
            (BlockIo::Read(extent), Some(_)) if self.fail_reads => {
                result = Err(BlockError::Medium { at: extent.start() });
            }
            (BlockIo::Read(extent), Some(buffer)) => {
                let at = usize::try_from(extent.start().0 * 512).unwrap();
                let len = usize::try_from(extent.len().0 * 512).unwrap();
                buffer.as_mut_slice()[..len].copy_from_slice(&self.bytes[at..at + len]);
            }
            (BlockIo::Write { extent, .. }, Some(buffer)) => {
                let at = usize::try_from(extent.start().0 * 512).unwrap();
                let len = usize::try_from(extent.len().0 * 512).unwrap();
                self.bytes[at..at + len].copy_from_slice(&buffer.as_slice()[..len]);
            }
            _ => {}
        }
        Completion {
            tag,
            result,
            buffer,
        }
    }
}

#[derive(Debug)]
struct Held(Rc<RefCell<Medium>>, u16, usize);

impl Backend for Held {
    fn submit(&mut self, tag: IoTag, io: BlockIo, buffer: Option<Buffer>) -> Submit {
        let mut medium = self.0.borrow_mut();
        if medium.holds {
            medium.queue.push_back((self.1, tag, io, buffer));
            self.2 += 1;
            return Submit::Pending;
        }
        Submit::Done(medium.run(tag, io, buffer))
    }
    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        let mut medium = self.0.borrow_mut();
        if medium.holds {
            return 0;
        }
        let queue = std::mem::take(&mut medium.queue);
        let (mine, others): (VecDeque<_>, _) = queue.into_iter().partition(|q| q.0 == self.1);
        medium.queue = others;
        let count = mine.len();
        self.2 = 0;
        for (_, tag, io, buffer) in mine {
            done(medium.run(tag, io, buffer));
        }
        count
    }
    fn in_flight(&self) -> usize {
        self.2
    }
    fn cancel(&mut self, _: IoTag) {}
}

fn unit() -> Arc<LogicalUnit> {
    Arc::new(LogicalUnit {
        geometry: Geometry {
            block_size: BlockSize::B512,
            capacity: Blocks(BLOCKS),
            physical_block_exponent: 3,
            read_only: false,
            write_cache: true,
            forgets: false,
        },
        identity: Identity {
            vendor: "RINGTGT".into(),
            product: "DISK".into(),
            revision: "1".into(),
            serial: "0001".into(),
        },
        online: true,
        stopped: false,
        generation: 1,
    })
}

fn pool(mib: usize) -> Pool {
    let config = PoolConfig {
        bytes: mib << 20,
        numa_node: None,
        hugepages: false,
    };
    Pool::new(config).expect("memory").0
}

fn shard(reactor: u16, reactors: u16, medium: &Rc<RefCell<Medium>>, mib: usize) -> Shard {
    let mut shard = Shard::new(ShardConfig {
        reactor: ReactorId(reactor),
        reactors,
        pool: pool(mib),
        limits: SessionLimits::default(),
    });
    shard.attach_unit(
        UnitId(0),
        unit(),
        Box::new(Held(medium.clone(), reactor, 0)),
    );
    shard
}

fn established(params: OperationalParams) -> Established {
    let target = Arc::new(Target {
        name: "iqn.2026-01.test:disk".into(),
        alias: None,
        portal_groups: Vec::new(),
        luns: vec![(0, UnitId(0))],
    });
    Established {
        initiator_name: "iqn.2026-01.test:host".into(),
        isid: [0; 6],
        tsih: 1,
        cid: 0,
        discovery: false,
        target: Some(target.clone()),
        targets: Arc::new(TargetSet {
            targets: vec![target],
        }),
        portal: "127.0.0.1:3260".parse().unwrap(),
        portal_group_tag: 1,
        params,
        cmd_sn: SerialNumber(1),
        stat_sn: SerialNumber(100),
        response: Vec::new(),
        received: Vec::new(),
    }
}

fn medium() -> Rc<RefCell<Medium>> {
    let mut bytes = vec![0; BLOCKS as usize * 512];
    for (block, bytes) in bytes.chunks_mut(512).enumerate() {
        bytes.fill((block % 251) as u8);
    }
    Rc::new(RefCell::new(Medium {
        bytes,
        ..Medium::default()
    }))
}

#[derive(Debug, Clone)]
struct Pdu {
    bhs: [u8; 48],
    data: Vec<u8>,
}

impl Pdu {
    fn opcode(&self) -> Opcode {
        Opcode(self.bhs[0])
    }
    fn as_<
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
    >(
        &self,
    ) -> &T {
        crate::pdu::frame::header(&self.bhs)
    }
}

/// One initiator, by hand.
struct Host {
    key: SessionKey,
    params: OperationalParams,
    cmd_sn: u32,
    cut: usize,
}

impl Host {
    fn open(shard: &mut Shard, params: OperationalParams) -> Self {
        Self::open_with(shard, established(params))
    }

    fn open_with(shard: &mut Shard, established: Established) -> Self {
        let params = established.params;
        let key = shard
            .open_session(established, Instant::now())
            .expect("room");
        let mut host = Self {
            key,
            params,
            cmd_sn: 1,
            cut: usize::MAX,
        };
        // TEST UNIT READY until unit attentions are gone.
        for tag in 0..4 {
            host.command(shard, 0xf000 + tag, FINAL, 0, [0; 16], &[]);
            host.receive(shard);
        }
        host
    }

    fn send(&self, shard: &mut Shard, bhs: &[u8], data: &[u8]) {
        let mut bytes = bhs.to_vec();
        bytes[5..8].copy_from_slice(&length_to_24(u32::try_from(data.len()).unwrap()));
        if self.params.header_digest {
            let digest = header_digest(&bytes);
            bytes.extend_from_slice(&digest);
        }
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        if self.params.data_digest && !data.is_empty() {
            bytes.extend_from_slice(&data_digest(data));
        }
        self.send_raw(shard, &bytes).expect("accepted");
    }

    fn send_raw(&self, shard: &mut Shard, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        let mut stuck = 0;
        while !bytes.is_empty() {
            let mut taken = 0;
            for mut piece in shard.receive_into(self.key) {
                let n = piece
                    .len()
                    .min(bytes.len() - taken)
                    .min(self.cut - taken.min(self.cut));
                piece[..n].copy_from_slice(&bytes[taken..taken + n]);
                taken += n;
            }
            if taken == 0 {
                stuck += 1;
                assert!(stuck < 10, "no room for more");
                shard.poll_backends(Instant::now());
                continue;
            }
            stuck = 0;
            bytes = &bytes[taken..];
            shard.handle_received(Instant::now(), self.key, taken)?;
        }
        Ok(())
    }

    fn command(
        &mut self,
        shard: &mut Shard,
        tag: u32,
        flags: u8,
        edtl: u32,
        cdb: [u8; 16],
        data: &[u8],
    ) {
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: edtl.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            cdb,
        };
        self.cmd_sn += 1;
        self.send(shard, bhs.as_bytes(), data);
    }

    fn read(&mut self, shard: &mut Shard, tag: u32, lba: u32, blocks: u16) {
        let edtl = u32::from(blocks) * 512;
        self.command(
            shard,
            tag,
            FINAL | READ,
            edtl,
            cdb_10(0x28, lba, blocks),
            &[],
        );
    }

    fn write(&mut self, shard: &mut Shard, tag: u32, lba: u32, blocks: u16, immediate: &[u8]) {
        let edtl = u32::from(blocks) * 512;
        let cdb = cdb_10(0x2a, lba, blocks);
        self.command(shard, tag, FINAL | WRITE, edtl, cdb, immediate);
    }

    fn data_out(
        &self,
        shard: &mut Shard,
        tag: u32,
        ttt: u32,
        (sn, offset): (u32, u32),
        last: bool,
        data: &[u8],
    ) {
        let bhs = DataOutBhs {
            opcode: Opcode::DATA_OUT.0,
            flags: if last { FINAL } else { 0 },
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: ttt.into(),
            reserved_24: [0; 4],
            exp_stat_sn: 0.into(),
            reserved_32: [0; 4],
            data_sn: sn.into(),
            buffer_offset: offset.into(),
            reserved_44: [0; 4],
        };
        self.send(shard, bhs.as_bytes(), data);
    }

    fn function(
        &mut self,
        shard: &mut Shard,
        tag: u32,
        function: TaskManagementFunction,
        referenced: (u32, u32),
    ) {
        let bhs = TaskManagementRequestBhs {
            opcode: Opcode::TASK_MANAGEMENT_REQUEST.0 | IMMEDIATE,
            function: 0x80 | function.0,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            referenced_task_tag: referenced.0.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            ref_cmd_sn: referenced.1.into(),
            exp_data_sn: 0.into(),
            reserved_40: [0; 8],
        };
        self.send(shard, bhs.as_bytes(), &[]);
    }

    /// Everything the target has to say now.
    fn receive(&self, shard: &mut Shard) -> Vec<Pdu> {
        let mut bytes = Vec::new();
        loop {
            let mut pieces = [IoSlice::new(&[]); 64];
            let count = shard.gather(self.key, &mut pieces);
            let mut len = 0;
            for piece in &pieces[..count] {
                bytes.extend_from_slice(piece);
                len += piece.len();
            }
            if len == 0 {
                shard.poll_backends(Instant::now());
                if shard.gather(self.key, &mut [IoSlice::new(&[]); 1]) == 0 {
                    break;
                }
            }
            shard.transmitted(self.key, len);
        }
        self.cut_up(&bytes)
    }

    fn cut_up(&self, mut bytes: &[u8]) -> Vec<Pdu> {
        let mut pdus = Vec::new();
        while !bytes.is_empty() {
            let bhs: [u8; 48] = bytes[..48].try_into().unwrap();
            let mut at = 48;
            if self.params.header_digest {
                assert_eq!(header_digest(&bhs), bytes[48..52]);
                at += 4;
            }
            let len = length_from_24(bhs[5..8].try_into().unwrap()) as usize;
            let data = bytes[at..at + len].to_vec();
            at += len + padding(len);
            if self.params.data_digest && len > 0 {
                assert_eq!(data_digest(&data), bytes[at..at + 4]);
                at += 4;
            }
            bytes = &bytes[at..];
            pdus.push(Pdu { bhs, data });
        }
        pdus
    }
}

fn cdb_10(opcode: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn wide() -> OperationalParams {
    OperationalParams {
        max_recv_data_segment_length: 262_144,
        max_send_data_segment_length: 8192,
        max_outstanding_r2t: 4,
        ..OperationalParams::DEFAULT
    }
}

impl Shard {
    /// Commands that a session may still send.
    fn window_of(&self, key: SessionKey) -> u32 {
        let session = self.sessions[key.index as usize].session.as_ref();
        session.expect("open").window.open()
    }
}

fn response_status(pdu: &Pdu) -> u8 {
    assert_eq!(pdu.opcode(), Opcode::SCSI_RESPONSE, "{pdu:?}");
    pdu.as_::<ScsiResponseBhs>().status
}

/// ASC and ASCQ of the sense data of a SCSI Response.
fn asc(pdu: &Pdu) -> (u8, u8) {
    assert_eq!(response_status(pdu), 2);
    (pdu.data[2 + 12], pdu.data[2 + 13])
}

/// Answers R2Ts in pieces of `piece` bytes until the response comes.
fn feed(host: &Host, shard: &mut Shard, tag: u32, data: &[u8], piece: usize) -> (Pdu, usize) {
    let mut r2ts = 0;
    loop {
        let pdus = host.receive(shard);
        assert!(!pdus.is_empty(), "neither R2T nor response");
        for pdu in pdus {
            if pdu.opcode() != Opcode::R2T {
                return (pdu, r2ts);
            }
            let bhs: &R2tBhs = pdu.as_();
            assert_eq!(bhs.r2t_sn.get() as usize, r2ts);
            r2ts += 1;
            let start = bhs.buffer_offset.get() as usize;
            let wanted = &data[start..start + bhs.desired_data_transfer_length.get() as usize];
            let count = wanted.chunks(piece).count();
            for (n, chunk) in wanted.chunks(piece).enumerate() {
                let at = u32::try_from(start + n * piece).unwrap();
                let sn = u32::try_from(n).unwrap();
                let ttt = bhs.target_transfer_tag.get();
                host.data_out(shard, tag, ttt, (sn, at), n + 1 == count, chunk);
            }
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 253) as u8).collect()
}
