//! The Login Phase as a whole: RFC 7143, sections 6.1 to 6.4, 11.12, 11.13, 12.1 and 13.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::pdu::bhs::{
    BHS_LEN, CONTINUE, FINAL, IMMEDIATE, LoginRequestBhs, LoginResponseBhs, length_from_24,
    length_to_24,
};
use crate::pdu::code::{LoginStatus, Opcode, RejectReason};
use crate::pdu::padding;
use crate::pdu::text::{Pairs, boolean, number};
use crate::session::target::PortalGroup;

const INITIATOR: &str = "iqn.1994-05.com.example:host";
const DISK: &str = "iqn.2001-04.com.example:disk";
const NAMES: &str =
    "InitiatorName=iqn.1994-05.com.example:host|TargetName=iqn.2001-04.com.example:disk|";
const ISID: [u8; 6] = [0x40, 0, 1, 0x37, 0, 0];

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
const T: u8 = FINAL;

const fn stages(current: u8, next: u8) -> u8 {
    current << 2 | next
}
/// CSG 1, NSG 3, T: everything in one request.
const ONE_STEP: u8 = T | stages(OPERATIONAL, FULL_FEATURE);

fn targets() -> Arc<TargetSet> {
    let target = |name: &str, tag, portal: &str| {
        Arc::new(Target {
            name: name.into(),
            alias: Some("A disk".into()),
            portal_groups: vec![PortalGroup {
                tag,
                portals: vec![portal.parse().unwrap()],
            }],
            luns: Vec::new(),
        })
    };
    Arc::new(TargetSet {
        targets: vec![
            target(DISK, 7, "127.0.0.1:3260"),
            target("iqn.2001-04.com.example:elsewhere", 1, "127.0.0.2:3260"),
        ],
    })
}

fn portal() -> SocketAddr {
    "127.0.0.1:3260".parse().unwrap()
}

fn header(flags: u8, len: usize) -> LoginRequestBhs {
    LoginRequestBhs {
        opcode: Opcode::LOGIN_REQUEST.0 | IMMEDIATE,
        flags,
        version_max: 0,
        version_min: 0,
        total_ahs_length: 0,
        data_segment_length: length_to_24(u32::try_from(len).unwrap()),
        isid: ISID,
        tsih: 0.into(),
        initiator_task_tag: 0x1234.into(),
        cid: 1.into(),
        reserved_22: [0; 2],
        cmd_sn: 100.into(),
        exp_stat_sn: 0.into(),
        reserved_32: [0; 16],
    }
}

fn bytes(bhs: &LoginRequestBhs, text: &[u8]) -> Vec<u8> {
    let mut pdu = [bhs.as_bytes(), text].concat();
    pdu.resize(pdu.len() + padding(text.len()), 0);
    pdu
}

/// A Login Request; "|" in the text stands for NUL.
fn request(flags: u8, text: &str) -> Vec<u8> {
    let text = text.replace('|', "\0");
    bytes(&header(flags, text.len()), text.as_bytes())
}

/// A request whose header was changed by `change`.
fn changed(flags: u8, text: &str, change: impl FnOnce(&mut LoginRequestBhs)) -> Vec<u8> {
    let text = text.replace('|', "\0");
    let mut bhs = header(flags, text.len());
    change(&mut bhs);
    bytes(&bhs, text.as_bytes())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Response {
    flags: u8,
    status: LoginStatus,
    tsih: u16,
    stat_sn: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    /// "|" stands for NUL.
    text: String,
}

fn responses(mut sent: &[u8]) -> Vec<Response> {
    let mut all = Vec::new();
    while !sent.is_empty() {
        let (bhs, rest) = LoginResponseBhs::ref_from_prefix(sent).unwrap();
        let len = length_from_24(bhs.data_segment_length) as usize;
        assert_eq!(Opcode(bhs.opcode), Opcode::LOGIN_RESPONSE);
        assert!(len <= 8192 && bhs.flags & CONTINUE == 0);
        all.push(Response {
            flags: bhs.flags,
            status: LoginStatus(bhs.status.get()),
            tsih: bhs.tsih.get(),
            stat_sn: bhs.stat_sn.get(),
            exp_cmd_sn: bhs.exp_cmd_sn.get(),
            max_cmd_sn: bhs.max_cmd_sn.get(),
            text: String::from_utf8(rest[..len].to_vec())
                .unwrap()
                .replace('\0', "|"),
        });
        sent = &rest[len + padding(len)..];
    }
    all
}

/// What a whole login came to.
struct Played {
    responses: Vec<Response>,
    outcome: Result<Option<Established>, LoginError>,
}

impl Played {
    fn established(self) -> Established {
        self.outcome.unwrap().expect("the login is not complete")
    }
    fn params(self) -> OperationalParams {
        self.established().params
    }
    fn refusal(&self) -> (LoginStatus, Refusal) {
        let Err(LoginError::Refused(refusal)) = self.outcome else {
            panic!("not refused: {:?}", self.outcome);
        };
        let last = self.responses.last().unwrap();
        assert_eq!((last.status, last.flags), (refusal.status(), 0));
        (last.status, refusal)
    }
}

const TSIH: u16 = 0x55;

/// Plays a stream of bytes, cut at `cut(remaining)`, to a login that is placed at once.
fn play_cut(
    stream: &[u8],
    placement: Result<u16, LoginStatus>,
    mut cut: impl FnMut(usize) -> usize,
) -> Played {
    let now = Instant::now();
    let mut login = Login::new(targets(), portal(), LoginLimits::default(), now);
    let mut sent = Vec::new();
    let mut outcome = Ok(None);
    let mut rest = stream;
    let mut complete = false;
    while !rest.is_empty() && outcome.is_ok() && !complete {
        let room = login.receive_into();
        let len = cut(rest.len()).clamp(1, rest.len()).min(room.len());
        room[..len].copy_from_slice(&rest[..len]);
        rest = &rest[len..];
        let mut result = login.handle_received(now, len);
        while let Some(event) = login.poll_event() {
            match event {
                LoginEvent::Place(_) => result = result.and(login.placed(placement)),
                LoginEvent::Complete => complete = true,
            }
        }
        sent.extend_from_slice(login.poll_transmit());
        let len = login.poll_transmit().len();
        login.transmitted(len);
        outcome = result.map(|()| None);
    }
    if complete {
        let mut established = login.finish(32);
        sent.extend_from_slice(&established.response);
        established.received.extend_from_slice(rest);
        outcome = Ok(Some(established));
    }
    Played {
        responses: responses(&sent),
        outcome,
    }
}

fn play(requests: &[Vec<u8>]) -> Played {
    play_cut(&requests.concat(), Ok(TSIH), |rest| rest)
}

fn one_step(keys: &str) -> Played {
    play(&[request(ONE_STEP, &format!("{NAMES}{keys}"))])
}

fn answer_to<'a>(response: &'a Response, key: &str) -> Option<&'a str> {
    let mut pairs = response.text.split('|').filter_map(|p| p.split_once('='));
    pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
}

#[track_caller]
fn refused(requests: &[Vec<u8>], status: LoginStatus, why: Refusal) {
    assert_eq!(play(requests).refusal(), (status, why));
}

// Stages and headers: sections 6.3, 11.12 and 11.13.

#[test]
fn one_request_is_enough_for_a_whole_login() {
    let played = play(&[request(ONE_STEP, NAMES)]);
    assert_eq!(
        played.responses,
        [Response {
            flags: ONE_STEP,
            status: LoginStatus::SUCCESS,
            tsih: TSIH,
            stat_sn: 0,
            exp_cmd_sn: 100,
            max_cmd_sn: 131,
            text: "TargetPortalGroupTag=7|TargetAlias=A disk|MaxRecvDataSegmentLength=262144|"
                .into(),
        }]
    );
    let established = played.established();
    assert_eq!(established.initiator_name, INITIATOR);
    assert_eq!((established.tsih, established.cid), (TSIH, 1));
    assert_eq!(established.portal_group_tag, 7);
    assert_eq!(established.target.unwrap().name, DISK);
    assert_eq!(established.cmd_sn, SerialNumber(100));
    assert_eq!(established.stat_sn, SerialNumber(1));
    assert!(!established.discovery && established.received.is_empty());
    let (bhs, _) = LoginResponseBhs::ref_from_prefix(&established.response).unwrap();
    assert_eq!((bhs.isid, bhs.initiator_task_tag.get()), (ISID, 0x1234));
    assert_eq!(
        established.params,
        OperationalParams {
            max_recv_data_segment_length: 262_144,
            ..OperationalParams::DEFAULT
        }
    );
}

#[test]
fn both_stages_follow_each_other_and_stat_sn_counts() {
    let played = play(&[
        request(
            T | stages(SECURITY, OPERATIONAL),
            &format!("{NAMES}AuthMethod=CHAP,None|"),
        ),
        request(
            stages(OPERATIONAL, 0),
            "MaxBurstLength=16384|FirstBurstLength=8192|",
        ),
        request(ONE_STEP, "ImmediateData=No|"),
    ]);
    let seen: Vec<_> = played
        .responses
        .iter()
        .map(|r| (r.flags, r.stat_sn, r.tsih))
        .collect();
    assert_eq!(
        seen,
        [
            (T | stages(SECURITY, OPERATIONAL), 0, 0),
            (stages(OPERATIONAL, 0), 1, 0),
            (ONE_STEP, 2, TSIH)
        ]
    );
    assert_eq!(
        played.responses[0].text,
        "TargetPortalGroupTag=7|TargetAlias=A disk|AuthMethod=None|"
    );
    assert_eq!(
        played.responses[1].text,
        "MaxBurstLength=16384|FirstBurstLength=8192|MaxRecvDataSegmentLength=262144|"
    );
    assert_eq!(played.responses[2].text, "ImmediateData=No|");
    let params = played.params();
    assert!(!params.immediate_data);
    assert_eq!(
        (params.max_burst_length, params.first_burst_length),
        (16_384, 8192)
    );
}

#[test]
fn security_may_lead_straight_to_the_full_feature_phase_with_every_default() {
    let flags = T | stages(SECURITY, FULL_FEATURE);
    let played = play(&[request(flags, NAMES)]);
    assert_eq!(
        (played.responses[0].flags, played.responses[0].tsih),
        (flags, TSIH)
    );
    assert_eq!(played.params(), OperationalParams::DEFAULT);
}

#[test]
fn without_t_in_the_request_there_is_no_t_in_the_response() {
    let played = play(&[
        request(stages(SECURITY, OPERATIONAL), NAMES),
        request(stages(SECURITY, 0), "AuthMethod=None|"),
        request(stages(SECURITY, 0), ""),
    ]);
    assert!(
        played
            .responses
            .iter()
            .all(|r| r.flags == stages(SECURITY, 0))
    );
    assert_eq!(played.responses.len(), 3);
    assert!(matches!(played.outcome, Ok(None)));
}

#[test]
fn a_stage_never_goes_back_and_is_never_made_up() {
    let stage = |flags| {
        refused(
            &[request(flags, NAMES)],
            LoginStatus::INITIATOR_ERROR,
            Refusal::Stage,
        )
    };
    stage(stages(2, 0));
    stage(stages(FULL_FEATURE, 0));
    stage(T | stages(SECURITY, SECURITY));
    stage(T | stages(SECURITY, 2));
    stage(T | stages(OPERATIONAL, OPERATIONAL));
    stage(T | stages(OPERATIONAL, SECURITY));
    refused(
        &[
            request(T | stages(SECURITY, OPERATIONAL), NAMES),
            request(stages(SECURITY, 0), ""),
        ],
        LoginStatus::INITIATOR_ERROR,
        Refusal::Stage,
    );
    refused(
        &[request(stages(SECURITY, 0), NAMES), request(ONE_STEP, "")],
        LoginStatus::INITIATOR_ERROR,
        Refusal::Stage,
    );
}

#[test]
fn a_request_cannot_both_continue_and_transit() {
    refused(
        &[request(ONE_STEP | CONTINUE, NAMES)],
        LoginStatus::INITIATOR_ERROR,
        Refusal::ContinueAndTransit,
    );
}

#[test]
fn continued_text_is_one_text_and_each_piece_is_answered_with_none() {
    let text = format!("{NAMES}MaxBurstLength=16384|FirstBurstLength=512|").replace('|', "\0");
    let (a, rest) = text.split_at(9);
    let (b, c) = rest.split_at(61);
    let piece = |flags, text: &str| bytes(&header(flags, text.len()), text.as_bytes());
    let played = play(&[
        piece(CONTINUE | stages(OPERATIONAL, 0), a),
        piece(CONTINUE | stages(OPERATIONAL, 0), b),
        piece(ONE_STEP, c),
    ]);
    for (n, response) in played.responses[..2].iter().enumerate() {
        assert_eq!(
            (
                response.flags,
                response.text.as_str(),
                response.stat_sn as usize
            ),
            (stages(OPERATIONAL, 0), "", n)
        );
    }
    assert!(
        played.responses[2]
            .text
            .starts_with("TargetPortalGroupTag=7|")
    );
    assert_eq!(played.params().max_burst_length, 16_384);
}

#[test]
fn the_header_of_a_login_does_not_change() {
    let changes: [fn(&mut LoginRequestBhs); 6] = [
        |bhs| bhs.isid[5] ^= 1,
        |bhs| bhs.tsih = 9.into(),
        |bhs| bhs.cid = 9.into(),
        |bhs| bhs.initiator_task_tag = 9.into(),
        |bhs| bhs.version_max = 1,
        |bhs| bhs.version_min = 1,
    ];
    for change in changes {
        refused(
            &[
                request(stages(OPERATIONAL, 0), NAMES),
                changed(ONE_STEP, "", change),
            ],
            LoginStatus::INITIATOR_ERROR,
            Refusal::HeaderChanged,
        );
    }
}

#[test]
fn the_first_cmd_sn_counts() {
    let played = play(&[
        request(stages(OPERATIONAL, 0), NAMES),
        changed(ONE_STEP, "", |bhs| bhs.cmd_sn = 777.into()),
    ]);
    assert_eq!(played.established().cmd_sn, SerialNumber(100));
}

#[test]
fn only_version_0_is_spoken() {
    let version = |min, max| {
        play(&[changed(ONE_STEP, NAMES, |bhs| {
            bhs.version_min = min;
            bhs.version_max = max;
        })])
    };
    assert_eq!(version(1, 2).refusal().0, LoginStatus::UNSUPPORTED_VERSION);
    assert!(version(0, 2).outcome.is_ok());
}

#[test]
fn before_the_login_another_pdu_is_not_even_answered() {
    for opcode in [
        Opcode::NOP_OUT,
        Opcode::TEXT_REQUEST,
        Opcode::LOGOUT_REQUEST,
        Opcode(0x3f),
    ] {
        let played = play(&[changed(0, "", |bhs| bhs.opcode = opcode.0 | IMMEDIATE)]);
        assert_eq!(played.outcome.unwrap_err(), LoginError::NotLogin(opcode));
        assert!(played.responses.is_empty());
    }
}

#[test]
fn within_the_login_another_pdu_is_refused_as_such() {
    refused(
        &[
            request(stages(OPERATIONAL, 0), NAMES),
            changed(0x80, "", |bhs| bhs.opcode = Opcode::NOP_OUT.0),
        ],
        LoginStatus::INVALID_DURING_LOGIN,
        Refusal::OtherPdu(Opcode::NOP_OUT),
    );
}

#[test]
fn a_length_that_a_login_request_cannot_have_is_refused_before_the_data_comes() {
    let mut too_long = header(ONE_STEP, 8193);
    let mut with_ahs = header(ONE_STEP, 0);
    with_ahs.total_ahs_length = 1;
    for bhs in [&mut too_long, &mut with_ahs] {
        refused(
            &[bhs.as_bytes().to_vec()],
            LoginStatus::INITIATOR_ERROR,
            Refusal::Length,
        );
    }
    let text = format!("{NAMES}X-com.example.filler={}|", "a".repeat(8000));
    assert!(play(&[request(ONE_STEP, &text)]).outcome.is_ok());
}

#[test]
fn text_and_requests_without_end_are_refused() {
    let filler = "a".repeat(8192);
    let piece = |text| request(CONTINUE | stages(OPERATIONAL, 0), text);
    refused(
        &[piece(NAMES), piece(&filler), piece(&filler)],
        LoginStatus::INITIATOR_ERROR,
        Refusal::TooLong,
    );
    let endless: Vec<_> = (0..200).map(|_| piece("")).collect();
    refused(&endless, LoginStatus::INITIATOR_ERROR, Refusal::TooLong);
}

#[test]
fn a_login_has_a_deadline_that_no_byte_moves() {
    let now = Instant::now();
    let mut login = Login::new(targets(), portal(), LoginLimits::default(), now);
    let deadline = login.poll_timeout().unwrap();
    assert_eq!(deadline, now + Duration::from_secs(15));
    let pdu = request(stages(OPERATIONAL, 0), NAMES);
    login.receive_into()[..pdu.len()].copy_from_slice(&pdu);
    login
        .handle_received(deadline - Duration::from_millis(1), pdu.len())
        .unwrap();
    assert!(matches!(login.poll_event(), Some(LoginEvent::Place(_))));
    login.placed(Ok(1)).unwrap();
    assert_eq!(login.poll_timeout(), Some(deadline));
    assert_eq!(login.handle_timeout(deadline), Err(LoginError::Deadline));
    assert_eq!(
        login.handle_received(deadline, 0),
        Err(LoginError::Deadline)
    );
    assert_eq!(login.poll_timeout(), None);
}

#[test]
fn a_login_takes_few_bytes_before_its_first_request() {
    let mut login = Login::new(targets(), portal(), LoginLimits::default(), Instant::now());
    assert!(login.receive_into().len() <= 4096);
}

#[test]
fn an_initiator_that_does_not_wait_for_its_answer_is_dropped() {
    let now = Instant::now();
    let mut login = Login::new(targets(), portal(), LoginLimits::default(), now);
    let first = request(ONE_STEP, NAMES);
    login.receive_into()[..first.len()].copy_from_slice(&first);
    login.handle_received(now, first.len()).unwrap();
    let mut result = Ok(());
    for _ in 0..100 {
        let room = login.receive_into();
        assert!(!room.is_empty());
        room.fill(0);
        let len = room.len();
        result = login.handle_received(now, len);
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result, Err(LoginError::TooMuchInput));
}

#[test]
fn bytes_behind_the_last_request_are_handed_on() {
    let mut stream = request(ONE_STEP, NAMES);
    stream.extend_from_slice(b"the next PDU");
    let established = play_cut(&stream, Ok(TSIH), |rest| rest).established();
    assert_eq!(established.received, b"the next PDU");
}

#[test]
fn an_unsent_response_is_handed_on_before_the_last_one() {
    let now = Instant::now();
    let mut login = Login::new(targets(), portal(), LoginLimits::default(), now);
    for pdu in [
        request(stages(OPERATIONAL, 0), NAMES),
        request(ONE_STEP, ""),
    ] {
        login.receive_into()[..pdu.len()].copy_from_slice(&pdu);
        login.handle_received(now, pdu.len()).unwrap();
        if let Some(LoginEvent::Place(_)) = login.poll_event() {
            login.placed(Ok(TSIH)).unwrap();
            login.transmitted(10);
        }
    }
    assert!(login.poll_event().is_none());
    let first = login.poll_transmit().to_vec();
    let established = login.finish(1);
    assert!(established.response.starts_with(&first));
    assert_eq!(
        responses(&established.response[first.len()..])[0].stat_sn,
        1
    );
}

#[test]
fn a_login_moves_between_reactors() {
    fn movable<T: Send>() {}
    movable::<Login>();
    movable::<Established>();
}

// Names and placement: sections 4.2.7, 6.3.1, 13.4, 13.5, 13.9 and 13.21.

#[test]
fn the_directory_hears_who_logs_in_to_what_before_anything_is_answered() {
    let now = Instant::now();
    let mut login = Login::new(targets(), portal(), LoginLimits::default(), now);
    let pdu = changed(
        ONE_STEP,
        "InitiatorName=IQN.1994-05.com.Example:Host|TargetName=iqn.2001-04.com.example:DISK|",
        |bhs| bhs.tsih = 3.into(),
    );
    login.receive_into()[..pdu.len()].copy_from_slice(&pdu);
    login.handle_received(now, pdu.len()).unwrap();
    assert!(login.poll_transmit().is_empty());
    let Some(LoginEvent::Place(place)) = login.poll_event() else {
        panic!("not asked to place")
    };
    assert_eq!(place.initiator_name, INITIATOR);
    assert_eq!((place.isid, place.tsih, place.cid), (ISID, 3, 1));
    assert_eq!(place.target.unwrap().name, DISK);
    assert_eq!((place.portal_group_tag, place.discovery), (7, false));
    assert!(login.poll_event().is_none());
    assert_eq!(
        login.placed(Err(LoginStatus::SESSION_DOES_NOT_EXIST)),
        Err(LoginError::Refused(Refusal::Placement(
            LoginStatus::SESSION_DOES_NOT_EXIST
        )))
    );
    assert_eq!(
        responses(login.poll_transmit())[0].status,
        LoginStatus::SESSION_DOES_NOT_EXIST
    );
}

#[test]
fn names_that_are_missing_or_wrong_are_refused_by_their_status() {
    use LoginStatus as S;
    use Refusal as R;
    for (text, status, why) in [
        ("", S::MISSING_PARAMETER, R::NoInitiatorName),
        (
            "TargetName=iqn.2001-04.com.example:disk|",
            S::MISSING_PARAMETER,
            R::NoInitiatorName,
        ),
        ("InitiatorName=|", S::MISSING_PARAMETER, R::NoInitiatorName),
        ("InitiatorName=host|", S::INITIATOR_ERROR, R::InitiatorName),
        (
            "InitiatorName=iqn.1994-05.com.example|",
            S::MISSING_PARAMETER,
            R::NoTargetName,
        ),
        (
            "InitiatorName=iqn.1994-05.com.example|TargetName=|",
            S::MISSING_PARAMETER,
            R::NoTargetName,
        ),
        (
            "InitiatorName=iqn.1994-05.com.example|TargetName=x|",
            S::NOT_FOUND,
            R::TargetNotFound,
        ),
        (
            "InitiatorName=iqn.1994-05.com.example|TargetName=iqn.2001-04.com.example:elsewhere|",
            S::NOT_FOUND,
            R::TargetNotFound,
        ),
        (
            "InitiatorName=iqn.1994-05.com.example|SessionType=Other|",
            S::SESSION_TYPE_NOT_SUPPORTED,
            R::SessionType,
        ),
    ] {
        for flags in [ONE_STEP, stages(SECURITY, 0)] {
            refused(&[request(flags, text)], status, why);
        }
    }
}

#[test]
fn names_come_with_the_first_request_or_never() {
    for key in [
        "InitiatorName=iqn.1994-05.com.example|",
        "SessionType=Normal|",
        "TargetName=x|",
    ] {
        refused(
            &[
                request(stages(OPERATIONAL, 0), NAMES),
                request(ONE_STEP, key),
            ],
            LoginStatus::INITIATOR_ERROR,
            Refusal::KeyOutOfPlace,
        );
    }
}

#[test]
fn a_discovery_session_needs_no_target() {
    let text = "InitiatorName=iqn.1994-05.com.example:host|SessionType=Discovery|MaxBurstLength=512|\
                HeaderDigest=CRC32C|DefaultTime2Wait=0|";
    let played = play(&[request(ONE_STEP, text)]);
    let response = &played.responses[0];
    assert_eq!(
        response.text,
        "TargetPortalGroupTag=7|MaxBurstLength=Irrelevant|HeaderDigest=CRC32C|DefaultTime2Wait=2|\
         MaxRecvDataSegmentLength=262144|"
    );
    let established = played.established();
    assert!(established.discovery && established.target.is_none());
    assert!(established.params.header_digest);
}

#[test]
fn the_directory_decides_about_sessions_that_exist() {
    let pdu = changed(ONE_STEP, NAMES, |bhs| bhs.tsih = 9.into());
    let played = play_cut(&pdu, Err(LoginStatus::SESSION_DOES_NOT_EXIST), |rest| rest);
    assert_eq!(played.refusal().0, LoginStatus::SESSION_DOES_NOT_EXIST);
    let played = play_cut(&pdu, Ok(9), |rest| rest);
    assert_eq!(played.established().tsih, 9);
}

#[test]
fn session_wide_keys_are_for_the_first_connection_only() {
    let text = format!("{NAMES}MaxBurstLength=512|");
    refused(
        &[changed(ONE_STEP, &text, |bhs| bhs.tsih = 9.into())],
        LoginStatus::INITIATOR_ERROR,
        Refusal::KeyOutOfPlace,
    );
}

// AuthMethod: section 12.1.

#[test]
fn none_is_chosen_from_a_list_and_nothing_else_is() {
    let auth = |list: &str| {
        play(&[request(
            T | stages(SECURITY, OPERATIONAL),
            &format!("{NAMES}AuthMethod={list}|"),
        )])
    };
    for list in ["None", "CHAP,None", "KRB5,X,None"] {
        let played = auth(list);
        assert_eq!(answer_to(&played.responses[0], "AuthMethod"), Some("None"));
    }
    for list in ["CHAP", "KRB5,SRP", ""] {
        assert_eq!(
            auth(list).refusal(),
            (LoginStatus::AUTHENTICATION_FAILURE, Refusal::AuthMethod)
        );
    }
}

// Keys: sections 6.2 and 13.

#[test]
fn every_rule_gives_its_answer() {
    let keys = "HeaderDigest=CRC32C,None|DataDigest=None,CRC32C|MaxConnections=8|InitialR2T=No|\
                ImmediateData=Yes|MaxRecvDataSegmentLength=65536|MaxBurstLength=0x1000000|\
                FirstBurstLength=262144|DefaultTime2Wait=0|DefaultTime2Retain=3600|MaxOutstandingR2T=64|\
                DataPDUInOrder=No|DataSequenceInOrder=No|ErrorRecoveryLevel=2|TaskReporting=FastAbort,RFC3720|\
                iSCSIProtocolLevel=2|IFMarker=Yes|OFMarker=No|IFMarkInt=1~2|OFMarkInt=1~2|\
                X-com.example.color=blue|X#NodeArchitecture=a,b|InitiatorAlias=me|Novelty=1|";
    // 0x1000000 is one more than a length can be.
    let played = one_step(&keys.replace("0x1000000", "0xffffff"));
    assert_eq!(
        played.responses[0].text,
        "TargetPortalGroupTag=7|TargetAlias=A disk|HeaderDigest=CRC32C|DataDigest=None|MaxConnections=1|\
         InitialR2T=No|ImmediateData=Yes|MaxBurstLength=1048576|DefaultTime2Wait=2|\
         DefaultTime2Retain=0|MaxOutstandingR2T=8|DataPDUInOrder=Yes|DataSequenceInOrder=Yes|\
         ErrorRecoveryLevel=0|TaskReporting=RFC3720|iSCSIProtocolLevel=1|IFMarker=Reject|OFMarker=Reject|\
         IFMarkInt=Reject|OFMarkInt=Reject|X-com.example.color=NotUnderstood|Novelty=NotUnderstood|\
         FirstBurstLength=65536|MaxRecvDataSegmentLength=262144|"
    );
    assert_eq!(
        played.params(),
        OperationalParams {
            header_digest: true,
            data_digest: false,
            initial_r2t: false,
            immediate_data: true,
            max_send_data_segment_length: 65_536,
            max_recv_data_segment_length: 262_144,
            max_burst_length: 1 << 20,
            first_burst_length: 65_536,
            max_outstanding_r2t: 8,
            default_time2wait: 2,
            default_time2retain: 0,
            error_recovery_level: 0,
        }
    );
    let played = one_step(keys);
    assert_eq!(
        answer_to(&played.responses[0], "MaxBurstLength"),
        Some("Reject")
    );
    assert_eq!(played.params().max_burst_length, 262_144);
}

#[test]
fn a_proposal_out_of_range_is_rejected_and_the_default_stays() {
    for (proposal, key) in [
        ("MaxConnections=0", "MaxConnections"),
        ("MaxConnections=65536", "MaxConnections"),
        ("MaxBurstLength=511", "MaxBurstLength"),
        ("FirstBurstLength=16777216", "FirstBurstLength"),
        ("MaxOutstandingR2T=0", "MaxOutstandingR2T"),
        ("DefaultTime2Wait=3601", "DefaultTime2Wait"),
        ("ErrorRecoveryLevel=3", "ErrorRecoveryLevel"),
        ("InitialR2T=yes", "InitialR2T"),
        ("ImmediateData=1", "ImmediateData"),
        ("HeaderDigest=MD5", "HeaderDigest"),
        ("HeaderDigest=", "HeaderDigest"),
        (
            "DefaultTime2Retain=99999999999999999999999",
            "DefaultTime2Retain",
        ),
        ("MaxBurstLength=4k", "MaxBurstLength"),
        ("MaxBurstLength=512~1024", "MaxBurstLength"),
    ] {
        let played = one_step(&format!("{proposal}|"));
        assert_eq!(
            answer_to(&played.responses[0], key),
            Some("Reject"),
            "{proposal}"
        );
        assert_eq!(
            played.params(),
            OperationalParams {
                max_recv_data_segment_length: 262_144,
                ..OperationalParams::DEFAULT
            }
        );
    }
}

#[test]
fn a_declared_length_is_right_or_the_login_ends() {
    for value in ["511", "16777216", "", "Yes"] {
        refused(
            &[request(
                ONE_STEP,
                &format!("{NAMES}MaxRecvDataSegmentLength={value}|"),
            )],
            LoginStatus::INITIATOR_ERROR,
            Refusal::Declaration,
        );
    }
}

#[test]
fn nothing_is_negotiated_twice() {
    for key in [
        "MaxBurstLength=512",
        "FirstBurstLength=512",
        "X-a=1",
        "InitiatorAlias=a",
        "IFMarker=No",
    ] {
        let twice = format!("{NAMES}{key}|{key}|");
        refused(
            &[request(ONE_STEP, &twice)],
            LoginStatus::INITIATOR_ERROR,
            Refusal::KeyTwice,
        );
        refused(
            &[
                request(stages(OPERATIONAL, 0), &format!("{NAMES}{key}|")),
                request(ONE_STEP, &format!("{key}|")),
            ],
            LoginStatus::INITIATOR_ERROR,
            Refusal::KeyTwice,
        );
    }
    let names = format!("{NAMES}{NAMES}");
    refused(
        &[request(ONE_STEP, &names)],
        LoginStatus::INITIATOR_ERROR,
        Refusal::KeyTwice,
    );
}

#[test]
fn a_key_stays_in_its_stage_its_phase_and_with_its_sender() {
    for (stage, key) in [
        (SECURITY, "MaxBurstLength=512"),
        (SECURITY, "HeaderDigest=None"),
        (OPERATIONAL, "AuthMethod=None"),
        (OPERATIONAL, "SendTargets=All"),
        (OPERATIONAL, "TargetAlias=me"),
        (SECURITY, "TargetPortalGroupTag=1"),
        (OPERATIONAL, "TargetAddress=1.2.3.4"),
    ] {
        refused(
            &[request(stages(stage, 0), &format!("{NAMES}{key}|"))],
            LoginStatus::INITIATOR_ERROR,
            Refusal::KeyOutOfPlace,
        );
    }
    let text = format!("{NAMES}InitiatorAlias=me|");
    assert!(play(&[request(stages(SECURITY, 0), &text)]).outcome.is_ok());
}

#[test]
fn reserved_words_are_not_proposals() {
    for word in ["Reject", "Irrelevant", "NotUnderstood"] {
        for key in [
            "MaxBurstLength",
            "HeaderDigest",
            "MaxRecvDataSegmentLength",
            "X-a",
            "InitialR2T",
        ] {
            refused(
                &[request(ONE_STEP, &format!("{NAMES}{key}={word}|"))],
                LoginStatus::INITIATOR_ERROR,
                Refusal::ReservedValue,
            );
        }
    }
}

#[test]
fn text_that_is_no_text_is_refused() {
    for text in ["InitiatorName", "InitiatorName=a", "=a|", "9=a|"] {
        assert!(matches!(
            play(&[request(ONE_STEP, text)]).refusal(),
            (LoginStatus::INITIATOR_ERROR, Refusal::Text(_))
        ));
    }
}

#[test]
fn first_burst_length_never_exceeds_max_burst_length() {
    for keys in [
        "MaxBurstLength=16384|FirstBurstLength=65536|",
        "FirstBurstLength=65536|MaxBurstLength=16384|",
    ] {
        let played = one_step(keys);
        assert_eq!(
            answer_to(&played.responses[0], "FirstBurstLength"),
            Some("16384")
        );
        assert_eq!(played.params().first_burst_length, 16_384);
    }
    let default_too_long = format!("{NAMES}MaxBurstLength=16384|");
    refused(
        &[request(ONE_STEP, &default_too_long)],
        LoginStatus::INITIATOR_ERROR,
        Refusal::FirstBurstLength,
    );
    refused(
        &[
            request(
                stages(OPERATIONAL, 0),
                &format!("{NAMES}FirstBurstLength=65536|"),
            ),
            request(ONE_STEP, "MaxBurstLength=16384|"),
        ],
        LoginStatus::INITIATOR_ERROR,
        Refusal::FirstBurstLength,
    );
    let no_unsolicited = one_step("MaxBurstLength=16384|InitialR2T=Yes|ImmediateData=No|");
    assert_eq!(no_unsolicited.params().first_burst_length, 16_384);
}

/// A command that finds no free memory has one promised chunk for all its unsolicited data.
#[test]
fn first_burst_length_never_exceeds_what_the_window_promises() {
    let limits = LoginLimits {
        offer: Offer {
            first_burst_length: 1 << 20,
            ..Offer::DEFAULT
        },
        ..LoginLimits::default()
    };
    let mut login = Login::new(targets(), portal(), limits, Instant::now());
    let keys = format!("{NAMES}MaxBurstLength=1048576|FirstBurstLength=1048576|");
    let bytes = request(ONE_STEP, &keys);
    login.receive_into()[..bytes.len()].copy_from_slice(&bytes);
    login.handle_received(Instant::now(), bytes.len()).unwrap();
    login.placed(Ok(TSIH)).unwrap();
    let params = login.finish(32).params;
    assert_eq!(
        params.first_burst_length as usize,
        crate::buffer::CHUNK,
        "{params:?}"
    );
}

#[test]
fn the_answers_to_the_most_keys_fit_in_one_response() {
    let keys: String = (0..64).map(|n| format!("X-{n:061}=1|")).collect();
    let mut requests = vec![request(stages(OPERATIONAL, 0), NAMES)];
    requests.push(request(ONE_STEP, &keys));
    let played = play(&requests);
    assert!(played.responses[1].text.len() > 4096);
    assert!(played.outcome.is_ok());
    let more: String = (0..65).map(|n| format!("X-{n}=1|")).collect();
    assert_eq!(one_step(&more).refusal().1, Refusal::TooLong);
}

// The Full Feature Phase: section 6.4 and appendix C.

fn text(request: &str, target: bool) -> (Result<String, RejectReason>, OperationalParams) {
    let targets = targets();
    let mut params = OperationalParams::DEFAULT;
    let facts = TextFacts {
        targets: &targets,
        target: target.then(|| targets.targets[0].as_ref()),
        portal: portal(),
    };
    let reply = full_feature_text(request.replace('|', "\0").as_bytes(), &mut params, &facts);
    (
        reply.map(|r| String::from_utf8(r).unwrap().replace('\0', "|")),
        params,
    )
}

#[test]
fn send_targets_answers_what_the_session_may_ask() {
    let disk = "TargetName=iqn.2001-04.com.example:disk|TargetAddress=127.0.0.1:3260,7|";
    let elsewhere = "TargetName=iqn.2001-04.com.example:elsewhere|TargetAddress=127.0.0.2:3260,1|";
    let (normal, discovery) = (true, false);
    let refused = Err(RejectReason::PROTOCOL_ERROR);
    for (value, session, reply) in [
        ("All", discovery, Ok(format!("{disk}{elsewhere}"))),
        (DISK, discovery, Ok(disk.to_owned())),
        (
            "iqn.2001-04.com.example:nowhere",
            discovery,
            Ok(String::new()),
        ),
        ("", discovery, refused.clone()),
        ("", normal, Ok(disk.to_owned())),
        (DISK, normal, Ok(disk.to_owned())),
        (
            "iqn.2001-04.com.example:elsewhere",
            normal,
            Ok(String::new()),
        ),
        ("All", normal, refused.clone()),
    ] {
        assert_eq!(
            text(&format!("SendTargets={value}|"), session).0,
            reply,
            "{value:?}"
        );
    }
    for request in [
        "SendTargets=All|SendTargets=All|",
        "SendTargets=All|X-a=1|",
        "X-a=1|SendTargets=All|",
    ] {
        assert_eq!(text(request, discovery).0, refused);
    }
}

#[test]
fn in_the_full_feature_phase_only_what_is_for_it_is_negotiated() {
    let (reply, params) = text(
        "MaxRecvDataSegmentLength=4096|X-a=1|InitiatorAlias=b|",
        true,
    );
    assert_eq!(reply, Ok("X-a=NotUnderstood|".into()));
    assert_eq!(params.max_send_data_segment_length, 4096);
    for request in [
        "MaxRecvDataSegmentLength=4096|MaxBurstLength=512|",
        "MaxRecvDataSegmentLength=4096|MaxRecvDataSegmentLength=4096|",
        "MaxRecvDataSegmentLength=4096|TargetAlias=a|",
        "MaxRecvDataSegmentLength=4096|X-a=Reject|",
        "MaxRecvDataSegmentLength=4096|junk|",
        "MaxRecvDataSegmentLength=1|",
        "MaxRecvDataSegmentLength=4096|InitiatorName=iqn.1994-05.com.example|",
    ] {
        let (reply, params) = text(request, true);
        assert_eq!(reply, Err(RejectReason::PROTOCOL_ERROR), "{request}");
        assert_eq!(params, OperationalParams::DEFAULT, "{request}");
    }
    assert_eq!(text("", true).0, Ok(String::new()));
}

// Properties.

/// A key with a value that is often right, sometimes at an edge, sometimes nonsense.
fn any_pair() -> impl Strategy<Value = (String, String)> {
    let key = prop_oneof![
        8 => proptest::sample::select(keys::KEYS.iter().map(|k| k.name.to_owned()).collect::<Vec<_>>()),
        1 => "X-[a-z]{1,3}",
    ];
    let value = prop_oneof![
        4 => proptest::sample::select(vec!["Yes", "No", "None", "CRC32C", "CRC32C,None", "None,CRC32C", "RFC3720",
            "Reject", "Irrelevant", "NotUnderstood", "0", "1", "2", "511", "512", "3600", "65535", "16777215", "16777216",
            "0x200", "CHAP", "Normal", "Discovery", ""]).prop_map(str::to_owned),
        4 => (0u32..70_000).prop_map(|n| n.to_string()),
        2 => (512u32..0x100_0000).prop_map(|n| n.to_string()),
        1 => "[ -~]{0,12}",
    ];
    (key, value)
}

/// The keys of one operational negotiation in pieces, and where the text is cut into PDUs.
fn any_negotiation() -> impl Strategy<Value = (Vec<Vec<(String, String)>>, Vec<u8>)> {
    let pairs = proptest::collection::vec(any_pair(), 0..8);
    (
        proptest::collection::vec(pairs, 1..4),
        proptest::collection::vec(any::<u8>(), 1..40),
    )
}

/// What the initiator believes after it sent `offers` and heard `answers` (section 13's result functions).
fn mirror(offers: &[(String, String)], answers: &[(String, String)]) -> OperationalParams {
    let mut p = OperationalParams::DEFAULT;
    for (key, offer) in offers {
        let answer = answers
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str());
        if key == "MaxRecvDataSegmentLength" {
            p.max_send_data_segment_length = u32::try_from(number(offer).unwrap()).unwrap();
            continue;
        }
        let Some(answer) =
            answer.filter(|a| !["Reject", "NotUnderstood", "Irrelevant"].contains(a))
        else {
            continue;
        };
        let at_most = || {
            let (o, a) = (number(offer).unwrap(), number(answer).unwrap());
            assert!(a <= o, "{key}: {offer} -> {answer}");
            u32::try_from(a).unwrap()
        };
        let listed = || assert!(offer.split(',').any(|item| item == answer));
        match key.as_str() {
            "HeaderDigest" => (listed(), p.header_digest = answer == "CRC32C").1,
            "DataDigest" => (listed(), p.data_digest = answer == "CRC32C").1,
            "AuthMethod" | "TaskReporting" => listed(),
            "InitialR2T" => {
                p.initial_r2t = boolean(answer).unwrap();
                assert!(p.initial_r2t || offer == "No");
            }
            "ImmediateData" => {
                p.immediate_data = boolean(answer).unwrap();
                assert!(!p.immediate_data || offer == "Yes");
            }
            "MaxBurstLength" => p.max_burst_length = at_most(),
            "FirstBurstLength" => p.first_burst_length = at_most(),
            "MaxOutstandingR2T" => p.max_outstanding_r2t = u16::try_from(at_most()).unwrap(),
            "DefaultTime2Retain" => p.default_time2retain = u16::try_from(at_most()).unwrap(),
            "DefaultTime2Wait" => {
                p.default_time2wait = u16::try_from(number(answer).unwrap()).unwrap();
                assert!(number(answer) >= number(offer));
            }
            "ErrorRecoveryLevel" => assert_eq!(at_most(), 0),
            "MaxConnections" => assert_eq!(at_most(), 1),
            "iSCSIProtocolLevel" => assert!(at_most() <= 1),
            "DataPDUInOrder" | "DataSequenceInOrder" => assert_eq!(answer, "Yes"),
            other => panic!("an answer to {other}: {answer}"),
        }
    }
    for (key, value) in answers
        .iter()
        .filter(|(k, _)| k == "MaxRecvDataSegmentLength")
    {
        p.max_recv_data_segment_length = u32::try_from(number(value).expect(key)).unwrap();
    }
    p
}

fn legal(p: &OperationalParams) -> bool {
    let lengths = 512..=0xff_ffff;
    lengths.contains(&p.max_burst_length)
        && lengths.contains(&p.first_burst_length)
        && lengths.contains(&p.max_send_data_segment_length)
        && lengths.contains(&p.max_recv_data_segment_length)
        && p.first_burst_length <= p.max_burst_length
        && p.max_outstanding_r2t >= 1
        && p.default_time2wait <= 3600
        && p.default_time2retain <= 3600
        && p.error_recovery_level == 0
}

/// The PDUs of a negotiation: each group one text, cut into continued requests at `cuts`.
fn negotiation_requests(groups: &[Vec<(String, String)>], cuts: &[u8]) -> Vec<Vec<u8>> {
    let mut cuts = cuts.iter().cycle();
    let mut requests = Vec::new();
    for (n, group) in groups.iter().enumerate() {
        let mut text = if n == 0 {
            NAMES.replace('|', "\0")
        } else {
            String::new()
        };
        for (key, value) in group {
            text += &format!("{key}={value}\0");
        }
        let mut text = text.as_bytes();
        let last = n + 1 == groups.len();
        loop {
            let len = text.len().min(20 + usize::from(*cuts.next().unwrap()));
            let (piece, rest) = text.split_at(len);
            let flags = match (rest.is_empty(), last) {
                (false, _) => CONTINUE | stages(OPERATIONAL, 0),
                (true, false) => stages(OPERATIONAL, 0),
                (true, true) => ONE_STEP,
            };
            requests.push(bytes(&header(flags, piece.len()), piece));
            text = rest;
            if text.is_empty() {
                break;
            }
        }
    }
    requests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is proposed, in whatever order and pieces: what comes of it is legal and both sides
    /// agree on it, or the login ends.
    #[test]
    fn both_sides_agree_on_something_legal_or_on_nothing((groups, cuts) in any_negotiation()) {
        let played = play(&negotiation_requests(&groups, &cuts));
        let answers: Vec<(String, String)> = played.responses.iter()
            .flat_map(|r| r.text.split('|').filter_map(|p| p.split_once('=')))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        for pair in &answers {
            prop_assert_eq!(answers.iter().filter(|other| other.0 == pair.0).count(), 1);
        }
        match played.outcome {
            Ok(Some(established)) => {
                let mut mirrored = mirror(&groups.concat(), &answers);
                if !mirrored.immediate_data && mirrored.initial_r2t {
                    mirrored.first_burst_length = mirrored.first_burst_length.min(mirrored.max_burst_length);
                }
                prop_assert!(legal(&established.params));
                prop_assert_eq!(established.params, mirrored);
            }
            Ok(None) => prop_assert!(false, "the login hangs"),
            Err(error) => prop_assert!(matches!(error, LoginError::Refused(_)), "{}", error),
        }
    }

    /// Every proposal for a negotiated key is answered, once.
    #[test]
    fn every_proposal_is_answered(pair in any_pair()) {
        let played = one_step(&format!("{}={}|", pair.0, pair.1.replace('|', "")));
        let declared = keys::find(&pair.0).is_some_and(|(_, key)| matches!(
            key.rule, keys::Rule::Declare | keys::Rule::Remark | keys::Rule::Introduce));
        if played.outcome.is_ok() && !declared {
            prop_assert!(answer_to(&played.responses[0], &pair.0).is_some());
        }
    }

    /// Any bytes at all: at worst the login ends. It never takes more room than one PDU.
    #[test]
    fn no_bytes_make_a_login_panic(stream in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = play_cut(&stream, Ok(TSIH), |rest| rest);
    }

    /// The same, with headers that look right.
    #[test]
    fn no_request_makes_a_login_panic(
        requests in proptest::collection::vec((any::<u8>(), any::<[u8; 8]>(), any_pair(), 0u8..8), 1..6),
    ) {
        let mut stream = Vec::new();
        for (n, (flags, noise, (key, value), kind)) in requests.into_iter().enumerate() {
            let names = if n == 0 && kind != 7 { NAMES } else { "" };
            let mut pdu = request(flags, &format!("{names}{key}={value}|"));
            if kind == 6 {
                pdu[usize::from(noise[0]) % BHS_LEN] = noise[1];
            }
            stream.extend_from_slice(&pdu);
        }
        let played = play_cut(&stream, Ok(TSIH), |rest| rest);
        if let Ok(Some(established)) = played.outcome {
            prop_assert!(legal(&established.params));
        }
    }

    /// However the stream is cut, the same answers are given.
    #[test]
    fn a_login_does_not_depend_on_segmentation(
        (groups, cuts) in any_negotiation(),
        segments in proptest::collection::vec(1usize..90, 1..40),
    ) {
        let stream = negotiation_requests(&groups, &cuts).concat();
        let whole = play(std::slice::from_ref(&stream));
        let mut segments = segments.iter().cycle();
        let cut = play_cut(&stream, Ok(TSIH), |_| *segments.next().unwrap());
        prop_assert_eq!(&whole.responses, &cut.responses);
        prop_assert_eq!(
            whole.outcome.map(|o| o.map(|e| e.params)),
            cut.outcome.map(|o| o.map(|e| e.params))
        );
    }

    /// Text of the Full Feature Phase never panics and never leaves illegal parameters.
    #[test]
    fn no_text_makes_illegal_parameters(pairs in proptest::collection::vec(any_pair(), 0..6), normal in any::<bool>()) {
        let request: String = pairs.iter().map(|(k, v)| format!("{k}={v}|")).collect();
        let (reply, params) = text(&request, normal);
        prop_assert!(legal(&params));
        if let Ok(reply) = reply {
            prop_assert!(Pairs::new(reply.replace('|', "\0").as_bytes()).all(|pair| pair.is_ok()));
        }
    }
}
