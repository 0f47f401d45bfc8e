//! Sessions that move from one shard to another, as the reactors do it.

use ringtgt::session::Parcel;

use super::pair::{Pair, Seat, Side};

impl Pair {
    /// The session of this link is to move to another shard, as soon as it can. False: it cannot.
    pub fn move_session(&mut self, link: usize, to: usize) -> bool {
        let Side::Session(seat) = self.links[link].side else {
            return false;
        };
        let may = seat.shard != to && self.shards[seat.shard].begin_departure(seat.key);
        if may {
            self.departures.push((link, to));
        }
        may
    }

    /// Sessions go, arrive, or stay after all.
    pub(super) fn moving_turn(&mut self) -> bool {
        let mut moved = false;
        for at in (0..self.departures.len()).rev() {
            let (link, to) = self.departures[at];
            let Side::Session(seat) = self.links[link].side else {
                self.departures.remove(at);
                continue;
            };
            if let Some(parcel) = self.shards[seat.shard].pack(seat.key) {
                self.departures.remove(at);
                self.parcels.push((link, to, parcel));
                moved = true;
            } else if self.random.chance(200) {
                // It took too long.
                self.departures.remove(at);
                self.shards[seat.shard].cancel_departure(seat.key);
                self.moves.1 += 1;
                moved = true;
            }
        }
        for at in (0..self.parcels.len()).rev() {
            moved = true;
            if self.random.chance(4) {
                let (link, to, parcel) = self.parcels.remove(at);
                self.arrive(link, to, parcel);
            }
        }
        moved
    }

    /// Whoever is on the way arrives now.
    pub(super) fn arrive_all(&mut self) {
        while let Some((link, to, parcel)) = self.parcels.pop() {
            self.arrive(link, to, parcel);
        }
    }

    fn arrive(&mut self, link: usize, to: usize, parcel: Parcel) {
        let Side::Session(from) = self.links[link].side else {
            panic!("who is on the way is open");
        };
        match self.shards[to].adopt(parcel) {
            Some(key) => {
                self.shards[from.shard].departed(from.key);
                let seat = Seat { shard: to, key };
                self.links[link].side = Side::Session(seat);
                for session in self.sessions.iter_mut().filter(|s| s.seat == from) {
                    session.seat = seat;
                }
                self.moves.0 += 1;
            }
            None => {
                self.shards[from.shard].stay(from.key);
                self.moves.1 += 1;
            }
        }
        self.links[link].ready = true;
    }
}
