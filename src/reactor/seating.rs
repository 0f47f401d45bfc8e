//! Sessions of this core, from the login that becomes one to the handle that is free again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::arrival::{Connection, Phase, Wait};
use super::message::{Identity, Reason, Request, What};
use super::{Reactor, Seated};
use crate::session::SessionKey;
use crate::session::login::{LoginError, LoginStatus};

/// How long a login waits for the session it takes the place of. What it holds for longer is with a medium that
/// does not answer, and only there it is in the new session's way.
const PATIENCE: Duration = Duration::from_secs(1);

impl Reactor {
    /// The login is done but for its last answer: first the session it takes the place of should be gone
    /// (RFC 7143, section 6.3.5).
    pub(super) fn complete(&mut self, slot: usize) {
        let Some(entering) = self.entering(slot) else {
            return;
        };
        let nexus = entering
            .identity
            .as_ref()
            .and_then(|identity| identity.nexus.clone());
        let old = nexus.and_then(|nexus| self.nexuses.get(&nexus).copied());
        let Some(old) = old else {
            self.open_session(slot);
            return;
        };
        if let Some(entering) = self.entering(slot) {
            entering.wait = Wait::Reinstatement(old, Instant::now() + PATIENCE);
        }
        self.around.counters.sessions_reinstated.add(1);
        // Without a connection it only drains already.
        if let Some(old_slot) = self.sessions.get(&old).and_then(|seated| seated.slot) {
            self.close(old_slot, Reason::Reinstated);
        }
    }

    /// A login that waited long enough for a session of which a medium still has something goes on beside it.
    pub(super) fn lose_patience(&mut self, slot: usize) {
        let now = self.now;
        let Some(entering) = self.entering(slot) else {
            return;
        };
        let Wait::Reinstatement(old, until) = entering.wait else {
            return;
        };
        if now < until {
            return;
        }
        let identity = entering.identity.as_ref();
        let nexus = identity.and_then(|identity| identity.nexus.clone());
        let newest = nexus
            .as_ref()
            .and_then(|nexus| self.nexuses.get(nexus).copied());
        if newest == Some(old) {
            self.open_session(slot);
        } else {
            // Another login of this nexus was quicker: it is the one to take the place of now.
            self.complete(slot);
        }
        self.send_login(slot);
    }

    /// What is left of sessions of the same nexus comes before what the new one does.
    fn follow(&mut self, key: SessionKey, identity: Option<&Identity>) {
        let Some(nexus) = identity.and_then(|identity| identity.nexus.as_ref()) else {
            return;
        };
        for (&old, seated) in &self.sessions {
            if seated.nexus.as_ref() == Some(nexus) {
                self.shard.follow(key, old);
            }
        }
    }

    fn open_session(&mut self, slot: usize) {
        let window = self.shard.window_for_new_session();
        if window == 0 {
            if let Some(entering) = self.entering(slot) {
                let error = entering.login.refuse(LoginStatus::OUT_OF_RESOURCES);
                self.close(slot, Reason::Login(error));
            }
            return;
        }
        let Some(connection) = self.connections.at(slot) else {
            return;
        };
        let peer = connection.peer;
        let Phase::Login(entering) = std::mem::replace(&mut connection.phase, Phase::Over) else {
            return;
        };
        let established = entering.login.finish(window);
        let tsih = established.tsih;
        let key = match self.shard.open_session(established, self.now) {
            Ok(key) => key,
            Err(_) => {
                self.forget(Some(tsih));
                self.close(slot, Reason::OutOfResources);
                return;
            }
        };
        self.follow(key, entering.identity.as_ref());
        if let Some(connection) = self.connections.at(slot) {
            connection.phase = Phase::Session(key);
            connection.permit.logged_in();
        }
        self.seat(slot, key, tsih, peer, entering.identity);
    }

    fn seat(
        &mut self,
        slot: usize,
        key: SessionKey,
        tsih: u16,
        peer: SocketAddr,
        identity: Option<Identity>,
    ) {
        let nexus = identity
            .as_ref()
            .and_then(|identity| identity.nexus.clone());
        if let Some(nexus) = nexus.clone() {
            self.nexuses.insert(nexus, key);
        }
        let seated = Seated {
            tsih,
            nexus,
            peer,
            slot: Some(slot),
            reason: Reason::PeerClosed,
        };
        self.sessions.insert(key, seated);
        self.around.counters.sessions_opened.add(1);
        if let Some(Identity {
            initiator_name,
            target,
            ..
        }) = identity
        {
            self.report(
                peer,
                What::SessionOpened {
                    tsih,
                    initiator_name,
                    target,
                },
            );
        }
        self.unsent.push(slot);
    }

    /// Nothing is left of a session: its handle is free, and who waited for that goes on.
    pub(super) fn session_gone(&mut self, key: SessionKey) {
        let Some(seated) = self.sessions.remove(&key) else {
            return;
        };
        self.advance_departures();
        if let Some(slot) = seated.slot {
            self.remove(slot);
        }
        if let Some(nexus) = &seated.nexus
            && self.nexuses.get(nexus) == Some(&key)
        {
            self.nexuses.remove(nexus);
        }
        self.around.counters.sessions_closed.add(1);
        self.forget(Some(seated.tsih));
        self.report(
            seated.peer,
            What::SessionClosed {
                tsih: seated.tsih,
                reason: seated.reason,
            },
        );
        let waiting: Vec<usize> = self.connections.numbers().collect();
        for slot in waiting {
            if self.entering(slot).is_some_and(
                |entering| matches!(entering.wait, Wait::Reinstatement(old, _) if old == key),
            ) {
                self.complete(slot);
                self.send_login(slot);
            }
        }
    }

    fn count_failed_login(&self, reason: Reason) {
        let counters = &self.around.counters;
        counters.logins_failed.add(1);
        let why = match reason {
            Reason::Login(LoginError::NotLogin(_)) => &counters.logins_foreign,
            Reason::Login(LoginError::Refused(_)) => &counters.logins_refused,
            Reason::Login(LoginError::Deadline) => &counters.logins_late,
            Reason::Login(LoginError::TooMuchInput) => &counters.logins_flooded,
            _ => return,
        };
        why.add(1);
    }

    /// Ends a connection: its login is over, or its session begins to drain.
    pub(super) fn close(&mut self, slot: usize, reason: Reason) {
        if matches!(reason, Reason::Login(_)) {
            // The answer that says why.
            self.send_login(slot);
        }
        let Some(connection) = self.remove(slot) else {
            return;
        };
        if !matches!(reason, Reason::PeerClosed | Reason::Socket(_)) {
            let registry = self.poll.registry();
            self.lingering.add(self.now, connection.socket, registry);
        }
        match connection.phase {
            Phase::Login(entering) => {
                self.count_failed_login(reason);
                self.forget(entering.tsih);
                self.report(connection.peer, What::LoginFailed(reason));
            }
            Phase::Session(key) => {
                if let Some(seated) = self.sessions.get_mut(&key) {
                    seated.slot = None;
                    seated.reason = reason;
                }
                if matches!(reason, Reason::Protocol(_)) {
                    self.around.counters.protocol_errors.add(1);
                }
                self.shard.connection_lost(key);
            }
            Phase::Over => self.report(connection.peer, What::LoginFailed(reason)),
        }
    }

    /// Takes a connection out of every list.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Connection> {
        let connection = self.connections.remove(slot)?;
        self.active.retain(|&other| other != slot);
        self.unsent.retain(|&other| other != slot);
        self.sending.retain(|&other| other != slot);
        Some(connection)
    }

    /// Tells control that a handle is free.
    pub(super) fn forget(&self, tsih: Option<u16>) {
        if let Some(tsih) = tsih {
            self.request(Request::Ended { tsih });
        }
    }
}
