//! Cutting a stream into PDUs, text and digests.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringtgt::pdu::bhs::{
    DataOutBhs, FINAL, GenericBhs, NO_TAG, READ, ScsiCommandBhs, WRITE, length_to_24,
};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::digest::{data_digest, header_digest};
use ringtgt::pdu::frame::{EncodedHeader, EncodedTrailer, Frame, Framing, header_of};
use ringtgt::pdu::text::{Pairs, write_pair};

const DATA: usize = 4096;

fn framing(digests: bool) -> Framing {
    Framing {
        header_digest: digests,
        data_digest: digests,
        max_data_segment_length: 262_144,
        max_ahs_length: 0,
    }
}

fn command(flags: u8, opcode: u8, data: usize) -> ScsiCommandBhs {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[8] = 8;
    ScsiCommandBhs {
        opcode: Opcode::SCSI_COMMAND.0,
        flags: flags | FINAL | 1,
        reserved: [0; 2],
        total_ahs_length: 0,
        data_segment_length: length_to_24(u32::try_from(data).expect("short")),
        lun: 0.into(),
        initiator_task_tag: 1.into(),
        expected_data_transfer_length: 4096.into(),
        cmd_sn: 1.into(),
        exp_stat_sn: 1.into(),
        cdb,
    }
}

fn data_out() -> DataOutBhs {
    DataOutBhs {
        opcode: Opcode::DATA_OUT.0,
        flags: FINAL,
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: length_to_24(4096),
        lun: 0.into(),
        initiator_task_tag: 1.into(),
        target_transfer_tag: NO_TAG.into(),
        reserved_24: [0; 4],
        exp_stat_sn: 1.into(),
        reserved_32: [0; 4],
        data_sn: 0.into(),
        buffer_offset: 0.into(),
        reserved_44: [0; 4],
    }
}

/// A whole PDU as it is on the wire.
fn wire(header: EncodedHeader, data: &[u8], digests: bool) -> Vec<u8> {
    let mut bytes = header.as_slice().to_vec();
    if !data.is_empty() {
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(EncodedTrailer::new(data, digests).as_slice());
    }
    bytes
}

/// What a receiver does before it knows what to do: find the PDU, see that it is right, read its header.
fn decode(framing: Framing, stream: &[u8]) -> usize {
    let Ok(Frame::Header(layout)) = framing.decode(stream) else {
        panic!("the PDU is whole and right");
    };
    assert_eq!(layout.data_is_right(stream), Some(true));
    let bhs: &GenericBhs = header_of(stream).expect("48 bytes");
    layout.total_len() + usize::from(bhs.flags)
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let data = vec![0x5a; DATA];
    for digests in [false, true] {
        let read = wire(
            EncodedHeader::new(&command(READ, 0x28, 0), digests),
            &[],
            digests,
        );
        let write = wire(
            EncodedHeader::new(&command(WRITE, 0x2a, DATA), digests),
            &data,
            digests,
        );
        let data_out = wire(EncodedHeader::new(&data_out(), digests), &data, digests);
        for (name, pdu) in [
            ("READ(10)", read),
            ("WRITE(10) 4 KiB", write),
            ("Data-Out 4 KiB", data_out),
        ] {
            let with = if digests { "digests" } else { "plain" };
            group.bench_function(BenchmarkId::new(name, with), |b| {
                b.iter(|| decode(black_box(framing(digests)), black_box(&pdu)));
            });
        }
    }
    group.finish();
}

fn text(c: &mut Criterion) {
    let mut login = Vec::new();
    for (key, value) in [
        ("InitiatorName", "iqn.1994-05.com.example:host"),
        ("TargetName", "iqn.2001-04.com.example:disk"),
        ("SessionType", "Normal"),
        ("HeaderDigest", "None,CRC32C"),
        ("DataDigest", "None,CRC32C"),
        ("MaxRecvDataSegmentLength", "262144"),
        ("MaxBurstLength", "16776192"),
        ("FirstBurstLength", "262144"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
    ] {
        write_pair(&mut login, key, value);
    }
    c.bench_function("text/login", |b| {
        b.iter(|| {
            let pairs = Pairs::new(black_box(&login)).map(|pair| pair.expect("a pair"));
            pairs
                .map(|pair| pair.key.len() + pair.value.len())
                .sum::<usize>()
        });
    });
}

const DIGESTED: [usize; 4] = [48, 4096, 65_536, 262_144];

fn digests(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    for len in DIGESTED {
        let bytes = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &bytes, |b, bytes| {
            b.iter(|| data_digest(black_box(bytes)));
        });
    }
    group.finish();
    ratios();
}

/// Ours against the `crc32c` crate, in turns, so that both see the same machine: medians of 31 rounds.
fn ratios() {
    for len in DIGESTED {
        let bytes = vec![0x5a; len];
        let rounds = 5_000_000 / (len + 200);
        let time = |digest: &dyn Fn(&[u8]) -> u32| {
            let start = Instant::now();
            for _ in 0..rounds {
                black_box(digest(black_box(&bytes)));
            }
            start.elapsed().as_secs_f64() * 1e9 / rounds as f64
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..31 {
            ours.push(time(&|bytes| u32::from_le_bytes(header_digest(bytes))));
            theirs.push(time(&crc32c::crc32c));
        }
        ours.sort_by(f64::total_cmp);
        theirs.sort_by(f64::total_cmp);
        let (ours, theirs) = (ours[15], theirs[15]);
        println!(
            "digest of {len:6} bytes: {ours:8.1} ns, crc32c crate {theirs:8.1} ns, ratio {:.2}",
            ours / theirs
        );
    }
}

criterion_group!(benches, decoding, text, digests);
criterion_main!(benches);
