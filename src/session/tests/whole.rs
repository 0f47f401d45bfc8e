//! Blocks that are sent whole, and lines that keep moving.

use super::*;
use crate::backend::ram::RamMedium;
use crate::backend::{AttachContext, Medium as _, Waker};
use crate::buffer::Piece;

fn ram_shard(block: BlockSize) -> Shard {
    let mut shard = Shard::new(ShardConfig {
        reactor: ReactorId(0),
        reactors: 1,
        pool: pool(16),
        limits: SessionLimits::default(),
    });
    let medium = Arc::new(RamMedium::new("x", block, 1 << 20, false).unwrap());
    let context = AttachContext {
        ring: None,
        offload: crate::backend::offload::OffloadPool::new(1, &[]).unwrap(),
        waker: Waker(Arc::new(|| {})),
        depth: 8,
    };
    let geometry = medium.geometry();
    let backend = medium.attach(&context).unwrap();
    let unit = Arc::new(LogicalUnit {
        geometry,
        ..(*unit()).clone()
    });
    shard.attach_unit(UnitId(0), unit, backend);
    shard
}

/// As a reactor does: pieces, of which the kernel takes at most `most` bytes.
fn send_some(shard: &mut Shard, key: SessionKey, most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    {
        let mut pieces = [Piece::EMPTY; 64];
        let count = shard.gather_pieces(key, &mut pieces);
        for piece in &pieces[..count] {
            let mut bytes = vec![0; piece.len()];
            piece.copy_to(&mut bytes);
            out.extend_from_slice(&bytes);
        }
    }
    out.truncate(most);
    shard.transmitted(key, out.len());
    out
}

fn drain(shard: &mut Shard, key: SessionKey) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let some = send_some(shard, key, usize::MAX);
        if some.is_empty() {
            shard.poll_backends(Instant::now());
            let some = send_some(shard, key, usize::MAX);
            if some.is_empty() {
                return all;
            }
            all.extend(some);
            continue;
        }
        all.extend(some);
    }
}

fn torn(block: BlockSize, segment: u32, blocks: u16, taken: usize) -> Vec<u8> {
    let mut shard = ram_shard(block);
    let size = block.bytes();
    let params = OperationalParams {
        max_send_data_segment_length: segment,
        ..wide()
    };
    let mut reader = Host::open(&mut shard, params);
    let mut writer = Host::open(&mut shard, wide());
    let len = u32::from(blocks) * size;
    let write = |writer: &mut Host, shard: &mut Shard, tag, byte: u8| {
        let data = vec![byte; len as usize];
        writer.command(
            shard,
            tag,
            FINAL | WRITE,
            len,
            cdb_10(0x2a, 0, blocks),
            &data,
        );
        let pdus = writer.receive(shard);
        let pdu = pdus
            .iter()
            .find(|p| p.opcode() == Opcode::SCSI_RESPONSE)
            .expect("a response");
        assert_eq!(response_status(pdu), 0);
    };
    write(&mut writer, &mut shard, 1, 0xaa);
    reader.command(
        &mut shard,
        2,
        FINAL | READ,
        len,
        cdb_10(0x28, 0, blocks),
        &[],
    );
    let mut bytes = send_some(&mut shard, reader.key, taken);
    assert_eq!(bytes.len(), taken);
    write(&mut writer, &mut shard, 3, 0xbb);
    bytes.extend(drain(&mut shard, reader.key));
    reader
        .cut_up(&bytes)
        .into_iter()
        .flat_map(|p| p.data)
        .collect()
}

fn assert_whole(data: &[u8], size: usize) {
    for (n, block) in data.chunks(size).enumerate() {
        assert!(block.iter().all(|b| *b == block[0]), "block {n} is torn");
    }
}

#[test]
fn a_block_cut_by_a_partial_send_is_whole() {
    assert_whole(&torn(BlockSize::B4096, 8192, 2, 48 + 5000), 4096);
}

#[test]
fn a_block_cut_by_the_segment_length_is_whole() {
    assert_whole(&torn(BlockSize::B4096, 6144, 2, 48 + 6144), 4096);
}

#[test]
fn a_sector_cut_by_the_segment_length_is_whole() {
    assert_whole(&torn(BlockSize::B512, 1000, 4, 48 + 1000), 512);
}

type Held = Rc<RefCell<VecDeque<(IoTag, Option<Buffer>)>>>;

/// Takes so many operations, and ends as many of them as it is told to.
#[derive(Debug)]
struct Narrow {
    depth: usize,
    held: Held,
    finish: Rc<std::cell::Cell<usize>>,
}
impl Backend for Narrow {
    fn submit(&mut self, tag: IoTag, _io: BlockIo, buffer: Option<Buffer>) -> Submit {
        let mut held = self.held.borrow_mut();
        if held.len() == self.depth {
            return Submit::Full(buffer);
        }
        held.push_back((tag, buffer));
        Submit::Pending
    }
    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        let mut count = 0;
        while self.finish.get() > 0 {
            self.finish.set(self.finish.get() - 1);
            let Some((tag, buffer)) = self.held.borrow_mut().pop_front() else {
                break;
            };
            done(Completion {
                tag,
                result: Ok(()),
                buffer,
            });
            count += 1;
        }
        count
    }
    fn in_flight(&self) -> usize {
        self.held.borrow().len()
    }
    fn cancel(&mut self, _: IoTag) {}
}

#[test]
fn a_unit_whose_queue_is_waited_for_is_kept_busy() {
    let mut shard = shard(0, 1, &medium(), 16);
    let held = Rc::new(RefCell::new(VecDeque::new()));
    let finish = Rc::new(std::cell::Cell::new(0));
    let mut host = Host::open(&mut shard, wide());
    shard.attach_unit(
        UnitId(0),
        unit(),
        Box::new(Narrow {
            depth: 4,
            held: held.clone(),
            finish: finish.clone(),
        }),
    );
    for tag in 0..20 {
        host.read(&mut shard, tag, 0, 1);
    }
    let mut seen = Vec::new();
    for _ in 0..12 {
        finish.set(1);
        shard.poll_backends(Instant::now());
        shard.poll_backends(Instant::now());
        host.receive(&mut shard);
        seen.push(held.borrow().len());
    }
    assert!(seen.iter().all(|n| *n == 4), "{seen:?}");
}

#[test]
fn lines_do_not_grow_with_logins() {
    let mut shard = shard(0, 1, &medium(), 16);
    for _ in 0..2000 {
        let host = Host::open(&mut shard, wide());
        shard.connection_lost(host.key);
        while shard.poll_closed().is_some() {}
    }
    let cap = shard.home.turn_line.capacity();
    assert!(cap < 10_000, "{cap}");
}

#[test]
fn reads_are_not_starved_by_writes_that_bring_their_data() {
    let mut shard = shard(0, 1, &medium(), 64);
    let held = Rc::new(RefCell::new(VecDeque::new()));
    let finish = Rc::new(std::cell::Cell::new(0));
    let mut reader = Host::open(&mut shard, wide());
    let mut writer = Host::open(&mut shard, wide());
    shard.attach_unit(
        UnitId(0),
        unit(),
        Box::new(Narrow {
            depth: 4,
            held: held.clone(),
            finish: finish.clone(),
        }),
    );
    let mut tag = 0;
    for _ in 0..4 {
        writer.write(&mut shard, tag, 0, 1, &[1; 512]);
        tag += 1;
    }
    for tag in 0..8 {
        reader.read(&mut shard, tag, 0, 1);
    }
    let (mut read, mut written) = (0, 0);
    let mut when = Vec::new();
    for round in 0..2000 {
        finish.set(1);
        shard.poll_backends(Instant::now());
        writer.write(&mut shard, tag, 0, 1, &[1; 512]);
        tag += 1;
        let is_end = |p: &&Pdu| matches!(p.opcode(), Opcode::SCSI_RESPONSE | Opcode::DATA_IN);
        let n = reader.receive(&mut shard).iter().filter(is_end).count();
        read += n;
        if n > 0 {
            when.push(round);
        }
        let got = writer.receive(&mut shard);
        written += got.iter().filter(is_end).count();
    }
    assert!(
        read == 8 && when[7] < 30,
        "{read} reads of 8 ended while {written} writes did"
    );
}
