//! The Login Phase (sections 6.3 and 4.2.4), with the sessions it leads to.

use std::time::Duration;

use ringtgt::initiator::{Config, DigestOffer, Error, Event, discovered};
use ringtgt::pdu::code::{LoginStatus, Opcode, RejectReason};
use ringtgt::session::login::{LoginError, Refusal};

use crate::common::cdb;
use crate::common::pair::{Closed, INITIATOR, Pair, Segments, Setup, TAG, TARGET};
use crate::common::random::Random;
use crate::common::raw;

fn config() -> Config {
    Config::normal(INITIATOR, TARGET)
}

#[test]
fn an_initiator_logs_in_and_reads_what_it_wrote() {
    let mut pair = Pair::new();
    let link = pair.login(config());
    let negotiated = pair.links[link].initiator.negotiated().unwrap();
    assert_eq!(negotiated.target_portal_group_tag, Some(TAG));
    assert_eq!(negotiated.target_alias.as_deref(), Some("A disk"));
    assert_ne!(negotiated.tsih, 0);
    pair.quiet(link);
    pair.assert_works(link);
}

#[test]
fn a_login_may_start_in_the_operational_stage() {
    let mut pair = Pair::new();
    let link = pair.login(Config {
        skip_security: true,
        ..config()
    });
    pair.quiet(link);
    pair.assert_works(link);
}

#[test]
fn without_a_single_offer_the_defaults_hold_on_both_sides() {
    let mut pair = Pair::new();
    let left_out = [
        "HeaderDigest",
        "DataDigest",
        "MaxRecvDataSegmentLength",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "ErrorRecoveryLevel",
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "SessionType",
    ];
    let link = pair.login(Config {
        left_out: left_out.map(str::to_owned).to_vec(),
        ..config()
    });
    let negotiated = pair.links[link].initiator.negotiated().unwrap();
    assert_eq!(negotiated.max_recv_data_segment_length, 8192);
    assert!(negotiated.initial_r2t && negotiated.immediate_data);
    pair.quiet(link);
    let data = pair.random.bytes(300 * 1024);
    pair.write(link, 0, &data);
    assert_eq!(pair.read(link, 0, 600), data);
    pair.assert_well(link);
}

#[test]
fn however_the_bytes_are_cut_a_session_works() {
    for segments in [
        Segments::Of(1),
        Segments::Of(47),
        Segments::Of(49),
        Segments::Random,
    ] {
        let mut pair = Pair::with(Setup {
            segments,
            ..Setup::default()
        });
        let link = pair.quiet_session();
        pair.assert_works(link);
    }
}

#[test]
fn an_unknown_target_is_not_found() {
    let mut pair = Pair::new();
    let link = pair.connect(Config::normal(INITIATOR, "iqn.2001-04.com.example:nothing"));
    pair.run();
    assert!(matches!(
        pair.links[link].error,
        Some(Error::Refused {
            status: LoginStatus::NOT_FOUND,
            ..
        })
    ));
    pair.assert_closed(
        link,
        Closed::Login(LoginError::Refused(Refusal::TargetNotFound)),
    );
}

#[test]
fn a_session_that_does_not_exist_cannot_be_joined() {
    let mut pair = Pair::new();
    let link = pair.connect(Config {
        tsih: 77,
        ..config()
    });
    pair.run();
    assert!(matches!(
        pair.links[link].error,
        Some(Error::Refused {
            status: LoginStatus::SESSION_DOES_NOT_EXIST,
            ..
        })
    ));
}

#[test]
fn a_connection_that_says_nothing_is_closed_in_time() {
    let mut pair = Pair::new();
    let link = pair.connect(config());
    pair.links[link].initiator.transmitted(usize::MAX);
    pair.wait(Duration::from_secs(14));
    assert_eq!(pair.links[link].closed, None);
    pair.wait(Duration::from_secs(2));
    pair.assert_closed(link, Closed::Login(LoginError::Deadline));
}

#[test]
fn anything_but_a_login_request_ends_the_connection_without_an_answer() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x40; 48],
        &[0xff; 4096],
        &[0; 1],
    ] {
        let mut pair = Pair::new();
        let link = pair.connect(config());
        pair.links[link].initiator.transmitted(usize::MAX);
        pair.links[link].initiator.send_raw(bytes);
        pair.run();
        let opcode = Opcode(bytes[0] & 0x3f);
        pair.assert_closed(link, Closed::Login(LoginError::NotLogin(opcode)));
        assert_eq!(pair.links[link].error, None, "nothing was answered");
    }
}

#[test]
fn a_login_request_in_the_full_feature_phase_is_rejected_or_ends_the_connection() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let mut again = raw::bytes(&raw::nop_out(raw::TAG));
    again[0] = 0x43;
    pair.links[link].initiator.send_pdu(again, &[]);
    pair.run();
    let rejected = raw::rejects(&mut pair, link) == [RejectReason::PROTOCOL_ERROR];
    assert!(rejected || pair.links[link].closed.is_some());
}

#[test]
fn a_discovery_session_lists_the_target_and_takes_no_command() {
    let mut pair = Pair::new();
    let link = pair.login(Config::discovery(INITIATOR));
    pair.links[link]
        .initiator
        .text(5, b"SendTargets=All\0")
        .unwrap();
    pair.run();
    let Some(Event::Text { cookie: 5, text }) = pair.event(link) else {
        panic!("no text")
    };
    assert_eq!(
        discovered(&text),
        [(TARGET.to_owned(), vec!["127.0.0.1:3260,1".to_owned()])]
    );
    let read = raw::command(raw::TAG, 0xc0, 512, cdb::read_10(0, 1));
    raw::send(&mut pair, link, &read, &[]);
    pair.run();
    assert_eq!(raw::rejects(&mut pair, link).len(), 1);
    assert!(pair.disk().take_log().is_empty());
}

#[test]
fn sessions_of_several_initiators_live_side_by_side_on_several_cores() {
    let mut pair = Pair::with(Setup {
        shards: 2,
        ..Setup::default()
    });
    let links: Vec<_> = (0..6).map(|_| pair.quiet_session()).collect();
    for (n, &link) in (0u8..).zip(&links) {
        pair.write(link, u32::from(n), &[n; 512]);
    }
    for &link in &links {
        let data = pair.read(link, 0, 6);
        let seen: Vec<_> = data.chunks(512).map(|block| block[0]).collect();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        pair.assert_well(link);
    }
}

#[test]
fn sessions_beyond_the_memory_are_refused_and_those_that_are_open_work() {
    let mut pair = Pair::with(Setup {
        pool_bytes: 2 << 20,
        ..Setup::default()
    });
    let mut open = Vec::new();
    let mut refused = 0;
    for number in 0..24u8 {
        let mut config = config();
        config.isid[5] = number;
        let link = pair.connect(config);
        pair.run();
        match pair.links[link].error {
            None => {
                assert!(
                    matches!(pair.event(link), Some(Event::LoggedIn)),
                    "no answer at all"
                );
                open.push(link);
            }
            Some(Error::Refused {
                status: LoginStatus::OUT_OF_RESOURCES,
                ..
            }) => refused += 1,
            ref other => panic!("{other:?}"),
        }
    }
    assert!(
        open.len() > 2 && refused > 0,
        "{} open, {refused} refused",
        open.len()
    );
    for &link in &open {
        pair.quiet(link);
        pair.assert_works(link);
    }
    // Where one leaves there is room for another.
    pair.cut(open[0]);
    pair.run();
    let next = pair.session();
    pair.quiet(next);
    pair.assert_works(next);
    pair.assert_all_comes_back();
}

#[test]
fn blocks_of_4096_bytes_are_served() {
    let mut pair = Pair::with(Setup {
        block_size: ringtgt::units::BlockSize::B4096,
        ..Setup::default()
    });
    let link = pair.quiet_session();
    let data = pair.random.bytes(3 * 4096);
    let done = pair.command(
        link,
        cdb::write_10(7, 3),
        ringtgt::initiator::Payload::Write(data.clone()),
    );
    assert!(done.is_good());
    assert!(pair.disk().bytes()[7 * 4096..10 * 4096] == data);
    let done = pair.command(
        link,
        cdb::read_10(7, 3),
        ringtgt::initiator::Payload::Read(vec![0; 3 * 4096]),
    );
    assert_eq!(done.payload, ringtgt::initiator::Payload::Read(data));
    pair.assert_well(link);
}

#[test]
fn whatever_is_offered_both_sides_agree_and_data_moves() {
    let keys = [
        "HeaderDigest",
        "DataDigest",
        "MaxRecvDataSegmentLength",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "ErrorRecoveryLevel",
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
    ];
    let digests = [
        DigestOffer::Off,
        DigestOffer::Required,
        DigestOffer::Preferred,
        DigestOffer::Tolerated,
    ];
    let mut pair = Pair::with(Setup {
        segments: Segments::Random,
        ..Setup::default()
    });
    for _ in 0..150 {
        let random = &mut pair.random;
        let mut config = config();
        let below =
            |random: &mut Random, most: u64| 512 + u32::try_from(random.below(most)).unwrap();
        let offers = &mut config.offers;
        offers.header_digest = digests[random.index(4)];
        offers.data_digest = digests[random.index(4)];
        offers.initial_r2t = random.chance(2);
        offers.immediate_data = random.chance(2);
        offers.max_recv_data_segment_length = below(random, 300_000);
        offers.max_burst_length = below(random, 2_000_000);
        offers.first_burst_length = below(random, 100_000).min(offers.max_burst_length);
        offers.max_outstanding_r2t = 1 + u16::try_from(random.below(20)).unwrap();
        offers.max_connections = 1 + u16::try_from(random.below(20)).unwrap();
        offers.error_recovery_level = u8::try_from(random.below(3)).unwrap();
        offers.default_time2wait = u16::try_from(random.below(3601)).unwrap();
        offers.default_time2retain = u16::try_from(random.below(3601)).unwrap();
        config.skip_security = random.chance(2);
        config.left_out = keys
            .iter()
            .filter(|_| random.chance(6))
            .map(|&k| k.to_owned())
            .collect();
        config.extra_keys = [
            ("TaskReporting", "FastAbort,RFC3720"),
            ("iSCSIProtocolLevel", "2"),
            ("X-com.example.a", "b"),
            ("IFMarker", "No"),
            ("OFMarkInt", "2048~8192"),
        ]
        .into_iter()
        .filter(|_| random.chance(2))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        let link = pair.login(config);
        pair.quiet(link);
        pair.assert_works(link);
    }
}
