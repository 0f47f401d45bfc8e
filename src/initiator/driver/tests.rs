//! The load generator over loopback, against a target that knows just enough.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::initiator::Offers;
use crate::initiator::latency::Results;
use crate::initiator::plan::{Access, Work};
use crate::pdu::bhs::*;
use crate::pdu::code::Opcode;
use crate::pdu::frame::{EncodedTrailer, Frame, Framing, PduLayout, header_of};

const BLOCKS: usize = 64;

/// One connection of a target whose medium has 64 blocks of 512 bytes.
struct Fake {
    medium: Vec<u8>,
    stat_sn: u32,
    exp_cmd_sn: u32,
    /// This byte is never stored.
    loses: Option<usize>,
    /// Every so many-th WRITE ends in BUSY, then in CHECK CONDITION.
    writes: u32,
    spoils: bool,
    out: Vec<u8>,
    /// After so many WRITEs it does no more.
    dies: Option<(u32, Death)>,
}

#[derive(Clone, Copy)]
enum Death {
    Closes,
    FallsSilent,
}

impl Fake {
    fn serve(mut self, mut stream: TcpStream) {
        let framing = Framing {
            max_data_segment_length: 1 << 16,
            ..Framing::LOGIN
        };
        let mut stream_bytes = Vec::new();
        let mut buffer = [0; 65_536];
        loop {
            let Ok(len) = stream.read(&mut buffer) else {
                return;
            };
            if len == 0 {
                return;
            }
            stream_bytes.extend_from_slice(&buffer[..len]);
            while let Ok(Frame::Header(layout)) = framing.decode(&stream_bytes) {
                if layout.total_len() > stream_bytes.len() {
                    break;
                }
                let later = stream_bytes.split_off(layout.total_len());
                let pdu = std::mem::replace(&mut stream_bytes, later);
                self.answer(&layout, &pdu);
            }
            match self.dies {
                Some((writes, Death::Closes)) if self.writes >= writes => return,
                Some((writes, Death::FallsSilent)) if self.writes >= writes => self.out.clear(),
                _ => {}
            }
            if stream.write_all(&std::mem::take(&mut self.out)).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, layout: &PduLayout, pdu: &[u8]) {
        let request: &ScsiCommandBhs = header_of(pdu).unwrap();
        let mut bhs = DataInBhs::new_zeroed();
        bhs.initiator_task_tag = request.initiator_task_tag;
        bhs.flags = FINAL;
        let mut data = Vec::new();
        match layout.opcode {
            Opcode::LOGIN_REQUEST => {
                bhs.opcode = Opcode::LOGIN_RESPONSE.0;
                bhs.flags = pdu[1];
                bhs.lun = request.lun;
                let tsih_is_1 = bhs.lun.get() | 1;
                bhs.lun = tsih_is_1.into();
                data = match pdu[1] & 3 {
                    3 => b"InitialR2T=Yes\0FirstBurstLength=8192\0".to_vec(),
                    _ => b"AuthMethod=None\0".to_vec(),
                };
            }
            Opcode::SCSI_COMMAND => {
                data = self.command(request, layout.data(pdu).unwrap(), &mut bhs)
            }
            Opcode::LOGOUT_REQUEST => bhs.opcode = Opcode::LOGOUT_RESPONSE.0,
            other => panic!("{other}"),
        }
        bhs.stat_sn = self.stat_sn.into();
        self.stat_sn += 1;
        if layout.opcode == Opcode::SCSI_COMMAND && !layout.immediate {
            self.exp_cmd_sn += 1;
        }
        (bhs.exp_cmd_sn, bhs.max_cmd_sn) = (self.exp_cmd_sn.into(), (self.exp_cmd_sn + 7).into());
        bhs.data_segment_length = length_to_24(u32::try_from(data.len()).unwrap());
        self.out.extend_from_slice(bhs.as_bytes());
        self.out.extend_from_slice(&data);
        self.out
            .extend_from_slice(EncodedTrailer::new(&data, false).as_slice());
    }

    fn command(
        &mut self,
        request: &ScsiCommandBhs,
        written: &[u8],
        bhs: &mut DataInBhs,
    ) -> Vec<u8> {
        let cdb = request.cdb;
        let start = usize::from(cdb[5]) * 512;
        let range = start..start + usize::from(cdb[8]) * 512;
        bhs.opcode = Opcode::SCSI_RESPONSE.0;
        match cdb[0] {
            0x9e => {
                (bhs.opcode, bhs.flags) = (Opcode::DATA_IN.0, FINAL | STATUS);
                let mut data = vec![0; 32];
                (data[7], data[10]) = (u8::try_from(BLOCKS - 1).unwrap(), 2);
                data
            }
            0x28 => {
                (bhs.opcode, bhs.flags) = (Opcode::DATA_IN.0, FINAL | STATUS);
                self.medium[range].to_vec()
            }
            0x2a => {
                self.writes += 1;
                bhs.status = match self.writes % 8 {
                    3 if self.spoils => 0x08,
                    5 if self.spoils => 0x02,
                    _ => 0,
                };
                let before = self.loses.map(|at| self.medium[at]);
                if bhs.status == 0 {
                    self.medium[range].copy_from_slice(written);
                }
                if let (Some(at), Some(byte)) = (self.loses, before) {
                    self.medium[at] = byte;
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

/// Starts a target for `connections` connections, each with its own medium.
fn target(connections: usize, loses: Option<usize>, spoils: bool) -> (Plan, JoinHandle<()>) {
    mortal(connections, loses, spoils, None)
}

fn mortal(
    connections: usize,
    loses: Option<usize>,
    spoils: bool,
    dies: Option<(u32, Death)>,
) -> (Plan, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "iscsi://{}/iqn.2024-01.com.example:a/3",
        listener.local_addr().unwrap()
    );
    let serve = move || {
        let serving: Vec<_> = (0..connections)
            .map(|_| {
                let stream = listener.accept().unwrap().0;
                let medium = vec![0; BLOCKS * 512];
                let fake = Fake {
                    medium,
                    stat_sn: 9,
                    exp_cmd_sn: 1,
                    loses,
                    writes: 0,
                    spoils,
                    out: Vec::new(),
                    dies,
                };
                std::thread::spawn(move || fake.serve(stream))
            })
            .collect();
        serving
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    };
    let plan = Plan {
        url: url.parse().unwrap(),
        initiator_name: "iqn.i".to_owned(),
        offers: Offers::DEFAULT,
        work: Work {
            operation: Operation::Write,
            access: Access::Random,
            block_size: 1024,
            depth: 5,
            connections: u16::try_from(connections).unwrap(),
            rate: None,
        },
        also: Vec::new(),
        length: Length::Commands(300),
        warmup: Duration::ZERO,
        span: None,
        verify: true,
        seed: 3,
        lenient: false,
        busy: false,
        core: None,
        interval: None,
    };
    (plan, std::thread::spawn(serve))
}

/// The facts, and what came of the only stream of commands.
fn run_one(plan: &Plan) -> Result<(Facts, Results), DriverError> {
    let (facts, mut outcome) = run(plan, &mut |_| {})?;
    assert_eq!(outcome.works.len(), 1);
    Ok((facts, outcome.works.remove(0)))
}

#[test]
fn what_was_written_is_read_back() {
    let (plan, serving) = target(1, None, false);
    let (facts, results) = run_one(&plan).unwrap();
    serving.join().unwrap();
    assert_eq!((facts.blocks, facts.logical_block_size), (64, 512));
    assert_eq!(
        (results.write.commands, results.write.bytes),
        (300, 300 * 1024)
    );
    // 300 random writes leave none of 32 slots out, but for a chance of 1 in 400.
    assert!((28..=32).contains(&results.verified));
    assert_eq!(
        (results.errors, results.mismatches, results.refused),
        (0, 0, 0)
    );
    assert!(results.elapsed > Duration::ZERO);
}

#[test]
fn a_byte_that_was_lost_is_found() {
    let (plan, serving) = target(1, Some(5000), false);
    let (_, results) = run_one(&Plan {
        work: Work {
            access: Access::Sequential,
            ..plan.work
        },
        ..plan
    })
    .unwrap();
    serving.join().unwrap();
    assert_eq!((results.verified, results.mismatches), (32, 1));
    assert!(results.first_mismatch.unwrap().starts_with("byte 5000 "));
}

#[test]
fn commands_that_fail_are_told_from_those_refused() {
    let (plan, serving) = target(1, None, true);
    let (_, results) = run_one(&Plan {
        verify: false,
        ..plan
    })
    .unwrap();
    serving.join().unwrap();
    assert!(results.errors > 20 && results.refused > 20);
    assert_eq!(
        results.write.commands + results.errors + results.refused,
        300
    );
    assert!(results.first_error.unwrap().contains("CHECK CONDITION"));
}

#[test]
fn every_connection_does_its_part() {
    let (plan, serving) = target(3, None, false);
    let operation = Operation::Mixed { read_percent: 50 };
    let (_, results) = run_one(&Plan {
        work: Work {
            operation,
            ..plan.work
        },
        verify: false,
        busy: true,
        ..plan
    })
    .unwrap();
    serving.join().unwrap();
    assert_eq!(results.total().commands, 300);
    assert!(results.read.commands > 50 && results.write.commands > 50);
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let (mut plan, serving) = target(0, None, false);
    serving.join().unwrap();
    plan.work.connections = 1;
    let error = run_one(&plan).unwrap_err().to_string();
    assert!(
        error.starts_with("connection 0: cannot connect to 127.0.0.1:"),
        "{error}"
    );
}

#[test]
fn two_streams_are_told_apart_and_progress_is_told() {
    let (mut plan, serving) = target(3, None, false);
    plan.work.connections = 1;
    plan.work.operation = Operation::Read;
    plan.also = vec![Work {
        operation: Operation::Write,
        block_size: 2048,
        depth: 2,
        connections: 2,
        ..plan.work.clone()
    }];
    (plan.verify, plan.interval) = (false, Some(Duration::ZERO));
    let mut told = (0, 0);
    let (_, outcome) = run(&plan, &mut |progress| {
        told = (told.0 + progress.commands, told.1 + progress.bytes);
    })
    .unwrap();
    serving.join().unwrap();
    let [first, second] = &outcome.works[..] else {
        panic!("two streams")
    };
    assert_eq!((first.read.commands, first.write.commands), (300, 0));
    assert_eq!(second.read.commands, 0);
    assert_eq!(second.write.bytes, second.write.commands * 2048);
    assert!(told.0 > 0 && told.0 <= 300 + second.write.commands);
    assert!(told.1 >= told.0 * 1024);
}

#[test]
fn a_fixed_rate_issues_as_many_commands_as_are_due() {
    let (mut plan, serving) = target(2, None, false);
    plan.work.rate = Some(20_000.0);
    (plan.verify, plan.busy) = (false, true);
    let (_, results) = run_one(&plan).unwrap();
    serving.join().unwrap();
    assert_eq!(results.write.commands, 300);
    // The last of 300 commands is due after 299 intervals of 50 microseconds.
    assert!(results.elapsed >= Duration::from_micros(299 * 50));
}

#[test]
fn what_was_measured_until_the_target_failed_is_kept() {
    for (death, reason) in [
        (Death::Closes, "connection 0: "),
        (Death::FallsSilent, "no answer for 0 seconds; "),
    ] {
        let (plan, serving) = mortal(2, None, false, Some((20, death)));
        let mut run = Run::connect(&plan).unwrap();
        run.patience = Duration::from_millis(50);
        let measured = run.run_until(&AtomicBool::new(false), &mut |_| {}).unwrap();
        serving.join().unwrap();
        let why = measured.ended_early.unwrap().to_string();
        // Either of the two connections may be the first to be closed.
        assert!(
            why.replace("connection 1", "connection 0")
                .starts_with(reason),
            "{why}"
        );
        let results = &measured.outcome.works[0];
        assert!((10..40).contains(&results.write.commands), "{results:?}");
        assert!(results.elapsed > Duration::ZERO);
        let (plan, serving) = mortal(2, None, false, Some((20, Death::Closes)));
        assert!(run_one(&plan).is_err(), "whoever wants all of it gets none");
        serving.join().unwrap();
    }
}

#[test]
fn a_stop_before_anything_was_measured_leaves_no_results() {
    let (plan, serving) = target(1, None, false);
    let plan = Plan {
        warmup: Duration::from_secs(600),
        ..plan
    };
    let run = Run::connect(&plan).unwrap();
    let error = run
        .run_until(&AtomicBool::new(true), &mut |_| {})
        .unwrap_err();
    serving.join().unwrap();
    assert!(matches!(error, DriverError::Stopped));
}

#[test]
fn a_stop_while_measuring_takes_the_outstanding_commands_along() {
    let (mut plan, serving) = target(1, None, false);
    (plan.length, plan.interval) = (Length::Commands(u64::MAX), Some(Duration::ZERO));
    let stop = AtomicBool::new(false);
    let mut told = 0;
    let measured = Run::connect(&plan)
        .unwrap()
        .run_until(&stop, &mut |progress| {
            told += progress.commands;
            stop.store(told > 100, Ordering::Relaxed);
        })
        .unwrap();
    serving.join().unwrap();
    assert!(matches!(measured.ended_early, Some(DriverError::Stopped)));
    let results = &measured.outcome.works[0];
    assert!(results.write.commands > 100, "{results:?}");
    assert_eq!((results.verified, results.errors), (0, 0));
}

#[test]
fn the_key_that_a_login_failed_for_is_named() {
    let (mut plan, serving) = target(1, None, false);
    plan.offers.header_digest = crate::initiator::DigestOffer::Required;
    let error = run_one(&plan).unwrap_err();
    serving.join().unwrap();
    assert_eq!(error.refused_key(), Some("HeaderDigest"));
}
