//! What the device server costs a command: `start` and every `resume` to its end, over a medium that does
//! nothing.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringtgt::backend::Geometry;
use ringtgt::scsi::{
    Bounds, Cdb, Context, Identity, LogicalUnit, Luns, Memory, NexusUnit, Outcome, Port, Status,
    Step, start,
};
use ringtgt::units::{BlockSize, Blocks};

/// One LUN.
#[derive(Debug)]
struct Zero;

impl Luns for Zero {
    fn lun(&self, index: usize) -> Option<u16> {
        (index == 0).then_some(0)
    }
}

fn unit() -> LogicalUnit {
    LogicalUnit {
        geometry: Geometry {
            block_size: BlockSize::B512,
            capacity: Blocks(1 << 30),
            physical_block_exponent: 3,
            read_only: false,
            write_cache: true,
            forgets: false,
        },
        identity: Identity {
            vendor: "RINGTGT".into(),
            product: "bench".into(),
            revision: "0001".into(),
            serial: "SN-1".into(),
        },
        online: true,
        stopped: false,
        generation: 0,
    }
}

/// Runs one command whose buffers and operations are granted at once; gives its status.
fn run(cdb: &Cdb, bounds: Bounds, data: &mut [u8], cx: &mut Context<'_>) -> Status {
    let mut command = start(cdb, bounds, cx);
    let mut outcome = Outcome::Begin;
    loop {
        let memory = Memory {
            data,
            scratch: &mut [],
        };
        outcome = match command.resume(outcome, memory, cx) {
            Step::NeedBuffer { wanted, .. } => Outcome::Buffer { len: wanted },
            Step::NeedDataOut { remaining, .. } => Outcome::DataOut { len: remaining },
            Step::Io { io, .. } => {
                black_box(io);
                Outcome::Io(Ok(()))
            }
            Step::Send { status: None, .. } => Outcome::Sent,
            Step::Send {
                status: Some(status),
                ..
            }
            | Step::Done(status) => return status,
            step => panic!("not asked for here: {step:?}"),
        };
    }
}

fn dispatch(criterion: &mut Criterion) {
    let unit = unit();
    let mut nexus = NexusUnit::new();
    while nexus.take().is_some() {}
    let mut cx = Context {
        unit: Some(&unit),
        nexus: &mut nexus,
        luns: &Zero,
        port: Port {
            target_name: "iqn.2026-01.test:disk",
            portal_group_tag: 1,
        },
    };
    let mut data = vec![0; 4096];
    let commands: [(&str, &[u8], u32, u32); 4] = [
        ("READ(10) 4 KiB", &[0x28, 0, 0, 1, 0, 0, 0, 0, 8], 4096, 0),
        ("WRITE(10) 4 KiB", &[0x2a, 0, 0, 1, 0, 0, 0, 0, 8], 0, 4096),
        ("INQUIRY", &[0x12, 0, 0, 0, 96], 96, 0),
        ("TEST UNIT READY", &[0x00], 0, 0),
    ];
    let mut group = criterion.benchmark_group("scsi");
    for (name, bytes, data_in, data_out) in commands {
        let mut cdb: Cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        let bounds = Bounds { data_in, data_out };
        let status = run(&cdb, bounds, &mut data, &mut cx);
        assert_eq!(status, Status::Good, "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| run(black_box(&cdb), bounds, &mut data, &mut cx));
        });
    }
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
