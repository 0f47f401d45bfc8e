//! The initiator against a target made by hand.

use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::*;
use crate::pdu::bhs::*;
use crate::pdu::code::{LoginStatus, TaskManagementResponse};
use crate::pdu::code::{
    LogoutReason, LogoutResponse, Opcode, RejectReason, TaskManagementFunction,
};
use crate::pdu::frame::{EncodedHeader, EncodedTrailer, PduLayout, header_of};

const WRITE_SAME_TAG: u32 = 0x1234;

/// The target's side: cuts up what was sent, and numbers what it answers.
struct Target {
    initiator: Initiator,
    stat_sn: u32,
    header_digest: bool,
    data_digest: bool,
}

type Pdu = (PduLayout, Vec<u8>);

impl Target {
    fn new(config: Config) -> Self {
        Self {
            initiator: Initiator::new(config),
            stat_sn: 100,
            header_digest: false,
            data_digest: false,
        }
    }

    /// Logged in; the target answers the operational keys with `keys`.
    fn logged_in(change: impl FnOnce(&mut Config), keys: &[u8]) -> Self {
        let mut config = Config::normal("iqn.i", "iqn.t");
        change(&mut config);
        let mut target = Self::new(config);
        target.sent();
        target
            .login(0, 1, b"AuthMethod=None\0TargetPortalGroupTag=1\0")
            .unwrap();
        target.sent();
        target.login(1, 3, keys).unwrap();
        assert!(matches!(
            target.initiator.poll_event(),
            Some(Event::LoggedIn)
        ));
        let negotiated = target.initiator.negotiated().unwrap();
        (target.header_digest, target.data_digest) =
            (negotiated.header_digest, negotiated.data_digest);
        target
    }

    fn sent(&mut self) -> Vec<Pdu> {
        let bytes = self.initiator.poll_transmit().to_vec();
        self.initiator.transmitted(bytes.len());
        let framing = Framing {
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            max_data_segment_length: 1 << 20,
            max_ahs_length: 0,
        };
        let (mut pdus, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let Ok(Frame::Header(layout)) = framing.decode(rest) else {
                panic!("not whole")
            };
            let (pdu, later) = rest.split_at(layout.total_len());
            assert_eq!(layout.data_is_right(pdu), Some(true));
            pdus.push((layout, pdu.to_vec()));
            rest = later;
        }
        pdus
    }

    fn login(&mut self, stage: u8, next: u8, text: &[u8]) -> Result<(), Error> {
        let mut bhs = LoginResponseBhs::new_zeroed();
        bhs.opcode = Opcode::LOGIN_RESPONSE.0;
        bhs.flags = FINAL | stage << 2 | next;
        bhs.isid = [0x80, 0x72, 0x69, 0x6e, 0, 1];
        bhs.tsih = 7.into();
        bhs.stat_sn = self.stat_sn.into();
        (bhs.exp_cmd_sn, bhs.max_cmd_sn) = (1.into(), 4.into());
        self.stat_sn += 1;
        self.send(zerocopy::transmute!(bhs), text)
    }

    /// Sends a PDU with ExpCmdSN, MaxCmdSN, DataSegmentLength and digests filled in.
    fn send(&mut self, mut bhs: [u8; 48], data: &[u8]) -> Result<(), Error> {
        bhs[5..8].copy_from_slice(&length_to_24(u32::try_from(data.len()).unwrap()));
        if self.initiator.negotiated().is_some() {
            let next = self.initiator.cmd_sn().0;
            bhs[28..32].copy_from_slice(&next.to_be_bytes());
            bhs[32..36].copy_from_slice(&next.wrapping_add(3).to_be_bytes());
        }
        let mut bytes = EncodedHeader::new(&bhs, self.header_digest)
            .as_slice()
            .to_vec();
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(EncodedTrailer::new(data, self.data_digest).as_slice());
        self.initiator.handle_bytes(&bytes)
    }

    /// An answer that has status: with the next StatSN.
    fn answer(
        &mut self,
        opcode: Opcode,
        tag: u32,
        change: impl FnOnce(&mut [u8; 48]),
        data: &[u8],
    ) -> Result<(), Error> {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (opcode.0, FINAL);
        bhs[16..20].copy_from_slice(&tag.to_be_bytes());
        bhs[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.stat_sn.to_be_bytes());
        self.stat_sn += 1;
        change(&mut bhs);
        self.send(bhs, data)
    }

    fn data_in(
        &mut self,
        tag: u32,
        sn: u32,
        offset: u32,
        status: bool,
        data: &[u8],
    ) -> Result<(), Error> {
        let mut bhs = DataInBhs::new_zeroed();
        bhs.opcode = Opcode::DATA_IN.0;
        bhs.initiator_task_tag = tag.into();
        bhs.target_transfer_tag = NO_TAG.into();
        (bhs.data_sn, bhs.buffer_offset) = (sn.into(), offset.into());
        if status {
            bhs.flags = FINAL | STATUS;
            bhs.stat_sn = self.stat_sn.into();
            self.stat_sn += 1;
        }
        self.send(zerocopy::transmute!(bhs), data)
    }

    fn r2t(&mut self, tag: u32, sn: u32, offset: u32, len: u32) -> Result<(), Error> {
        let mut bhs = R2tBhs::new_zeroed();
        (bhs.opcode, bhs.flags) = (Opcode::R2T.0, FINAL);
        bhs.initiator_task_tag = tag.into();
        bhs.target_transfer_tag = WRITE_SAME_TAG.into();
        bhs.stat_sn = self.stat_sn.into();
        (bhs.r2t_sn, bhs.buffer_offset) = (sn.into(), offset.into());
        bhs.desired_data_transfer_length = len.into();
        self.send(zerocopy::transmute!(bhs), &[])
    }

    fn read(&mut self, len: usize) -> u32 {
        self.initiator
            .submit(Command::new(5, 0, [0; 16], Payload::Read(vec![0; len])))
            .unwrap()
    }

    fn write(&mut self, data: &[u8]) -> u32 {
        self.initiator
            .submit(Command::new(
                6,
                wire_lun(2),
                [0; 16],
                Payload::Write(data.to_vec()),
            ))
            .unwrap()
    }

    fn done(&mut self) -> CommandDone {
        match self.initiator.poll_event() {
            Some(Event::Command(done)) => done,
            other => panic!("{other:?}"),
        }
    }
}

fn header<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned>(
    pdu: &Pdu,
) -> &T {
    header_of(&pdu.1).unwrap()
}

fn what(result: Result<(), Error>) -> &'static str {
    match result {
        Err(Error::Protocol { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn login_goes_through_both_stages() {
    let mut target = Target::new(Config::normal("iqn.i", "iqn.t"));
    let first = target.sent();
    let bhs: &LoginRequestBhs = header(&first[0]);
    assert_eq!(
        (first.len(), bhs.opcode, bhs.flags, bhs.tsih.get()),
        (1, 0x43, 0x81, 0)
    );
    let text = first[0].0.data(&first[0].1).unwrap();
    assert_eq!(
        text,
        b"InitiatorName=iqn.i\0TargetName=iqn.t\0SessionType=Normal\0AuthMethod=None\0"
    );
    target.login(0, 1, b"AuthMethod=None\0").unwrap();
    let second = target.sent();
    let bhs: &LoginRequestBhs = header(&second[0]);
    assert_eq!((bhs.flags, bhs.exp_stat_sn.get()), (0x87, 101));
    assert_eq!(target.initiator.room(), 0);
    target
        .login(
            1,
            3,
            b"MaxRecvDataSegmentLength=4096\0InitialR2T=Yes\0MaxBurstLength=65536\0",
        )
        .unwrap();
    let negotiated = target.initiator.negotiated().unwrap();
    assert_eq!(
        (negotiated.tsih, negotiated.max_send_data_segment_length),
        (7, 4096)
    );
    assert_eq!(
        (negotiated.initial_r2t, negotiated.max_burst_length),
        (true, 65_536)
    );
    assert_eq!(target.initiator.room(), 4);
}

#[test]
fn keys_that_the_target_came_up_with_are_answered() {
    let mut target = Target::new(Config {
        skip_security: true,
        ..Config::normal("iqn.i", "iqn.t")
    });
    target.sent();
    let mut bhs = LoginResponseBhs::new_zeroed();
    (bhs.opcode, bhs.flags) = (Opcode::LOGIN_RESPONSE.0, 1 << 2);
    bhs.isid = [0x80, 0x72, 0x69, 0x6e, 0, 1];
    (bhs.exp_cmd_sn, bhs.max_cmd_sn) = (1.into(), 4.into());
    target
        .send(zerocopy::transmute!(bhs), b"X-com.example=1\0")
        .unwrap();
    let request = target.sent().remove(0);
    assert_eq!(
        request.0.data(&request.1),
        Some(&b"X-com.example=NotUnderstood\0"[..])
    );
}

#[test]
fn a_refused_login_says_why() {
    let mut target = Target::new(Config::normal("iqn.i", "iqn.t"));
    let mut bhs = LoginResponseBhs::new_zeroed();
    bhs.opcode = Opcode::LOGIN_RESPONSE.0;
    bhs.isid = [0x80, 0x72, 0x69, 0x6e, 0, 1];
    bhs.status = LoginStatus::TARGET_MOVED_TEMPORARILY.0.into();
    let refused = target.send(zerocopy::transmute!(bhs), b"TargetAddress=10.0.0.1:3260\0");
    let expected = Error::Refused {
        status: LoginStatus::TARGET_MOVED_TEMPORARILY,
        target_address: Some("10.0.0.1:3260".to_owned()),
    };
    assert_eq!(refused, Err(expected));
}

#[test]
fn answers_beyond_what_was_offered_are_not_accepted() {
    for answer in [
        &b"MaxBurstLength=16777215\0"[..],
        b"HeaderDigest=CRC32C\0",
        b"DataPDUInOrder=No\0",
    ] {
        let mut target = Target::new(Config {
            skip_security: true,
            ..Config::normal("iqn.i", "iqn.t")
        });
        assert!(matches!(target.login(1, 3, answer), Err(Error::Key { .. })));
    }
}

#[test]
fn a_read_is_put_together_from_its_pieces() {
    let mut target = Target::logged_in(|_| {}, b"");
    let tag = target.read(10);
    let command = target.sent().remove(0);
    let bhs: &ScsiCommandBhs = header(&command);
    assert_eq!(
        (
            bhs.flags,
            bhs.cmd_sn.get(),
            bhs.expected_data_transfer_length.get()
        ),
        (0xc1, 1, 10)
    );
    target.data_in(tag, 0, 0, false, b"abcd").unwrap();
    target.data_in(tag, 1, 4, true, b"efghij").unwrap();
    let done = target.done();
    assert!(done.is_good());
    assert_eq!(
        (done.cookie, done.received, done.payload),
        (5, 10, Payload::Read(b"abcdefghij".to_vec()))
    );
    assert_eq!(target.initiator.outstanding(), 0);
}

#[test]
fn sense_and_residual_come_with_the_status() {
    let mut target = Target::logged_in(|_| {}, b"");
    let tag = target.read(512);
    target
        .answer(
            Opcode::SCSI_RESPONSE,
            tag,
            |bhs| {
                (bhs[1], bhs[3]) = (FINAL | UNDERFLOW, 2);
                bhs[44..48].copy_from_slice(&512u32.to_be_bytes());
            },
            &[0, 3, 0x70, 0, 5],
        )
        .unwrap();
    let done = target.done();
    assert_eq!(
        (done.status, done.residual, &done.sense[..]),
        (2, Residual::Underflow(512), &[0x70, 0, 5][..])
    );
    assert!(!done.is_good());
}

#[test]
fn a_write_sends_what_it_may_and_waits_for_the_rest() {
    let keys = b"MaxRecvDataSegmentLength=512\0FirstBurstLength=1024\0MaxBurstLength=2048\0InitialR2T=No\0";
    let mut target = Target::logged_in(|_| {}, keys);
    let data: Vec<u8> = (0..3000u32).map(|i| i.to_le_bytes()[0]).collect();
    let tag = target.write(&data);
    let pdus = target.sent();
    let command: &ScsiCommandBhs = header(&pdus[0]);
    assert_eq!(
        (command.flags, pdus[0].0.data_len, command.lun.get()),
        (0x21, 512, 2 << 48)
    );
    let out: &DataOutBhs = header(&pdus[1]);
    assert_eq!(
        (
            out.flags,
            out.buffer_offset.get(),
            out.target_transfer_tag.get()
        ),
        (FINAL, 512, NO_TAG)
    );
    assert_eq!(pdus.len(), 2);

    target.r2t(tag, 0, 1024, 1976).unwrap();
    let pdus = target.sent();
    let mut received = data[..1024].to_vec();
    for (pdu, sn) in pdus.iter().zip(0..) {
        let out: &DataOutBhs = header(pdu);
        assert_eq!(
            (out.data_sn.get(), out.buffer_offset.get() as usize),
            (sn, received.len())
        );
        assert_eq!(
            (out.target_transfer_tag.get(), out.flags != 0),
            (WRITE_SAME_TAG, sn == 3)
        );
        received.extend_from_slice(pdu.0.data(&pdu.1).unwrap());
    }
    assert_eq!(received, data);
    target
        .answer(Opcode::SCSI_RESPONSE, tag, |_| {}, &[])
        .unwrap();
    assert_eq!(target.done().payload, Payload::Write(data));
}

#[test]
fn without_immediate_and_unsolicited_data_only_the_command_is_sent() {
    let mut target = Target::logged_in(
        |c| c.answer_r2t = false,
        b"ImmediateData=No\0InitialR2T=Yes\0",
    );
    let tag = target.write(&[1; 512]);
    let pdus = target.sent();
    assert_eq!((pdus.len(), pdus[0].0.data_len, pdus[0].1[1]), (1, 0, 0xa1));
    target.r2t(tag, 0, 0, 512).unwrap();
    assert!(target.sent().is_empty());
    let Some(Event::R2t(r2t)) = target.initiator.poll_event() else {
        panic!("no R2T")
    };
    target.initiator.answer_r2t(r2t);
    assert_eq!(target.sent()[0].0.data_len, 512);
}

#[test]
fn digests_are_made_and_checked_both_ways() {
    let keys = b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0";
    let digests = |config: &mut Config| {
        config.offers.header_digest = DigestOffer::Required;
        config.offers.data_digest = DigestOffer::Preferred;
    };
    let mut target = Target::logged_in(digests, keys);
    target.write(b"odd");
    assert_eq!(target.sent()[0].1.len(), 48 + 4 + 4 + 4);
    let tag = target.read(5);
    target.data_in(tag, 0, 0, true, b"12345").unwrap();
    assert!(target.done().is_good());

    let tag = target.read(5);
    target.data_digest = false;
    // Without a digest the PDU is not whole yet; the next header is taken for it.
    target.data_in(tag, 0, 0, true, b"12345").unwrap();
    assert_eq!(
        target.initiator.handle_bytes(&[0; 48]),
        Err(Error::DataDigest)
    );
}

#[test]
fn a_closed_window_gives_the_command_back() {
    let mut target = Target::logged_in(|_| {}, b"");
    for _ in 0..4 {
        target.read(1);
    }
    assert_eq!(target.initiator.room(), 0);
    let command = Command::new(9, 0, [0; 16], Payload::None);
    assert_eq!(
        target.initiator.submit(command.clone()).unwrap_err().cookie,
        9
    );
    assert!(
        target
            .initiator
            .submit(Command {
                immediate: true,
                ..command
            })
            .is_ok()
    );
    target.answer(Opcode::NOP_IN, NO_TAG, |_| {}, &[]).unwrap();
    assert_eq!(target.initiator.room(), 4);
}

#[test]
fn commands_of_other_connections_are_only_borne_with_when_not_strict() {
    for strict in [true, false] {
        let mut target = Target::logged_in(|c| c.strict = strict, b"");
        let there = target.initiator.cmd_sn();
        let mut bhs = NopInBhs::new_zeroed();
        (bhs.opcode, bhs.flags) = (Opcode::NOP_IN.0, FINAL);
        bhs.initiator_task_tag = NO_TAG.into();
        bhs.target_transfer_tag = NO_TAG.into();
        (bhs.exp_cmd_sn, bhs.max_cmd_sn) = (there.plus(9).0.into(), there.plus(20).0.into());
        let result = target.initiator.handle_bytes(bhs.as_bytes());
        assert_eq!(result.is_err(), strict);
        let last = if strict {
            there.plus(3)
        } else {
            there.plus(20)
        };
        assert_eq!(target.initiator.window().1, last);
    }
}

#[test]
fn a_tag_is_not_used_again_at_once_and_never_has_its_highest_bit() {
    let mut target = Target::logged_in(|c| c.max_outstanding = 1, b"");
    let mut before = None;
    for _ in 0..40_000u32 {
        let tag = target.read(0);
        assert!(tag < 1 << 31 && Some(tag) != before);
        target.initiator.forget(tag);
        target.initiator.set_cmd_sn(SerialNumber(1));
        before = Some(tag);
    }
}

#[test]
fn breaches_of_the_protocol_are_noticed() {
    let fresh = || {
        let mut target = Target::logged_in(|_| {}, b"MaxBurstLength=1024\0");
        let (read, write) = (target.read(8), target.write(&[0; 4096]));
        (target, read, write)
    };
    let (mut t, read, _) = fresh();
    assert_eq!(
        what(t.data_in(read, 1, 0, false, b"a")),
        "DataSN is not the next one"
    );
    let (mut t, read, _) = fresh();
    assert_eq!(
        what(t.data_in(read, 0, 4, false, b"a")),
        "buffer offset does not follow the last data"
    );
    let (mut t, read, _) = fresh();
    assert_eq!(
        what(t.data_in(read, 0, 0, false, b"123456789")),
        "data beyond the expected data transfer length"
    );
    let (mut t, _, write) = fresh();
    assert_eq!(
        what(t.data_in(write, 0, 0, false, b"a")),
        "data of a command that does not read"
    );
    let (mut t, read, _) = fresh();
    t.stat_sn += 1;
    assert_eq!(
        what(t.data_in(read, 0, 0, true, b"a")),
        "StatSN is not the next one"
    );
    let (mut t, read, write) = fresh();
    assert_eq!(
        what(t.r2t(read, 0, 0, 8)),
        "wants data of a command that does not write"
    );
    assert_eq!(
        what(t.r2t(write, 0, 4095, 2)),
        "wants data that there is not"
    );
    assert_eq!(
        what(t.r2t(write, 0, 0, 2048)),
        "wants more than MaxBurstLength"
    );
    assert_eq!(what(t.r2t(write, 1, 0, 512)), "R2TSN is not the next one");
}

#[test]
fn pings_are_answered_in_both_directions() {
    let mut target = Target::logged_in(|_| {}, b"");
    let tag = target.initiator.nop(3, b"ping").unwrap();
    target.sent();
    target.answer(Opcode::NOP_IN, tag, |_| {}, b"ping").unwrap();
    assert!(
        matches!(target.initiator.poll_event(), Some(Event::Nop { cookie: 3, data }) if data == b"ping")
    );
    let stat_sn = target.initiator.exp_stat_sn();
    let mut bhs = NopInBhs::new_zeroed();
    (bhs.opcode, bhs.flags, bhs.lun) = (Opcode::NOP_IN.0, FINAL, 9.into());
    (bhs.initiator_task_tag, bhs.target_transfer_tag) = (NO_TAG.into(), 77.into());
    target.send(zerocopy::transmute!(bhs), &[]).unwrap();
    let pdus = target.sent();
    let out: &NopOutBhs = header(&pdus[0]);
    assert_eq!(
        (
            out.opcode,
            out.initiator_task_tag.get(),
            out.target_transfer_tag.get()
        ),
        (0x40, NO_TAG, 77)
    );
    assert_eq!(
        (out.lun.get(), target.initiator.exp_stat_sn()),
        (9, stat_sn)
    );
}

#[test]
fn long_text_is_asked_for_until_it_ends() {
    let mut target = Target::logged_in(|_| {}, b"");
    let tag = target.initiator.text(1, b"SendTargets=All\0").unwrap();
    target.sent();
    let more = |bhs: &mut [u8; 48]| {
        bhs[1] = CONTINUE;
        bhs[20..24].copy_from_slice(&5u32.to_be_bytes());
    };
    target
        .answer(
            Opcode::TEXT_RESPONSE,
            tag,
            more,
            b"TargetName=iqn.t\0Target",
        )
        .unwrap();
    let pdus = target.sent();
    let request: &TextRequestBhs = header(&pdus[0]);
    assert_eq!(
        (
            request.initiator_task_tag.get(),
            request.target_transfer_tag.get()
        ),
        (tag, 5)
    );
    target
        .answer(
            Opcode::TEXT_RESPONSE,
            tag,
            |_| {},
            b"Address=1.2.3.4:3260,1\0",
        )
        .unwrap();
    let Some(Event::Text { cookie: 1, text }) = target.initiator.poll_event() else {
        panic!("no text")
    };
    assert_eq!(
        discovered(&text),
        [("iqn.t".to_owned(), vec!["1.2.3.4:3260,1".to_owned()])]
    );
}

#[test]
fn task_management_reject_and_logout_are_reported() {
    let mut target = Target::logged_in(|_| {}, b"");
    let read = target.read(1);
    let abort = TaskManagementFunction::ABORT_TASK;
    let tag = target
        .initiator
        .task_management(4, abort, 0, Some(read))
        .unwrap();
    let pdus = target.sent();
    let request: &TaskManagementRequestBhs = header(&pdus[1]);
    assert_eq!(
        (
            request.function,
            request.referenced_task_tag.get(),
            request.ref_cmd_sn.get()
        ),
        (0x81, read, 1)
    );
    target
        .answer(Opcode::TASK_MANAGEMENT_RESPONSE, tag, |_| {}, &[])
        .unwrap();
    assert!(matches!(
        target.initiator.poll_event(),
        Some(Event::TaskManagement {
            cookie: 4,
            response: TaskManagementResponse::FUNCTION_COMPLETE
        })
    ));
    assert!(target.initiator.forget(read).is_some());

    let ping = target.initiator.nop(0, &[]).unwrap();
    let rejected = target.sent().remove(0).1;
    target
        .answer(Opcode::REJECT, NO_TAG, |bhs| bhs[2] = 4, &rejected[..48])
        .unwrap();
    let Some(Event::Rejected { reason, header }) = target.initiator.poll_event() else {
        panic!("no reject")
    };
    assert_eq!(
        (reason, &header[16..20]),
        (RejectReason::PROTOCOL_ERROR, &ping.to_be_bytes()[..])
    );

    let tag = target
        .initiator
        .logout(LogoutReason::CLOSE_SESSION)
        .unwrap();
    target
        .answer(Opcode::LOGOUT_RESPONSE, tag, |_| {}, &[])
        .unwrap();
    assert!(matches!(
        target.initiator.poll_event(),
        Some(Event::LoggedOut {
            response: LogoutResponse::CLOSED,
            ..
        })
    ));
    assert_eq!(target.initiator.outstanding(), 0);
}

#[test]
fn answers_to_what_tests_sent_are_handed_out() {
    let mut target = Target::logged_in(|_| {}, b"");
    let mut bhs = NopOutBhs::new_zeroed();
    (bhs.opcode, bhs.initiator_task_tag) = (0x40, 0x8000_0001.into());
    target.initiator.send_pdu(zerocopy::transmute!(bhs), b"x");
    assert_eq!(target.sent()[0].0.data_len, 1);
    target
        .answer(Opcode::NOP_IN, 0x8000_0001, |_| {}, b"x")
        .unwrap();
    let Some(Event::Other { bhs, data }) = target.initiator.poll_event() else {
        panic!("nothing")
    };
    assert_eq!((bhs[0], &data[..]), (Opcode::NOP_IN.0, &b"x"[..]));
}

proptest! {
    /// Nothing that a target can send makes the initiator panic, however it is cut.
    #[test]
    fn any_bytes_are_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096), cut in 1..200usize, strict in any::<bool>(),
    ) {
        for mut initiator in [
            Initiator::new(Config { strict, ..Config::discovery("iqn.i") }),
            Target::logged_in(|c| c.strict = strict, b"").initiator,
        ] {
            for piece in bytes.chunks(cut) {
                if initiator.handle_bytes(piece).is_err() {
                    break;
                }
            }
            while initiator.poll_event().is_some() {}
        }
    }

    /// Nor does a target that knows the opcodes and the tags but not the rules.
    #[test]
    fn any_headers_are_survived(
        pdus in proptest::collection::vec(
            (0..Opcode::KNOWN.len(), any::<[u8; 48]>(), 0..4u32, proptest::collection::vec(any::<u8>(), 0..64)), 1..20,
        ),
        strict in any::<bool>(),
    ) {
        let mut target = Target::logged_in(|c| c.strict = strict, b"");
        let tags = [
            target.read(40),
            target.write(&[3; 300_000]),
            target.initiator.text(0, b"A=b\0").unwrap(),
            target.initiator.nop(0, &[]).unwrap(),
        ];
        for (opcode, mut bhs, tag, data) in pdus {
            (bhs[0], bhs[4]) = (Opcode::KNOWN[opcode].0, 0);
            bhs[16..20].copy_from_slice(&tags[tag as usize].to_be_bytes());
            if strict {
                bhs[24..28].copy_from_slice(&target.initiator.exp_stat_sn().0.to_be_bytes());
            }
            let _ = target.send(bhs, &data);
        }
    }

    /// Reads arrive whole however the stream is cut.
    #[test]
    fn reads_do_not_depend_on_segmentation(data in proptest::collection::vec(any::<u8>(), 1..999), cut in 1..300usize) {
        let mut target = Target::logged_in(|_| {}, b"");
        let tag = target.read(data.len());
        let mut bhs = DataInBhs::new_zeroed();
        (bhs.opcode, bhs.flags) = (Opcode::DATA_IN.0, FINAL | STATUS);
        bhs.data_segment_length = length_to_24(u32::try_from(data.len()).unwrap());
        bhs.initiator_task_tag = tag.into();
        bhs.stat_sn = target.stat_sn.into();
        (bhs.exp_cmd_sn, bhs.max_cmd_sn) = (2.into(), 9.into());
        let mut bytes = EncodedHeader::new(&bhs, false).as_slice().to_vec();
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(EncodedTrailer::new(&data, false).as_slice());
        for piece in bytes.chunks(cut) {
            target.initiator.handle_bytes(piece).unwrap();
        }
        prop_assert_eq!(target.done().payload, Payload::Read(data));
    }
}
