//! One turn of one connection: what the reactor and the network do.

use std::io::IoSlice;

use ringtgt::initiator::Event;
use ringtgt::session::login::{Login, LoginEvent, LoginStatus, PlaceRequest};

use super::pair::{Closed, Link, Nexus, Pair, Seat, Segments, Session, Side};
use super::random::Random;

/// How many of `len` bytes move now.
fn cut(segments: Segments, random: &mut Random, len: usize) -> usize {
    match segments {
        Segments::Whole => len,
        Segments::Of(most) => len.min(most),
        Segments::Random if len == 0 => 0,
        Segments::Random => {
            let most = if random.chance(2) { 100 } else { 100_000 };
            len.min(1 + random.index(most))
        }
    }
}

impl Pair {
    pub(super) fn link_of(&self, seat: Seat) -> Option<usize> {
        let is_it = |link: &Link| matches!(link.side, Side::Session(s) if s == seat);
        self.links.iter().position(is_it)
    }

    pub(super) fn segment(&mut self, len: usize) -> usize {
        cut(self.segments, &mut self.random, len)
    }

    /// Bytes to and from the initiator.
    pub(super) fn initiator_turn(&mut self, index: usize) -> bool {
        let len = self.links[index].to_initiator.len();
        let len = if self.links[index].deaf {
            0
        } else {
            self.segment(len)
        };
        let link = &mut self.links[index];
        let bytes: Vec<u8> = link.to_initiator.drain(..len).collect();
        let mut moved = !bytes.is_empty();
        if link.error.is_none()
            && let Err(error) = link.initiator.handle_bytes(&bytes)
        {
            link.error = Some(error);
        }
        while let Some(event) = link.initiator.poll_event() {
            moved = true;
            match event {
                Event::Pinged { .. } => link.pings += 1,
                event => link.events.push_back(event),
            }
        }
        let unsent = link.initiator.poll_transmit();
        let len = unsent.len();
        let left = link.breaks_after.map_or(len, |most| most - link.sent_bytes);
        let arrives = len.min(left);
        link.to_target.extend(&unsent[..arrives]);
        link.sent_bytes += arrives;
        link.initiator.transmitted(len);
        moved | (len > 0)
    }

    pub(super) fn target_turn(&mut self, index: usize) -> bool {
        match self.links[index].side {
            Side::Closed => {
                self.links[index].to_target.clear();
                false
            }
            Side::Login(_) => self.login_turn(index),
            Side::Draining(_, old) => {
                let gone = !self.sessions.iter().any(|s| s.seat == old);
                if gone {
                    self.open(index);
                }
                gone
            }
            Side::Session(seat) => self.session_turn(index, seat),
        }
    }

    fn login_turn(&mut self, index: usize) -> bool {
        let waiting = self.links[index].to_target.len();
        let wanted = self.segment(waiting);
        let now = self.now;
        let link = &mut self.links[index];
        let Side::Login(login) = &mut link.side else {
            return false;
        };
        let mut result = Ok(());
        let mut moved = false;
        if wanted > 0 {
            moved = true;
            let room = login.receive_into();
            let len = wanted.min(room.len());
            for (place, byte) in room.iter_mut().zip(link.to_target.drain(..len)) {
                *place = byte;
            }
            result = login.handle_received(now, len);
        }
        let mut complete = false;
        while let Some(event) = self.login_of(index).poll_event() {
            moved = true;
            match event {
                LoginEvent::Place(request) => {
                    let placement = self.place(index, &request);
                    result = result.and(self.login_of(index).placed(placement));
                }
                LoginEvent::Complete => complete = true,
            }
        }
        let login = self.login_of(index);
        let answer = login.poll_transmit().to_vec();
        login.transmitted(answer.len());
        self.links[index].to_initiator.extend(&answer);
        if let Err(error) = result {
            self.close(index, Closed::Login(error));
        } else if complete {
            self.reinstate(index);
        }
        moved | !answer.is_empty()
    }

    fn login_of(&mut self, index: usize) -> &mut Login {
        match &mut self.links[index].side {
            Side::Login(login) | Side::Draining(login, _) => login,
            _ => panic!("not logging in"),
        }
    }

    /// The directory of this process: sessions are found by their handle, new ones go round.
    fn place(&mut self, index: usize, request: &PlaceRequest) -> Result<u16, LoginStatus> {
        if request.tsih != 0 {
            return Err(LoginStatus::SESSION_DOES_NOT_EXIST);
        }
        let nexus = Nexus {
            initiator_name: request.initiator_name.clone(),
            isid: request.isid,
            target: request.target.as_ref().map(|target| target.name.clone()),
            portal_group_tag: request.portal_group_tag,
        };
        let old = self.sessions.iter().find(|s| s.nexus == nexus);
        let tsih = self.next_tsih;
        let round = usize::from(tsih) % self.shards.len();
        let shard = old.map_or(self.next_shard.unwrap_or(round), |s| s.seat.shard);
        self.next_tsih += 1;
        self.links[index].placed = Some((nexus, shard));
        Ok(tsih)
    }

    /// Before a login ends, the session it takes the place of must be gone.
    fn reinstate(&mut self, index: usize) {
        self.arrive_all();
        let (nexus, _) = self.links[index].placed.clone().expect("it was placed");
        let Some(old) = self
            .sessions
            .iter()
            .rfind(|s| s.nexus == nexus)
            .map(|s| s.seat)
        else {
            return self.open(index);
        };
        if let Some(link) = self.link_of(old) {
            self.close(link, Closed::Reinstated);
        }
        let Side::Login(login) = std::mem::replace(&mut self.links[index].side, Side::Closed)
        else {
            panic!("not logging in");
        };
        self.links[index].side = Side::Draining(login, old);
    }

    /// A login that waits for an old session waits no longer.
    pub fn lose_patience(&mut self, index: usize) {
        assert!(matches!(self.links[index].side, Side::Draining(..)));
        self.open(index);
    }

    fn open(&mut self, index: usize) {
        let (nexus, shard) = self.links[index].placed.clone().expect("it was placed");
        let window = self.shards[shard].window_for_new_session();
        let side = std::mem::replace(&mut self.links[index].side, Side::Closed);
        let (Side::Login(mut login) | Side::Draining(mut login, _)) = side else {
            panic!("not logging in");
        };
        if window == 0 {
            let error = login.refuse(LoginStatus::OUT_OF_RESOURCES);
            self.links[index].to_initiator.extend(login.poll_transmit());
            self.links[index].closed = Some(Closed::Login(error));
            return;
        }
        let established = login.finish(window);
        self.links[index].params = Some(established.params);
        match self.shards[shard].open_session(established, self.now) {
            Ok(key) => {
                for old in self.sessions.iter().filter(|s| s.nexus == nexus) {
                    self.shards[shard].follow(key, old.seat.key);
                }
                let seat = Seat { shard, key };
                self.sessions.push(Session { nexus, seat });
                self.links[index].side = Side::Session(seat);
                // The session starts with the last Login Response to send.
                self.links[index].ready = true;
            }
            Err(status) => self.links[index].closed = Some(Closed::NotOpened(status)),
        }
    }

    fn session_turn(&mut self, index: usize, seat: Seat) -> bool {
        let waiting = self.links[index].to_target.len();
        let mut wanted = self.segment(waiting);
        let shard = &mut self.shards[seat.shard];
        let link = &mut self.links[index];
        let mut received = 0;
        if wanted > 0 {
            for mut place in shard.receive_into(seat.key) {
                let len = place.len().min(wanted);
                for (place, byte) in place.iter_mut().zip(link.to_target.drain(..len)) {
                    *place = byte;
                }
                wanted -= len;
                received += len;
            }
            link.target_bytes.0 += received;
            if received > 0
                && let Err(error) = shard.handle_received(self.now, seat.key, received)
            {
                self.send(index, seat);
                self.close(index, Closed::Connection(error));
                return true;
            }
        }
        (received > 0) | self.send(index, seat)
    }

    /// What a session has to say, as far as a segment goes.
    fn send(&mut self, index: usize, seat: Seat) -> bool {
        if !self.links[index].ready || self.links[index].deaf {
            return false;
        }
        let mut pieces = [IoSlice::new(&[]); 16];
        let count = self.shards[seat.shard].gather(seat.key, &mut pieces);
        let total = pieces[..count].iter().map(|piece| piece.len()).sum();
        if total == 0 {
            self.links[index].ready = false;
            return false;
        }
        let len = cut(self.segments, &mut self.random, total);
        let mut rest = len;
        for piece in &pieces[..count] {
            let part = piece.len().min(rest);
            self.links[index].to_initiator.extend(&piece[..part]);
            rest -= part;
        }
        self.links[index].target_bytes.1 += len;
        self.shards[seat.shard].transmitted(seat.key, len);
        true
    }

    pub(super) fn close(&mut self, index: usize, why: Closed) {
        self.arrive_all();
        let side = std::mem::replace(&mut self.links[index].side, Side::Closed);
        match side {
            Side::Session(seat) => self.shards[seat.shard].connection_lost(seat.key),
            Side::Login(login) | Side::Draining(login, _) => {
                self.links[index].to_initiator.extend(login.poll_transmit());
            }
            Side::Closed => return,
        }
        self.links[index].closed.get_or_insert(why);
    }
}
