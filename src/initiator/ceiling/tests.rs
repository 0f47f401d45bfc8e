//! The ceiling against the strict initiator, with and without sockets.

use super::*;
use crate::initiator::{
    Command, CommandDone, Config, DigestOffer, Event, Initiator, Payload, discovered,
};
use std::io::IoSlice;

const BLOCKS: u64 = 1 << 20;

struct Pair {
    initiator: Initiator,
    answerer: Answerer,
    carried: Vec<u8>,
    /// Most bytes that cross at a time.
    most: usize,
}

impl Pair {
    fn new(config: Config, ours: Offers, most: usize) -> Self {
        Self {
            initiator: Initiator::new(config),
            answerer: Answerer::new(BLOCKS, 512, ours, "127.0.0.1:3260".to_owned(), 7),
            carried: Vec::new(),
            most,
        }
    }

    /// Moves bytes both ways until nothing moves any more.
    fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let len = self.initiator.poll_transmit().len().min(self.most);
            self.carried
                .extend_from_slice(&self.initiator.poll_transmit()[..len]);
            self.initiator.transmitted(len);
            let taken = self.answerer.take(&self.carried).unwrap();
            self.carried.drain(..taken);
            let mut slices = [IoSlice::new(&[]); 7];
            let count = self.answerer.answers.gather(&mut slices);
            let mut bytes = Vec::new();
            for slice in &slices[..count] {
                let room = self.most - bytes.len();
                bytes.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            self.answerer.answers.sent(bytes.len());
            self.initiator.handle_bytes(&bytes).unwrap();
            while let Some(event) = self.initiator.poll_event() {
                events.push(event);
            }
            if len == 0 && bytes.is_empty() {
                return events;
            }
        }
    }

    fn commands(&mut self, commands: Vec<Command>) -> Vec<CommandDone> {
        for command in commands {
            self.initiator.submit(command).unwrap();
        }
        self.run()
            .into_iter()
            .filter_map(|event| match event {
                Event::Command(done) => Some(done),
                _ => None,
            })
            .collect()
    }
}

fn read(cookie: u64, len: usize) -> Command {
    let mut cdb = [0; 16];
    cdb[0] = 0x28;
    Command::new(cookie, 0, cdb, Payload::Read(vec![0; len]))
}

fn write(cookie: u64, len: usize) -> Command {
    let mut cdb = [0; 16];
    cdb[0] = 0x2a;
    Command::new(cookie, 0, cdb, Payload::Write(vec![9; len]))
}

#[test]
fn a_strict_initiator_accepts_every_answer_whatever_was_negotiated() {
    for bits in 0..32u32 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        let mut config = Config::normal("iqn.i", TARGET);
        config.offers.header_digest = if on(0) {
            DigestOffer::Required
        } else {
            DigestOffer::Off
        };
        config.offers.data_digest = if on(1) {
            DigestOffer::Preferred
        } else {
            DigestOffer::Off
        };
        config.offers.initial_r2t = on(2);
        config.offers.immediate_data = on(3);
        config.offers.max_recv_data_segment_length = 8192;
        let ours = Offers {
            max_burst_length: 32_768,
            first_burst_length: 16_384,
            max_recv_data_segment_length: 4096,
            max_outstanding_r2t: 2,
            ..Offers::DEFAULT
        };
        let most = if on(4) { 1 << 20 } else { 1000 };
        let mut pair = Pair::new(config, ours, most);
        assert!(matches!(pair.run()[..], [Event::LoggedIn]));
        let agreed = pair.initiator.negotiated().unwrap();
        assert_eq!((agreed.header_digest, agreed.data_digest), (on(0), on(1)));
        assert_eq!((agreed.initial_r2t, agreed.immediate_data), (on(2), on(3)));
        let done = pair.commands(vec![
            write(0, 100_000),
            read(1, 512),
            write(2, 4096),
            read(3, 100_000),
            write(4, 16_384),
            read(5, 8192),
        ]);
        assert_eq!(done.len(), 6, "{bits:#b}");
        for done in done {
            assert!(done.is_good(), "{bits:#b}: {done:?}");
            if let Payload::Read(data) = &done.payload {
                assert_eq!(done.received as usize, data.len());
                assert!(data.iter().all(|&byte| byte == 0xc5));
            }
        }
    }
}

#[test]
fn a_write_is_answered_after_its_last_byte_and_not_before() {
    let mut pair = Pair::new(Config::normal("iqn.i", TARGET), Offers::DEFAULT, 1 << 20);
    pair.run();
    pair.initiator.submit(write(0, 4096)).unwrap();
    let bytes = pair.initiator.poll_transmit().to_vec();
    let taken = pair.answerer.take(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(taken, bytes.len() - 1);
    assert!(pair.answerer.answers.is_empty());
    assert_eq!(pair.answerer.take(&bytes[taken..]), Ok(1));
    assert!(!pair.answerer.answers.is_empty());
}

#[test]
fn it_answers_what_initiators_ask_first() {
    let mut pair = Pair::new(Config::normal("iqn.i", TARGET), Offers::DEFAULT, 1 << 20);
    pair.run();
    let ask = |first: &[u8], len: usize| {
        let mut cdb = [0; 16];
        cdb[..first.len()].copy_from_slice(first);
        Command::new(0, 0, cdb, Payload::Read(vec![0; len]))
    };
    let done = pair.commands(vec![
        ask(&[0x12, 0, 0, 0, 36], 36),
        ask(&[0x25], 8),
        ask(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], 32),
        ask(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], 64),
        ask(&[0x12, 1, 0x83, 0, 255], 255),
    ]);
    let data = |at: usize| match &done[at].payload {
        Payload::Read(data) => data[..done[at].received as usize].to_vec(),
        _ => panic!("a read"),
    };
    assert_eq!(data(0)[8..16], *b"ringtgt ");
    assert_eq!(data(1), [0, 15, 255, 255, 0, 0, 2, 0]);
    assert_eq!((data(2)[5], data(3).len()), (15, 16));
    assert_eq!((done[4].status, done[4].sense[2]), (2, 5));
    pair.initiator.nop(5, b"ping").unwrap();
    assert!(matches!(&pair.run()[..], [Event::Nop { cookie: 5, data }] if data == b"ping"));
}

#[test]
fn discovery_names_the_target_and_logout_ends_it() {
    let mut pair = Pair::new(Config::discovery("iqn.i"), Offers::DEFAULT, 3);
    pair.run();
    pair.initiator.text(1, b"SendTargets=All\0").unwrap();
    let events = pair.run();
    let [Event::Text { text, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    let portal = "127.0.0.1:3260,1".to_owned();
    assert_eq!(discovered(text), [(TARGET.to_owned(), vec![portal])]);
    pair.initiator
        .logout(crate::pdu::code::LogoutReason::CLOSE_SESSION)
        .unwrap();
    assert!(matches!(pair.run()[..], [Event::LoggedOut { .. }]));
    assert!(pair.answerer.over);
}

#[test]
fn what_is_no_login_is_refused_before_one() {
    let mut answerer = Answerer::new(BLOCKS, 512, Offers::DEFAULT, String::new(), 1);
    let mut bytes = [0u8; 48];
    bytes[0] = 1;
    assert!(answerer.take(&bytes).is_err());
    bytes[0] = 0x43;
    bytes[5] = 0xff;
    assert!(answerer.take(&bytes).is_err());
}
