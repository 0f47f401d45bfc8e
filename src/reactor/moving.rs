//! Sessions that move to another reactor: sockets, messages and time limits of what `session::departure` does.
//!
//! ```text
//!  control        from                                  to
//!   Move ───────►  stop receiving, drain, pack
//!                  Arrive{socket, parcel} ───────────►  adopt, register, go on
//!   ◄─ Settled ──────────────────────────────────────   (it is there)
//!                  ◄──────────────────────── Departed   forget it
//!   ◄─ Settled ──  ◄── TurnedBack{socket, parcel}       no room, or it would miss a change: goes on here
//!   ◄─ Settled ──  (time is up: goes on here)
//! ```
//!
//! Control gets exactly one [`Request::Settled`] for each order, whatever happens; until then it places no login of the
//! same nexus, so that reinstatement always finds the session.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::arrival::{Connection, Phase};
use super::inbox::Mailbox;
use super::message::{Load, Nexus, Permit, Reason, Request, What};
use super::socket::Socket;
use super::{Message, Reactor, Seated};
use crate::session::{Parcel, ReactorId, SessionKey};

/// How long a session may take to finish what it has begun; nothing is received from it meanwhile. A peer that
/// does not read would hold it up for ever.
const PATIENCE: Duration = Duration::from_millis(200);

/// A session that is to move.
#[derive(Debug)]
pub(super) struct Departure {
    session: SessionKey,
    tsih: u16,
    to: ReactorId,
    /// `None`: it is on its way.
    deadline: Option<Instant>,
}

impl Departure {
    /// When the attempt is given up.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// A session on its way, and its socket.
#[derive(Debug)]
pub struct Traveller {
    stream: TcpStream,
    peer: SocketAddr,
    permit: Permit,
    tsih: u16,
    nexus: Option<Nexus>,
    /// `None`: it was refused.
    parcel: Option<Parcel>,
    passage: Passage,
}

/// Makes sure that the reactor it left hears what became of it, even when the other one ends before it looks.
#[derive(Debug)]
struct Passage {
    home: Mailbox<Message>,
    session: SessionKey,
    is_settled: bool,
}

impl Drop for Passage {
    fn drop(&mut self) {
        if !self.is_settled {
            // Two reactors that end at once need not tell each other.
            let _ = self.home.send(Message::Lost {
                session: self.session,
            });
        }
    }
}

impl Traveller {
    fn turn_back(mut self: Box<Self>) {
        self.parcel = None;
        let home = self.passage.home.clone();
        // One that has ended has no use for it.
        let _ = home.send(Message::TurnedBack(self));
    }
}

impl Reactor {
    /// A session is to move.
    pub(super) fn begin_move(&mut self, tsih: u16, to: ReactorId) {
        let mut sessions = self.sessions.iter();
        let found = sessions.find(|(_, seated)| seated.tsih == tsih && seated.slot.is_some());
        let Some(key) = found.map(|(key, _)| *key) else {
            return self.settled(tsih);
        };
        let known = to != self.id && usize::from(to.0) < self.around.peers.len();
        if self.is_stopping() || !known || !self.shard.begin_departure(key) {
            return self.settled(tsih);
        }
        self.departures.push(Departure {
            session: key,
            tsih,
            to,
            deadline: Some(Instant::now() + PATIENCE),
        });
    }

    /// Lets sessions go that have finished what they had begun; gives up on those that take too long.
    pub(super) fn advance_departures(&mut self) -> usize {
        let mut work = 0;
        let mut at = 0;
        while let Some(departure) = self.departures.get(at) {
            let (key, tsih, to) = (departure.session, departure.tsih, departure.to);
            let Some(deadline) = departure.deadline else {
                at += 1;
                continue;
            };
            let slot = self.sessions.get(&key).and_then(|seated| seated.slot);
            let parcel = slot.and_then(|_| self.shard.pack(key));
            if let (Some(slot), Some(parcel)) = (slot, parcel) {
                self.departures[at].deadline = None;
                self.send_off(key, slot, to, parcel);
            } else if slot.is_none() || self.is_stopping() || self.now >= deadline {
                self.departures.swap_remove(at);
                self.shard.cancel_departure(key);
                self.settled(tsih);
            } else {
                at += 1;
                continue;
            }
            work += 1;
        }
        work
    }

    fn send_off(&mut self, key: SessionKey, slot: usize, to: ReactorId, parcel: Parcel) {
        let passage = Passage {
            home: self.around.peers[usize::from(self.id.0)].clone(),
            session: key,
            is_settled: false,
        };
        let Some(seated) = self.sessions.get_mut(&key) else {
            return;
        };
        seated.slot = None;
        let (tsih, nexus) = (seated.tsih, seated.nexus.clone());
        let Some(connection) = self.remove(slot) else {
            return;
        };
        let Connection {
            socket,
            peer,
            permit,
            ..
        } = connection;
        // A socket that cannot be taken out is lost; the passage says so.
        let Ok(stream) = socket.deregister(self.poll.registry()) else {
            return;
        };
        let traveller = Box::new(Traveller {
            stream,
            peer,
            permit,
            tsih,
            nexus,
            parcel: Some(parcel),
            passage,
        });
        let there = &self.around.peers[usize::from(to.0)];
        if let Err(Message::Arrive(traveller)) = there.send(Message::Arrive(traveller)) {
            traveller.turn_back();
        }
    }

    /// A session from another reactor.
    pub(super) fn arrive(&mut self, mut traveller: Box<Traveller>) {
        let parcel = traveller.parcel.take().filter(|_| !self.is_stopping());
        let Some(key) = parcel.and_then(|parcel| self.shard.adopt(parcel)) else {
            return traveller.turn_back();
        };
        let Traveller {
            stream,
            peer,
            permit,
            tsih,
            nexus,
            mut passage,
            ..
        } = *traveller;
        self.around.counters.sessions_moved_in.add(1);
        // Before anything else that may be said of this session from here.
        self.settled(tsih);
        passage.is_settled = true;
        let _ = passage.home.send(Message::Departed {
            session: passage.session,
        });
        if let Some(nexus) = nexus.clone() {
            self.nexuses.insert(nexus, key);
        }
        let seated = Seated {
            tsih,
            nexus,
            peer,
            slot: None,
            reason: Reason::PeerClosed,
        };
        self.sessions.insert(key, seated);
        self.report(peer, What::SessionMoved { tsih });
        self.plug_in(key, stream, peer, permit);
    }

    /// The socket of a session that has none.
    fn plug_in(&mut self, key: SessionKey, stream: TcpStream, peer: SocketAddr, permit: Permit) {
        let slot = self.connections.next();
        let socket = Socket::register(stream, self.poll.registry(), Token(slot));
        let Some(seated) = self.sessions.get_mut(&key) else {
            return;
        };
        match socket {
            Ok(socket) => {
                seated.slot = Some(slot);
                self.connections.insert(Connection {
                    socket,
                    peer,
                    permit,
                    phase: Phase::Session(key),
                    is_active: true,
                });
                self.active.push(slot);
                self.unsent.push(slot);
            }
            Err(error) => {
                seated.reason = Reason::Socket(error.kind());
                self.shard.connection_lost(key);
            }
        }
    }

    /// It was adopted: it is nothing of ours any more.
    pub(super) fn departed(&mut self, key: SessionKey) {
        self.departures.retain(|departure| departure.session != key);
        self.shard.departed(key);
        if let Some(seated) = self.sessions.remove(&key)
            && let Some(nexus) = &seated.nexus
            && self.nexuses.get(nexus) == Some(&key)
        {
            self.nexuses.remove(nexus);
        }
        self.around.counters.sessions_moved_out.add(1);
    }

    /// It was refused: it goes on here.
    pub(super) fn turned_back(&mut self, traveller: Traveller) {
        let Traveller {
            stream,
            peer,
            permit,
            tsih,
            mut passage,
            ..
        } = traveller;
        passage.is_settled = true;
        let key = passage.session;
        self.departures.retain(|departure| departure.session != key);
        self.shard.stay(key);
        self.settled(tsih);
        if self.is_stopping() {
            if let Some(seated) = self.sessions.get_mut(&key) {
                seated.reason = Reason::Stopping;
            }
            return self.shard.connection_lost(key);
        }
        self.plug_in(key, stream, peer, permit);
    }

    /// Its socket is gone: so is the session.
    pub(super) fn lost(&mut self, key: SessionKey) {
        self.departures.retain(|departure| departure.session != key);
        self.shard.stay(key);
        self.shard.connection_lost(key);
        if let Some(seated) = self.sessions.get(&key) {
            self.settled(seated.tsih);
        }
    }

    /// The session is on this reactor, now that the order to move it has been dealt with.
    fn settled(&self, tsih: u16) {
        let reactor = self.id;
        self.request(Request::Settled { tsih, reactor });
    }

    /// Says what each session has done, of as many as `loads` has room for.
    pub(super) fn weigh(&mut self, mut loads: Vec<Load>) {
        for (key, seated) in &self.sessions {
            if loads.len() == loads.capacity() {
                break;
            }
            if seated.nexus.is_some()
                && seated.slot.is_some()
                && let Some(weight) = self.shard.weigh(*key)
            {
                let tsih = seated.tsih;
                loads.push(Load { tsih, weight });
            }
        }
        let reactor = self.id;
        self.request(Request::Loads { reactor, loads });
    }
}
