//! Too much of what is right: connections, unread answers, writes that nobody waits for.

use std::io::Write as _;
use std::net::TcpStream;

use ringtgt::control::config::Storage;
use ringtgt::control::{BackendKind, Settings};
use ringtgt::initiator::{Command, Initiator, Payload, wire_lun};

use crate::common::cdb;
use crate::common::pair::BLOCK;
use crate::common::wire::{Over, Peer, config, ram};
use crate::siege::{DISK, Siege, at, read_10, write_10};

/// A disk whose writes take a while.
fn on_disk(place: &tempfile::TempDir) -> Storage {
    Storage {
        size: Some(DISK as u64),
        write_cache: false,
        ..Storage::new(0, BackendKind::IoUring, place.path().join("disk"))
    }
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Waits until only the witness is connected.
#[track_caller]
fn only_the_witness_is_left(siege: &Siege) {
    let alone = || siege.daemon.connections() == (1, 0);
    siege
        .daemon
        .wait_until("the attackers' connections end", alone);
}

#[test]
fn five_hundred_logins_that_stop_halfway_do_not_disturb_a_session() {
    let mut siege = Siege::on_one_core();
    let request = Initiator::new(config(1)).poll_transmit().to_vec();
    let mut halves = Vec::new();
    for n in 0..500 {
        let mut stream = TcpStream::connect(siege.daemon.address).expect("it listens");
        // Too many are closed at once, and then this fails.
        let _ = stream.write_all(&request[..n % request.len()]);
        halves.push(stream);
        siege.witness_goes_on();
    }
    let (_, logging_in) = siege.daemon.connections();
    // Half of the places: the others are not for this address.
    assert!(logging_in <= 64, "{logging_in} half-open logins");
    drop(halves);
    only_the_witness_is_left(&siege);
    siege.holds("500 half-open logins");
}

#[test]
fn whoever_does_not_read_holds_up_only_himself() {
    let mut siege = Siege::on_one_core();
    let blocks = DISK / BLOCK;
    let mut deaf: Vec<Peer> = (1..=4)
        .map(|isid| Peer::log_in(siege.daemon.address, at(0, isid)))
        .collect();
    for peer in &mut deaf {
        let mut queued = 0;
        while queued < 128 && peer.initiator.room() > 0 {
            let payload = Payload::Discard(DISK as u32);
            let command = Command::new(queued, wire_lun(0), read_10(0, blocks), payload);
            peer.initiator.submit(command).unwrap();
            queued += 1;
        }
        assert!(peer.send_all());
        for _ in 0..50 {
            siege.witness_goes_on();
        }
    }
    siege.holds("reads that nobody takes");
    // Two of them change their mind and get everything; the others just go.
    for peer in &mut deaf[..2] {
        while peer.initiator.outstanding() > 0 {
            let done = peer.done();
            assert!(done.is_good());
            assert_eq!(done.received as usize, DISK);
        }
    }
    drop(deaf);
    only_the_witness_is_left(&siege);
    siege.holds("the end of the deaf");
}

#[test]
fn pings_whose_answers_nobody_reads_stop_their_own_connection() {
    let mut siege = Siege::on_one_core();
    let mut peer = siege.attacker();
    let mut sent = 0_u64;
    // Until nothing is taken any more, or it is clear that it would be taken for ever.
    let mut refused = 0;
    while refused < 200 {
        while peer.initiator.poll_transmit().len() < 256 * 1024 {
            let Some(tag) = peer.initiator.nop(1, &[0x5a; 4096]) else {
                break;
            };
            peer.initiator.forget(tag);
        }
        let before = peer.initiator.poll_transmit().len();
        peer.send_some();
        let taken = before - peer.initiator.poll_transmit().len();
        sent += taken as u64;
        assert!(sent < 256 << 20, "256 MiB of answers wait somewhere");
        if taken == 0 {
            refused += 1;
            siege.witness_goes_on();
        } else {
            refused = 0;
        }
    }
    siege.holds("unread pings");
    drop(peer);
    only_the_witness_is_left(&siege);
}

#[test]
fn a_connection_that_breaks_among_writes_leaves_whole_blocks_and_nothing_else() {
    let place = place();
    for storage in [ram(DISK as u64), on_disk(&place)] {
        let mut siege = Siege::of(storage, Settings::default());
        let new = vec![0xee; 512 * BLOCK];
        for round in 0..20 {
            let mut peer = siege.attacker();
            for n in 0..16 {
                let payload = Payload::Write(vec![0xee; 32 * BLOCK]);
                let command =
                    Command::new(n, wire_lun(0), write_10(512 + n as usize * 32, 32), payload);
                peer.initiator.submit(command).expect("there is room");
            }
            if round % 2 == 0 {
                peer.send_all();
            } else {
                peer.send_some();
            }
            drop(peer);
            siege.witness_goes_on();
        }
        only_the_witness_is_left(&siege);
        siege.holds_but_for("broken connections", 512, 512, &new);
    }
}

#[test]
fn writes_of_a_session_never_land_after_the_login_that_took_its_place() {
    let place = place();
    for storage in [ram(DISK as u64), on_disk(&place)] {
        let siege = Siege::of(storage, Settings::default());
        const REGION: usize = 256;
        for round in 0..30_u8 {
            let mut old = siege.attacker();
            for n in 0..32 {
                let lba = (n * 32) % REGION;
                let mut cdb = write_10(lba, 32);
                // FUA: it takes longer.
                cdb[1] = 8;
                let payload = Payload::Write(vec![0xee; 32 * BLOCK]);
                if let Err(command) =
                    old.initiator
                        .submit(Command::new(0, wire_lun(0), cdb, payload))
                {
                    drop(command);
                }
            }
            if round % 3 == 0 {
                old.send_some();
            } else {
                old.send_all();
            }
            // The same initiator port: reinstatement.
            let mut new = siege.attacker();
            let bytes = vec![round; REGION * BLOCK];
            new.write(0, &bytes);
            for _ in 0..3 {
                assert!(new.read(0, bytes.len()) == bytes, "round {round}");
            }
            // And what the old one still had to say is not heard.
            old.send_some();
            loop {
                match old.next() {
                    Ok(_) => {}
                    Err(Over::Closed) => break,
                    Err(Over::Error(error)) => panic!("{error}"),
                }
            }
            assert!(new.read(0, bytes.len()) == bytes, "round {round}, later");
            let done = new.run(cdb::synchronize_cache_10(), Payload::None);
            assert!(done.is_good());
        }
        let reinstated = siege.daemon.count("sessions_reinstated");
        assert!(reinstated >= 20, "{reinstated}");
    }
}
