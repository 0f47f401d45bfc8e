//! Whole sessions with hand-made PDUs, and a medium that finishes when it is told to.

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
        let key = shard
            .open_session(established(params), Instant::now())
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

fn response_status(pdu: &Pdu) -> u8 {
    assert_eq!(pdu.opcode(), Opcode::SCSI_RESPONSE, "{pdu:?}");
    pdu.as_::<ScsiResponseBhs>().status
}

/// ASC and ASCQ of the sense data of a SCSI Response.
fn asc(pdu: &Pdu) -> (u8, u8) {
    assert_eq!(response_status(pdu), 2);
    (pdu.data[2 + 12], pdu.data[2 + 13])
}

#[test]
fn a_read_is_cut_into_data_in_with_status_in_the_last() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.read(&mut shard, 7, 16, 40);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 3, "{pdus:?}");
    let mut bytes = Vec::new();
    for (n, pdu) in pdus.iter().enumerate() {
        let bhs: &DataInBhs = pdu.as_();
        assert_eq!(pdu.opcode(), Opcode::DATA_IN);
        assert_eq!(bhs.data_sn.get() as usize, n);
        assert_eq!(bhs.buffer_offset.get() as usize, bytes.len());
        assert_eq!(bhs.flags, if n == 2 { FINAL | STATUS } else { 0 });
        bytes.extend_from_slice(&pdu.data);
    }
    assert_eq!(bytes, medium.borrow().bytes[16 * 512..56 * 512]);
}

#[test]
fn a_large_read_comes_in_portions_and_bursts() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.read(&mut shard, 7, 0, 6000);
    let pdus = host.receive(&mut shard);
    let bytes: Vec<u8> = pdus.iter().flat_map(|p| p.data.clone()).collect();
    assert_eq!(bytes, medium.borrow().bytes[..6000 * 512]);
    let last: &DataInBhs = pdus.last().unwrap().as_();
    assert_eq!(last.flags, FINAL | STATUS);
}

#[test]
fn immediate_data_is_written_in_one_exchange() {
    for cut in [1, 7, 50, usize::MAX] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let mut host = Host::open(&mut shard, wide());
        host.cut = cut;
        host.write(&mut shard, 9, 3, 8, &[0xab; 4096]);
        let pdus = host.receive(&mut shard);
        assert_eq!(response_status(&pdus[0]), 0);
        assert_eq!(medium.borrow().bytes[3 * 512..11 * 512], [0xab; 4096]);
        assert_ne!(medium.borrow().bytes[11 * 512], 0xab);
    }
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

#[test]
fn a_large_write_is_asked_for_by_r2t_however_it_is_cut() {
    for (piece, cut, digests) in [
        (4096, usize::MAX, false),
        (65_536, 10_000, false),
        (200_000, 70_000, true),
        (8192, 1, true),
    ] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let params = OperationalParams {
            header_digest: digests,
            data_digest: digests,
            ..wide()
        };
        let mut host = Host::open(&mut shard, params);
        host.cut = cut;
        let blocks = if cut == 1 { 100 } else { 5000 };
        let data = pattern(usize::from(blocks) * 512);
        host.write(&mut shard, 5, 100, blocks, &data[..8192]);
        let (response, r2ts) = feed(&host, &mut shard, 5, &data, piece);
        assert_eq!(response_status(&response), 0);
        assert!(r2ts >= 1);
        assert_eq!(medium.borrow().bytes[51_200..51_200 + data.len()], data);
        assert_eq!(medium.borrow().bytes[51_199], 99);
    }
}

#[test]
fn unsolicited_data_must_be_as_much_as_first_burst_allows() {
    let params = OperationalParams {
        initial_r2t: false,
        first_burst_length: 16_384,
        ..wide()
    };
    let data = pattern(65_536);
    for (sent, ok) in [(16_384, true), (12_288, false), (20_480, false)] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let mut host = Host::open(&mut shard, params);
        let cdb = cdb_10(0x2a, 0, 128);
        host.command(&mut shard, 5, WRITE, 65_536, cdb, &data[..4096]);
        host.data_out(&mut shard, 5, NO_TAG, (0, 4096), true, &data[4096..sent]);
        let (response, _) = feed(&host, &mut shard, 5, &data, 8192);
        if ok {
            assert_eq!(response_status(&response), 0);
            assert_eq!(medium.borrow().bytes[..65_536], data);
        } else {
            let ascq = if sent < 16_384 { 0x0d } else { 0x0c };
            assert_eq!(asc(&response), (0x0c, ascq));
            assert_eq!(medium.borrow().bytes[600], 1, "nothing was written");
        }
    }
}

#[test]
fn data_past_its_burst_ends_the_task_and_nothing_is_written() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 8, &[]);
    let r2t = host.receive(&mut shard).remove(0);
    let ttt = r2t.as_::<R2tBhs>().target_transfer_tag.get();
    host.data_out(&mut shard, 5, ttt, (0, 0), true, &[1; 8192]);
    let pdus = host.receive(&mut shard);
    assert_eq!(asc(&pdus[0]), (0x0c, 0x0d));
    assert_eq!(medium.borrow().bytes[512], 1);
    // Its tag is nobody's now.
    host.data_out(&mut shard, 5, ttt, (0, 0), true, &[1; 4096]);
    assert!(host.receive(&mut shard).is_empty());
    assert_eq!(shard.counters().of(Event::StaleData), 1);
}

#[test]
fn a_missing_data_sn_is_a_crc_error_after_the_last_data() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 8, &[]);
    let r2t = host.receive(&mut shard).remove(0);
    let ttt = r2t.as_::<R2tBhs>().target_transfer_tag.get();
    host.data_out(&mut shard, 5, ttt, (1, 2048), false, &[1; 1024]);
    assert!(
        host.receive(&mut shard).is_empty(),
        "section 7.8: wait for F"
    );
    host.data_out(&mut shard, 5, ttt, (2, 3072), true, &[1; 1024]);
    assert_eq!(asc(&host.receive(&mut shard)[0]), (0x47, 0x05));
}

#[test]
fn a_damaged_data_segment_is_rejected_and_ends_its_write() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let params = OperationalParams {
        data_digest: true,
        ..wide()
    };
    for len in [4096_usize, 65_536] {
        let mut host = Host::open(&mut shard, params);
        host.write(&mut shard, 5, 0, u16::try_from(len / 512).unwrap(), &[]);
        let r2t = host.receive(&mut shard).remove(0);
        let mut raw = [0_u8; 48];
        raw[0] = Opcode::DATA_OUT.0;
        raw[1] = FINAL;
        raw[5..8].copy_from_slice(&length_to_24(u32::try_from(len).unwrap()));
        raw[16..20].copy_from_slice(&5_u32.to_be_bytes());
        raw[20..24].copy_from_slice(&r2t.bhs[20..24]);
        let mut bytes = raw.to_vec();
        bytes.resize(48 + len, 0x55);
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        host.send_raw(&mut shard, &bytes).unwrap();
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus[0].opcode(), Opcode::REJECT);
        assert_eq!(pdus[0].bhs[2], RejectReason::DATA_DIGEST_ERROR.0);
        assert_eq!(pdus[0].data[..], raw);
        assert_eq!(asc(&pdus[1]), (0x47, 0x05));
        assert_ne!(medium.borrow().bytes[512], 0x55);
    }
}

#[test]
fn residuals_compare_the_cdb_with_what_is_expected() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    for (edtl, flag, count) in [(512, 0, 0), (1024, UNDERFLOW, 512), (200, OVERFLOW, 312)] {
        let cdb = cdb_10(0x28, 0, 1);
        host.command(&mut shard, 1, FINAL | READ, edtl, cdb, &[]);
        let pdus = host.receive(&mut shard);
        let bhs: &DataInBhs = pdus[0].as_();
        assert_eq!(bhs.flags, FINAL | STATUS | flag);
        assert_eq!(bhs.residual_count.get(), count);
        assert_eq!(pdus[0].data.len(), edtl.min(512) as usize);
    }
    let cdb = cdb_10(0x28, 0, 1);
    host.command(&mut shard, 1, FINAL, 0, cdb, &[]);
    let pdus = host.receive(&mut shard);
    let bhs: &ScsiResponseBhs = pdus[0].as_();
    assert_eq!(
        (bhs.flags, bhs.residual_count.get()),
        (FINAL | OVERFLOW, 512)
    );
}

#[test]
fn a_medium_error_is_check_condition_without_data() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().fail_reads = true;
    host.read(&mut shard, 1, 5, 8);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 1);
    assert_eq!(asc(&pdus[0]), (0x11, 0));
}

#[test]
fn commands_outside_the_window_are_ignored_and_early_ones_wait() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let first = host.cmd_sn;
    host.cmd_sn = first + 4000;
    host.read(&mut shard, 1, 0, 1);
    host.cmd_sn = first - 1;
    host.read(&mut shard, 1, 0, 1);
    assert!(host.receive(&mut shard).is_empty());
    host.cmd_sn = first + 1;
    host.write(&mut shard, 2, 0, 1, &[9; 512]);
    assert!(host.receive(&mut shard).is_empty());
    host.cmd_sn = first;
    host.read(&mut shard, 1, 0, 1);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 2);
    assert_eq!(pdus[0].data[0], 0, "the read came before the write");
    assert_eq!(pdus[1].as_::<ScsiResponseBhs>().exp_cmd_sn.get(), first + 2);
    assert_eq!(medium.borrow().bytes[..512], [9; 512]);
}

#[test]
fn a_tag_in_use_is_rejected_as_task_in_progress() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 8, &[]);
    host.read(&mut shard, 5, 0, 1);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[1].opcode(), Opcode::REJECT);
    assert_eq!(pdus[1].bhs[2], RejectReason::TASK_IN_PROGRESS.0);
    assert_eq!(pdus[1].data.len(), 48);
}

#[test]
fn a_ping_comes_back() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let host = Host::open(&mut shard, wide());
    for len in [0_usize, 5, 128, 5000] {
        let mut bhs = [0; 48];
        bhs[0] = Opcode::NOP_OUT.0 | IMMEDIATE;
        bhs[1] = FINAL;
        bhs[16..20].copy_from_slice(&77_u32.to_be_bytes());
        bhs[20..24].fill(0xff);
        host.send(&mut shard, &bhs, &pattern(len));
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus[0].opcode(), Opcode::NOP_IN);
        assert_eq!(pdus[0].data, pattern(len));
    }
}

#[test]
fn unknown_opcodes_snack_and_login_are_rejected() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let host = Host::open(&mut shard, wide());
    for (opcode, reason) in [
        (0x1f, RejectReason::COMMAND_NOT_SUPPORTED),
        (0x10, RejectReason::SNACK_REJECT),
        (0x43, RejectReason::PROTOCOL_ERROR),
        (0x25, RejectReason::COMMAND_NOT_SUPPORTED),
    ] {
        let mut bhs = [0; 48];
        bhs[0] = opcode;
        host.send(&mut shard, &bhs, &[]);
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus[0].bhs[2], reason.0);
    }
}

#[test]
fn logout_waits_for_what_is_in_flight_and_then_closes() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    host.write(&mut shard, 5, 0, 1, &[1; 512]);
    let mut bhs = [0; 48];
    bhs[0] = Opcode::LOGOUT_REQUEST.0 | IMMEDIATE;
    bhs[1] = 0x80;
    host.send(&mut shard, &bhs, &[]);
    assert!(host.receive(&mut shard).is_empty());
    medium.borrow_mut().holds = false;
    shard.poll_backends(Instant::now());
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[0].opcode(), Opcode::LOGOUT_RESPONSE);
    assert_eq!(shard.poll_close_request(), Some(host.key));
    shard.connection_lost(host.key);
    assert_eq!(shard.poll_closed(), Some(host.key));
    assert_eq!(shard.home.pool.promised(), 0);
}

#[test]
fn a_lost_connection_drains_before_it_is_closed() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let free = shard.home.pool.free_bytes();
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    host.write(&mut shard, 5, 0, 1, &[1; 512]);
    host.write(&mut shard, 6, 0, 1, &[]);
    shard.connection_lost(host.key);
    assert_eq!(shard.poll_closed(), None);
    medium.borrow_mut().holds = false;
    shard.poll_backends(Instant::now());
    assert_eq!(shard.poll_closed(), Some(host.key));
    assert_eq!(shard.home.pool.free_bytes(), free);
    assert_eq!(shard.home.pool.promised(), 0);
}

#[test]
fn abort_task_is_answered_when_its_operation_is_over() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    let cmd_sn = host.cmd_sn;
    host.write(&mut shard, 5, 0, 1, &[1; 512]);
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::ABORT_TASK,
        (5, cmd_sn),
    );
    assert!(host.receive(&mut shard).is_empty());
    medium.borrow_mut().holds = false;
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 1);
    assert_eq!(pdus[0].opcode(), Opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!(pdus[0].bhs[2], TaskManagementResponse::FUNCTION_COMPLETE.0);
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::ABORT_TASK,
        (5, cmd_sn),
    );
    let pdus = host.receive(&mut shard);
    assert_eq!(
        pdus[0].bhs[2],
        TaskManagementResponse::TASK_DOES_NOT_EXIST.0
    );
}

#[test]
fn an_aborted_write_that_waits_for_data_never_writes() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 64, &[]);
    let r2t = host.receive(&mut shard).remove(0);
    let ttt = r2t.as_::<R2tBhs>().target_transfer_tag.get();
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::ABORT_TASK_SET,
        (NO_TAG, 0),
    );
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[0].bhs[2], 0);
    host.data_out(&mut shard, 5, ttt, (0, 0), true, &[0x77; 32_768]);
    assert!(host.receive(&mut shard).is_empty());
    assert!(!medium.borrow().bytes.contains(&0x77) || medium.borrow().bytes[0] != 0x77);
}

#[test]
fn functions_that_are_not_there_say_so() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    for (function, response) in [(3, 5), (8, 4), (99, 5)] {
        host.function(&mut shard, 6, TaskManagementFunction(function), (NO_TAG, 0));
        assert_eq!(host.receive(&mut shard)[0].bhs[2], response);
    }
}

#[test]
fn an_ordered_task_waits_for_older_ones_and_younger_ones_for_it() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    host.read(&mut shard, 1, 0, 1);
    let cdb = cdb_10(0x28, 0, 1);
    host.command(&mut shard, 2, FINAL | READ | 2, 512, cdb, &[]);
    host.read(&mut shard, 3, 0, 1);
    assert_eq!(medium.borrow().queue.len(), 1);
    medium.borrow_mut().holds = false;
    let tags: Vec<u32> = host
        .receive(&mut shard)
        .iter()
        .map(|p| p.as_::<DataInBhs>().initiator_task_tag.get())
        .collect();
    assert_eq!(tags, [1, 2, 3]);
}

#[test]
fn a_pool_that_is_used_up_delays_but_never_fails() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 4);
    let mut host = Host::open(&mut shard, wide());
    for tag in 0..32 {
        host.read(&mut shard, tag, 0, 2048);
    }
    let pdus = host.receive(&mut shard);
    let done = pdus.iter().filter(|p| p.bhs[1] & STATUS != 0).count();
    assert_eq!(done, 32);
    assert!(shard.counters().of(Event::MemoryWait) > 0);
    let bytes: usize = pdus.iter().map(|p| p.data.len()).sum();
    assert_eq!(bytes, 32 << 20);
}

/// Two cores, one unit, messages in any order: after a reset is answered no earlier write reaches the medium.
#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one story, from the held write to the answer"
)]
fn a_reset_reaches_every_core_before_it_is_answered() {
    for seed in 1..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let medium = medium();
        let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
        let mut hosts: Vec<Host> = Vec::new();
        for shard in &mut shards {
            hosts.push(Host::open(shard, wide()));
        }
        medium.borrow_mut().holds = true;
        for (host, shard) in hosts.iter_mut().zip(&mut shards) {
            for tag in 0..3 {
                host.write(shard, tag, tag * 8, 1, &[0xee; 512]);
            }
            host.write(shard, 9, 100, 1, &[]);
        }
        let asker = usize::try_from(dice(2)).unwrap();
        let clear = dice(2) == 0;
        let function = if clear {
            TaskManagementFunction::CLEAR_TASK_SET
        } else {
            TaskManagementFunction::LOGICAL_UNIT_RESET
        };
        hosts[asker].function(&mut shards[asker], 50, function, (NO_TAG, 0));
        let mut mail: Vec<(usize, ShardMessage)> = Vec::new();
        let mut answered = false;
        for step in 0..1000 {
            match dice(4) {
                0 => medium.borrow_mut().holds = dice(2) == 0,
                1 => {
                    let at = usize::try_from(dice(2)).unwrap();
                    shards[at].poll_backends(Instant::now());
                }
                2 if !mail.is_empty() => {
                    // Messages of one pair of cores stay in order: take the first for some core.
                    let to = mail[usize::try_from(dice(mail.len() as u64)).unwrap()].0;
                    let at = mail.iter().position(|m| m.0 == to).unwrap();
                    let (to, message) = mail.remove(at);
                    shards[to].handle_message(Instant::now(), message);
                }
                _ => {}
            }
            for shard in &mut shards {
                while let Some((to, message)) = shard.poll_message() {
                    mail.push((usize::from(to.0), message));
                }
            }
            let holds = std::mem::replace(&mut medium.borrow_mut().holds, true);
            for (at, host) in hosts.iter().enumerate() {
                let pdus = host.receive(&mut shards[at]);
                answered |= pdus
                    .iter()
                    .any(|p| p.opcode() == Opcode::TASK_MANAGEMENT_RESPONSE);
            }
            medium.borrow_mut().holds = holds;
            if answered {
                let left = medium.borrow().queue.len();
                assert_eq!(left, 0, "seed {seed}: an aborted write is still in flight");
                break;
            }
            assert!(step < 999, "seed {seed}: never answered");
        }
        medium.borrow_mut().holds = false;
        // The other nexus hears of it.
        let other = 1 - asker;
        hosts[other].command(&mut shards[other], 60, FINAL, 0, [0; 16], &[]);
        let pdus = hosts[other].receive(&mut shards[other]);
        let sense = asc(pdus.last().unwrap());
        assert_eq!(sense, if clear { (0x2f, 0) } else { (0x29, 0x03) });
    }
}

#[test]
fn a_stop_holds_on_every_core() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts: Vec<Host> = Vec::new();
    for shard in &mut shards {
        hosts.push(Host::open(shard, wide()));
    }
    let mut stop = [0; 16];
    stop[0] = 0x1b;
    hosts[1].command(&mut shards[1], 1, FINAL, 0, stop, &[]);
    for _ in 0..8 {
        for from in 0..2 {
            while let Some((to, message)) = shards[from].poll_message() {
                shards[usize::from(to.0)].handle_message(Instant::now(), message);
            }
        }
    }
    let pdus = hosts[1].receive(&mut shards[1]);
    assert_eq!(response_status(&pdus[0]), 0);
    hosts[0].read(&mut shards[0], 1, 0, 1);
    assert_eq!(asc(&hosts[0].receive(&mut shards[0])[0]), (0x04, 0x02));
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let params = OperationalParams {
        header_digest: true,
        ..wide()
    };
    let host = Host::open(&mut shard, params);
    let error = host.send_raw(&mut shard, &[0; 52]).unwrap_err();
    assert_eq!(error.name(), "header_digest");
    assert!(error.is_peers_fault());
}

#[test]
fn any_bytes_at_worst_end_the_connection() {
    let mut random = 1_u64;
    let mut dice = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..40 {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 8);
        let mut host = Host::open(&mut shard, wide());
        host.write(&mut shard, 5, 0, 64, &[]);
        host.receive(&mut shard);
        for _ in 0..60 {
            let mut bhs = [0_u8; 48];
            for byte in &mut bhs {
                *byte = (dice() & dice() & 0xff) as u8;
            }
            let opcodes = [
                0x00, 0x01, 0x41, 0x02, 0x42, 0x04, 0x05, 0x10, 0x40, 0x44, 0x05, 0x01,
            ];
            bhs[0] = opcodes[(dice() % 12) as usize];
            bhs[4] = 0;
            if dice() % 2 == 0 {
                bhs[16..20].copy_from_slice(&5_u32.to_be_bytes());
            }
            if dice() % 2 == 0 {
                bhs[20..24].fill(0xff);
            }
            bhs[24..28].copy_from_slice(&host.cmd_sn.to_be_bytes());
            if bhs[0] & IMMEDIATE == 0 && bhs[0] < 5 {
                host.cmd_sn += 1;
            }
            let len = [0, 0, 16, 512, 4096, 40_000][(dice() % 6) as usize];
            bhs[5..8].copy_from_slice(&length_to_24(len));
            let mut bytes = bhs.to_vec();
            bytes.resize(48 + len as usize, 3);
            if host.send_raw(&mut shard, &bytes).is_err() {
                break;
            }
            host.receive(&mut shard);
        }
        shard.connection_lost(host.key);
        assert_eq!(shard.poll_closed(), Some(host.key));
        assert_eq!(shard.home.pool.promised(), 0);
    }
}
