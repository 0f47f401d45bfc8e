//! From an accepted socket to a session: the login, its placement, and the sessions it takes the place of.

use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;

use super::message::{Arrival, Identity, Moving, Permit, Place, Reason, Request, Ticket, What};
use super::socket::{Sent, Socket};
use super::{Message, Reactor};
use crate::buffer::Piece;
use crate::session::SessionKey;
use crate::session::login::{Login, LoginEvent, LoginStatus};

/// One connection of this reactor.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) peer: SocketAddr,
    pub(super) permit: Permit,
    pub(super) phase: Phase,
    /// It is in the list of those to receive from.
    pub(super) is_active: bool,
}

/// What a connection is at.
#[derive(Debug)]
pub(super) enum Phase {
    /// It logs in.
    Login(Box<Entering>),
    /// It carries this session.
    Session(SessionKey),
    /// It is about to be dropped.
    Over,
}

/// A login, and what it waits for.
#[derive(Debug)]
pub(super) struct Entering {
    pub(super) login: Login,
    pub(super) wait: Wait,
    /// Who it is; known with the first request.
    pub(super) identity: Option<Identity>,
    /// Its handle; known when it was placed.
    pub(super) tsih: Option<u16>,
}

/// What a login waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The initiator's next request.
    Initiator,
    /// The directory's answer.
    Directory,
    /// The end of the session it takes the place of, until then.
    Reinstatement(SessionKey, Instant),
}

impl Connection {
    /// When the login's time is up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Login(entering) => {
                let patience = match entering.wait {
                    Wait::Reinstatement(_, until) => Some(until),
                    Wait::Initiator | Wait::Directory => None,
                };
                entering
                    .login
                    .poll_timeout()
                    .into_iter()
                    .chain(patience)
                    .min()
            }
            _ => None,
        }
    }
}

impl Reactor {
    /// A new connection: it starts to log in.
    pub(super) fn accept(&mut self, arrival: Arrival) {
        self.around.counters.connections.add(1);
        if self.is_stopping() {
            return;
        }
        let Arrival {
            stream,
            peer,
            local,
            targets,
            permit,
        } = arrival;
        let login = Login::new(targets, local, self.login, Instant::now());
        let entering = Entering {
            login,
            wait: Wait::Initiator,
            identity: None,
            tsih: None,
        };
        self.settle(stream, peer, permit, entering);
    }

    /// Gives a socket its number and its place in the registry.
    fn settle(
        &mut self,
        stream: mio::net::TcpStream,
        peer: SocketAddr,
        permit: Permit,
        entering: Entering,
    ) -> Option<usize> {
        let slot = self.connections.next();
        let socket = match Socket::register(stream, self.poll.registry(), Token(slot)) {
            Ok(socket) => socket,
            Err(error) => {
                self.around.counters.logins_failed.add(1);
                self.forget(entering.tsih);
                self.report(peer, What::LoginFailed(Reason::Socket(error.kind())));
                return None;
            }
        };
        let phase = Phase::Login(Box::new(entering));
        self.connections.insert(Connection {
            socket,
            peer,
            permit,
            phase,
            is_active: true,
        });
        self.active.push(slot);
        Some(slot)
    }

    /// A login from another reactor, already placed here.
    pub(super) fn adopt(&mut self, moving: Moving) {
        let Moving {
            stream,
            peer,
            permit,
            login,
            tsih,
            identity,
        } = moving;
        if self.is_stopping() {
            self.forget(Some(tsih));
            return;
        }
        let entering = Entering {
            login,
            wait: Wait::Directory,
            identity: Some(identity),
            tsih: Some(tsih),
        };
        if let Some(slot) = self.settle(stream, peer, permit, entering) {
            self.resume(slot, Ok(tsih));
        }
    }

    /// The directory's answer.
    pub(super) fn placed(&mut self, ticket: Ticket, answer: Result<Place, LoginStatus>) {
        let Some(slot) = self.connections.redeem(ticket) else {
            self.forget(answer.ok().map(|place| place.tsih));
            return;
        };
        match answer {
            Ok(place) if place.reactor != self.id => self.move_away(slot, place),
            Ok(place) => {
                if let Some(entering) = self.entering(slot) {
                    entering.tsih = Some(place.tsih);
                }
                self.resume(slot, Ok(place.tsih));
            }
            Err(status) => self.resume(slot, Err(status)),
        }
    }

    /// Hands socket and login to the reactor that the session belongs to.
    fn move_away(&mut self, slot: usize, place: Place) {
        let Some(connection) = self.remove(slot) else {
            return;
        };
        let Connection {
            socket,
            peer,
            permit,
            phase,
            ..
        } = connection;
        let Phase::Login(entering) = phase else {
            return;
        };
        let (Ok(stream), Some(identity)) =
            (socket.deregister(self.poll.registry()), entering.identity)
        else {
            self.forget(Some(place.tsih));
            return;
        };
        let moving = Moving {
            stream,
            peer,
            permit,
            login: entering.login,
            tsih: place.tsih,
            identity,
        };
        let peer = &self.around.peers[usize::from(place.reactor.0)];
        if peer.send(Message::Adopt(Box::new(moving))).is_err() {
            self.forget(Some(place.tsih));
        }
    }

    /// The login goes on with the directory's answer.
    fn resume(&mut self, slot: usize, answer: Result<u16, LoginStatus>) {
        let Some(entering) = self.entering(slot) else {
            return;
        };
        entering.wait = Wait::Initiator;
        match entering.login.placed(answer) {
            Ok(()) => self.advance_login(slot),
            Err(error) => self.close(slot, Reason::Login(error)),
        }
    }

    /// Bytes came for a login.
    pub(super) fn handle_login_bytes(&mut self, slot: usize, bytes: usize) {
        let now = self.now;
        let Some(entering) = self.entering(slot) else {
            return;
        };
        match entering.login.handle_received(now, bytes) {
            Ok(()) => self.advance_login(slot),
            Err(error) => self.close(slot, Reason::Login(error)),
        }
    }

    /// Does what the login asks for, and sends what it has to say.
    fn advance_login(&mut self, slot: usize) {
        while let Some(event) = self
            .entering(slot)
            .and_then(|entering| entering.login.poll_event())
        {
            match event {
                LoginEvent::Place(request) => {
                    let ticket = self.connections.ticket(slot);
                    let from = self.id;
                    if let Some(entering) = self.entering(slot) {
                        entering.identity = Some(Identity::of(&request));
                        entering.wait = Wait::Directory;
                    }
                    self.request(Request::Place {
                        from,
                        ticket,
                        request,
                    });
                }
                LoginEvent::Complete => self.complete(slot),
            }
        }
        self.send_login(slot);
    }

    /// Sends what a login has to say.
    pub(super) fn send_login(&mut self, slot: usize) {
        let Some(connection) = self.connections.at(slot) else {
            return;
        };
        let Phase::Login(entering) = &mut connection.phase else {
            return;
        };
        while connection.socket.is_writable() && !entering.login.poll_transmit().is_empty() {
            self.around.counters.sends.add(1);
            match connection
                .socket
                .send(&[Piece::of(entering.login.poll_transmit())])
            {
                Sent::Bytes(bytes) => {
                    self.around.counters.sent_bytes.add(bytes as u64);
                    entering.login.transmitted(bytes);
                }
                Sent::Nothing => {
                    self.is_blocked = true;
                    break;
                }
                Sent::Failed(kind) => {
                    entering
                        .login
                        .transmitted(entering.login.poll_transmit().len());
                    self.close(slot, Reason::Socket(kind));
                    return;
                }
            }
        }
    }

    pub(super) fn entering(&mut self, slot: usize) -> Option<&mut Entering> {
        match &mut self.connections.at(slot)?.phase {
            Phase::Login(entering) => Some(entering),
            _ => None,
        }
    }

    pub(super) fn expire_logins(&mut self) {
        let now = self.now;
        // By number, without a list: this happens on a core that serves commands, which allocates nothing.
        for slot in 0..self.connections.bound() {
            let late = self
                .entering(slot)
                .and_then(|entering| entering.login.handle_timeout(now).err());
            if let Some(error) = late {
                self.close(slot, Reason::Login(error));
            } else {
                self.lose_patience(slot);
            }
        }
    }

    /// Ends every login: the target stops.
    pub(super) fn end_logins(&mut self) {
        let slots: Vec<usize> = self.connections.numbers().collect();
        for slot in slots {
            if self.entering(slot).is_some() {
                self.close(slot, Reason::Stopping);
            }
        }
    }
}
