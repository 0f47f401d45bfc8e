//! What was right before a few of its bytes changed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use ringtgt::initiator::{
    Command, Config, DigestOffer, Event, Initiator, Offers, Payload, wire_lun,
};
use ringtgt::pdu::bhs::{FINAL, WRITE};
use ringtgt::pdu::code::LogoutReason;

use crate::common::random::Random;
use crate::common::raw::{self, TAG, command, data_out};
use crate::common::wire::{PATIENCE, Peer, config};
use crate::siege::{DISK, Siege, read_10, write_10};

/// The session of initiator port `isid`.
fn session(isid: u8, digests: DigestOffer) -> Config {
    let mut config = config(isid);
    config.offers = Offers {
        header_digest: digests,
        data_digest: digests,
        ..Offers::DEFAULT
    };
    config
}

/// Bytes of a session from its first PDU on, as a well-behaved initiator would send them.
fn valid(siege: &Siege, random: &mut Random, digests: DigestOffer) -> Vec<u8> {
    let first = Initiator::new(session(1, digests));
    let mut stream = first.poll_transmit().to_vec();
    // The requests after the first depend on nothing that the target says, so they are of any login.
    let mut peer = Peer::connect(siege.daemon.address, session(2, digests));
    assert!(matches!(peer.next(), Ok(Event::LoggedIn)));
    for _ in 0..random.below(12) {
        let lba = random.index(DISK / 512 - 64);
        let blocks = 1 + random.index(32);
        let (cdb, payload) = match random.below(4) {
            0 => (read_10(lba, blocks), Payload::Read(vec![0; blocks * 512])),
            1 => ([0; 16], Payload::None),
            _ => (
                write_10(lba, blocks),
                Payload::Write(vec![0xcc; blocks * 512]),
            ),
        };
        let _ = peer
            .initiator
            .submit(Command::new(0, wire_lun(0), cdb, payload));
    }
    peer.put(&command(TAG, WRITE | FINAL, 4096, write_10(64, 8)), &[]);
    peer.put(
        &data_out(TAG, random.below(4) as u32, 0, 0, true),
        &[0xcc; 4096],
    );
    peer.put(&raw::text(TAG + 1, FINAL, u32::MAX), b"SendTargets=All\0");
    peer.initiator.nop(1, b"ping");
    if random.chance(4) {
        peer.initiator.logout(LogoutReason::CLOSE_SESSION);
    }
    let second = login_end(siege, session(1, digests));
    stream.extend(second);
    stream.extend_from_slice(peer.initiator.poll_transmit());
    stream
}

/// What follows the first Login Request, up to the full feature phase.
fn login_end(siege: &Siege, config: Config) -> Vec<u8> {
    let mut initiator = Initiator::new(config);
    let mut stream = TcpStream::connect(siege.daemon.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = Vec::new();
    loop {
        let bytes = initiator.poll_transmit().to_vec();
        stream.write_all(&bytes).unwrap();
        initiator.transmitted(bytes.len());
        sent.push(bytes);
        let len = stream.read(initiator.receive_into()).unwrap();
        assert_ne!(len, 0);
        initiator.handle_received(len).unwrap();
        if let Some(Event::LoggedIn) = initiator.poll_event() {
            return sent.split_off(1).concat();
        }
    }
}

fn mutate(random: &mut Random, stream: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let place = random.index(stream.len());
        // Mostly the headers of the first PDUs, or any place.
        let near = if random.chance(2) { place } else { place % 48 };
        let place = if random.chance(3) { near } else { place };
        match random.below(6) {
            0 | 1 => stream[place] ^= 1 << random.below(8),
            2 => stream[place] = random.next() as u8,
            3 => {
                let end = (place + random.index(64)).min(stream.len());
                stream.drain(place..end);
            }
            4 => {
                let len = random.index(64);
                let more = random.bytes(len);
                stream.splice(place..place, more);
            }
            _ => {
                let end = (place + random.index(4)).min(stream.len());
                stream[place..end].fill(0xff);
            }
        }
        if stream.is_empty() {
            return;
        }
    }
}

#[test]
fn thousands_of_mutated_sessions_harm_nobody_else() {
    let mut siege = Siege::new();
    let mut random = Random::new(2026);
    for run in 0..150 {
        let digests = if run % 4 == 0 {
            DigestOffer::Required
        } else {
            DigestOffer::Off
        };
        let valid = valid(&siege, &mut random, digests);
        for _ in 0..20 {
            let mut bytes = valid.clone();
            mutate(&mut random, &mut bytes);
            let mut stream = TcpStream::connect(siege.daemon.address).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answers = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answers) {
                assert_ne!(
                    error.kind(),
                    ErrorKind::WouldBlock,
                    "run {run}: never closed"
                );
            }
        }
        siege.witness_goes_on();
        assert!(siege.witness.ping(), "run {run}");
    }
    // The attacked disk is theirs to write; the other one is not.
    siege.content[0] = siege.read_all(0);
    siege.holds("mutated sessions");
    for (name, least) in [
        ("commands_started", 1000),
        ("logins_failed", 100),
        ("rejects", 100),
        ("protocol_errors", 100),
        ("header_digest_errors", 10),
        ("data_digest_errors", 10),
        ("tasks_aborted", 10),
    ] {
        siege.daemon.wait_for_count(name, least);
    }
}
