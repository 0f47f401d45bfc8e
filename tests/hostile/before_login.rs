//! What may come before a login is done.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ringtgt::control::Settings;
use ringtgt::initiator::Initiator;
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::text::write_pair;
use ringtgt::session::login::LoginLimits;

use crate::common::random::Random;
use crate::common::wire::{PATIENCE, config, ram};
use crate::siege::{DISK, Siege};

/// Sends `bytes` and, if `and_end`, that there is no more; returns what came until the target closed.
#[track_caller]
fn say(siege: &Siege, bytes: &[u8], and_end: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(siege.daemon.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before everything is sent.
    let _ = stream.write_all(bytes);
    if and_end {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "never closed");
    }
    answer
}

/// The target closes by itself after `bytes`, and counts a failed login.
#[track_caller]
fn is_refused(siege: &Siege, what: &str, bytes: &[u8]) -> Vec<u8> {
    let before = siege.daemon.count("logins_failed");
    let answer = say(siege, bytes, false);
    siege.daemon.wait_for_count("logins_failed", before + 1);
    assert!(answer.len() <= 48 + 8192, "{what}: {} bytes", answer.len());
    answer
}

/// The first request of a login that would succeed.
fn login_request() -> Vec<u8> {
    Initiator::new(config(1)).poll_transmit().to_vec()
}

/// A Login Request with this text, as the first one; `more`: it is continued.
fn login_with(text: &[u8], more: bool, tag: u32) -> Vec<u8> {
    let mut pdu = login_request()[..48].to_vec();
    // Operational stage, no transit; C.
    pdu[1] = if more { 0x44 } else { 0x04 };
    pdu[5..8].copy_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes()[1..]);
    pdu[16..20].copy_from_slice(&tag.to_be_bytes());
    pdu.extend_from_slice(text);
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    pdu
}

/// Status class and detail of the last Login Response.
#[track_caller]
fn status(answer: &[u8]) -> u16 {
    assert!(answer.len() >= 48, "no answer");
    assert_eq!(Opcode(answer[0]), Opcode::LOGIN_RESPONSE);
    u16::from_be_bytes([answer[36], answer[37]])
}

#[test]
fn a_refusal_arrives_although_more_was_sent_than_anybody_reads() {
    let siege = Siege::new();
    let mut text = Vec::new();
    write_pair(&mut text, "InitiatorName", "iqn.2026-11.com.example:i");
    write_pair(&mut text, "TargetName", "iqn.2026-11.com.example:nowhere");
    for n in 0..20 {
        let mut stream = TcpStream::connect(siege.daemon.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = login_with(&text, false, n);
        bytes.resize(100_000, 0);
        stream.write_all(&bytes).expect("it is not reset");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it is not reset");
        assert_eq!(status(&answer), 0x0203, "not found");
    }
    drop(siege);
}

#[test]
fn what_is_no_iscsi_ends_its_connection() {
    let mut siege = Siege::new();
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x20\x13\x37abcdefghijklmnopqrstuvwxyz0123456789";
    is_refused(&siege, "TLS", tls);
    let http = b"GET /index.html HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n";
    is_refused(&siege, "HTTP", http);
    is_refused(&siege, "ones", &[0xff; 4096]);
    is_refused(&siege, "zeros", &[0; 48]);
    let mut random = Random::new(1);
    for _ in 0..300 {
        let before = siege.daemon.count("logins_failed");
        let len = random.index(10_000);
        say(&siege, &random.bytes(len), true);
        siege.daemon.wait_for_count("logins_failed", before + 1);
    }
    siege.daemon.wait_for_count("logins_foreign", 100);
    siege.holds("noise");
}

#[test]
fn no_opcode_but_login_is_taken_before_login() {
    let mut siege = Siege::new();
    for first in 0..=0xff_u8 {
        if Opcode(first & 0x3f) == Opcode::LOGIN_REQUEST {
            continue;
        }
        let mut pdu = [0; 48];
        pdu[..2].copy_from_slice(&[first, 0x80]);
        is_refused(&siege, &format!("{first:#x}"), &pdu);
        // And in the middle of a login.
        if first % 16 == 1 {
            let mut bytes = login_request();
            bytes.extend_from_slice(&pdu);
            is_refused(&siege, &format!("{first:#x} within"), &bytes);
        }
    }
    siege.daemon.wait_for_count("logins_foreign", 252);
    siege.daemon.wait_for_count("logins_refused", 15);
    siege.holds("other opcodes");
}

#[test]
fn lengths_beyond_the_bounds_are_refused_by_their_header() {
    let mut siege = Siege::new();
    for (what, place, value) in [
        ("data", 5..8, &[0xff_u8; 3][..]),
        ("data of 8193 bytes", 5..8, &[0, 0x20, 0x01]),
        ("AHS", 4..5, &[0xff]),
        ("one AHS", 4..5, &[1]),
    ] {
        let mut pdu = login_request();
        pdu[place].copy_from_slice(value);
        is_refused(&siege, what, &pdu[..48]);
    }
    siege.daemon.wait_for_count("logins_refused", 4);
    siege.holds("lengths");
}

#[test]
fn text_without_end_is_refused() {
    let mut siege = Siege::new();
    let mut flood = Vec::new();
    for n in 0..1000 {
        let mut text = vec![b'x'; 8000];
        write_pair(&mut text, "y", n);
        flood.extend(login_with(&text, true, 0));
    }
    is_refused(&siege, "a flood at once", &flood);
    // Correctly, one after the other: each is answered until it is too much.
    let before = siege.daemon.count("logins_failed");
    let mut stream = TcpStream::connect(siege.daemon.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let pdu = login_with(&[b'x'; 4096], true, 0);
    let mut answered = 0;
    loop {
        let mut header = [0; 48];
        if stream.write_all(&pdu).is_err() || stream.read_exact(&mut header).is_err() {
            break;
        }
        if status(&header) != 0 {
            break;
        }
        answered += 1;
        assert!(answered < 16, "64 KiB of text are taken");
    }
    siege.daemon.wait_for_count("logins_failed", before + 1);
    siege.daemon.wait_for_count("logins_refused", 1);
    siege.holds("a flood of text");
}

#[test]
fn keys_beyond_the_limits_are_refused_or_not_understood() {
    let mut siege = Siege::new();
    let names = |text: &mut Vec<u8>| {
        write_pair(text, "InitiatorName", "iqn.1994-05.com.example:host");
        write_pair(text, "TargetName", crate::common::pair::TARGET);
    };
    let mut cases = Vec::new();
    let mut text = Vec::new();
    names(&mut text);
    write_pair(&mut text, &"k".repeat(64), "v");
    cases.push(("a long key", text));
    let mut text = Vec::new();
    let long = format!("iqn.1994-05.com.example:{}", "v".repeat(256));
    write_pair(&mut text, "InitiatorName", &long);
    write_pair(&mut text, "TargetName", crate::common::pair::TARGET);
    cases.push(("a long name", text));
    let mut text = Vec::new();
    names(&mut text);
    for n in 0..1000 {
        write_pair(&mut text, &format!("k{n}"), "");
    }
    text.truncate(8192);
    cases.push(("many keys", text));
    let mut text = Vec::new();
    names(&mut text);
    names(&mut text);
    cases.push(("keys twice", text));
    cases.push(("no equals sign", b"InitiatorName\0".to_vec()));
    cases.push((
        "no end",
        b"InitiatorName=iqn.1994-05.com.example:x".to_vec(),
    ));
    cases.push(("not UTF-8", b"InitiatorName=\xff\xfe\0".to_vec()));
    for (what, text) in cases {
        let answer = is_refused(&siege, what, &login_with(&text, false, 0));
        assert_eq!(status(&answer) >> 8, 2, "{what}: the initiator's fault");
    }
    siege.daemon.wait_for_count("logins_refused", 7);
    siege.holds("strange keys");
}

#[test]
fn whoever_stops_in_the_middle_is_closed_at_the_deadline() {
    let settings = Settings {
        login: LoginLimits {
            deadline: Duration::from_secs(2),
            ..LoginLimits::default()
        },
        ..Settings::default()
    };
    let mut siege = Siege::of(ram(DISK as u64), settings);
    let request = login_request();
    std::thread::scope(|scope| {
        for bytes in [&request[..0], &request[..24], &request[..60], &request[..]] {
            let siege = &siege;
            scope.spawn(move || say(siege, bytes, false));
        }
    });
    siege.daemon.wait_for_count("logins_failed", 4);
    siege.daemon.wait_for_count("logins_late", 4);
    siege.holds("silence");
}
