//! What reactors and control say to each other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::time::Instant;

use mio::net::TcpStream;

use super::idle::PollPolicy;
use super::moving::Traveller;
use crate::session::login::{Login, LoginError, LoginStatus, PlaceRequest};

use crate::session::target::{Target, TargetSet};
use crate::session::{ConnectionError, ReactorId, SessionKey, ShardMessage, Weight};

/// To a reactor.
#[derive(Debug)]
pub enum Message {
    /// A connection was accepted.
    Accepted(Arrival),
    /// The directory's answer.
    Placed {
        /// From the request.
        ticket: Ticket,
        /// Where the login goes on, or why it cannot.
        answer: Result<Place, LoginStatus>,
    },
    /// A login from another reactor.
    Adopt(Box<Moving>),
    /// Let this session go to another reactor.
    Move {
        /// Its handle.
        tsih: u16,
        /// Where to.
        to: ReactorId,
    },
    /// A session from another reactor.
    Arrive(Box<Traveller>),
    /// The session was adopted.
    Departed {
        /// As it was called where it was.
        session: SessionKey,
    },
    /// The session was refused, and comes back.
    TurnedBack(Box<Traveller>),
    /// The socket of a session on its way was lost.
    Lost {
        /// As it was called where it was.
        session: SessionKey,
    },
    /// Wait like this from now on.
    Poll(PollPolicy),
    /// Say what each session has done.
    Weigh {
        /// Room for the answer: a reactor allocates nothing. What does not fit is left out.
        loads: Vec<Load>,
    },
    /// From one shard to another; passes through unread.
    Shard(ShardMessage),
    /// No more commands; finish what was begun, close everything, and end the thread.
    Stop {
        /// Commands that are not finished by then are given up.
        deadline: Instant,
    },
}

/// To control.
#[derive(Debug)]
pub enum Request {
    /// Where does this login go on?
    Place {
        /// Who asks.
        from: ReactorId,
        /// To be handed back.
        ticket: Ticket,
        /// What the login said.
        request: PlaceRequest,
    },
    /// The session, or the login that was to become one, is gone.
    Ended {
        /// Its handle.
        tsih: u16,
    },
    /// Move a session to this reactor.
    Move {
        /// Its handle.
        tsih: u16,
        /// Where to.
        to: ReactorId,
        /// Hears what came of it.
        answer: Sender<Result<(), Unmoved>>,
    },
    /// What became of [`Message::Move`]: the session, if it is still there, is on this reactor.
    Settled {
        /// Its handle.
        tsih: u16,
        /// Where it is.
        reactor: ReactorId,
    },
    /// What the sessions of a reactor have done.
    Loads {
        /// Of this reactor.
        reactor: ReactorId,
        /// One for each session that may move.
        loads: Vec<Load>,
    },
    /// Who is where?
    List {
        /// Hears it.
        answer: Sender<Vec<Whereabouts>>,
    },
    /// The reactor's thread is at its end.
    Stopped {
        /// Which one.
        reactor: ReactorId,
        /// Nobody asked it to stop: it panicked.
        panicked: bool,
    },
}

/// What a session has done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its handle.
    pub tsih: u16,
    /// So much, since it was opened.
    pub weight: Weight,
}

/// A session, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its handle.
    pub tsih: u16,
    /// Who.
    pub initiator_name: String,
    /// With what.
    pub target_name: String,
    /// Where.
    pub reactor: ReactorId,
}

/// Why a session was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmoved {
    /// There is none with this handle, or only a discovery session.
    #[error("there is no such session")]
    NoSession,
    /// There is no such reactor, or it is gone.
    #[error("there is no such reactor")]
    NoReactor,
    /// It is being moved, or taken over by a new login.
    #[error("the session is being moved or reinstated; try again later")]
    Busy,
    /// It could not finish what it had begun in time, or there was no room for it.
    #[error(
        "the session stays where it is: its peer does not read, or the other reactor has no room for it now"
    )]
    Refused,
    /// The target stops.
    #[error("the target stops")]
    Stopping,
}

/// Where a login continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// On this reactor.
    pub reactor: ReactorId,
    /// With this handle, never 0.
    pub tsih: u16,
}

/// Names a connection of one reactor while an answer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) slot: usize,
    pub(super) generation: u32,
}

/// A connection that was just accepted.
#[derive(Debug)]
pub struct Arrival {
    /// The socket, not registered anywhere.
    pub stream: TcpStream,
    /// The initiator's address.
    pub peer: SocketAddr,
    /// Our address of this connection.
    pub local: SocketAddr,
    /// What can be logged in to.
    pub targets: Arc<TargetSet>,
    /// Its place among the connections there may be.
    pub permit: Permit,
}

/// A login on its way to the reactor of its session.
#[derive(Debug)]
pub struct Moving {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) permit: Permit,
    pub(super) login: Login,
    pub(super) tsih: u16,
    pub(super) identity: Identity,
}

/// Two sessions with the same one cannot both be (RFC 7143, section 6.3.5); discovery sessions have none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Nexus {
    initiator_name: Arc<str>,
    isid: [u8; 6],
    target_name: String,
    portal_group_tag: u16,
}

/// Who logs in to what.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) initiator_name: Arc<str>,
    pub(super) target: Option<Arc<Target>>,
    pub(super) nexus: Option<Nexus>,
}

impl Identity {
    pub(super) fn of(request: &PlaceRequest) -> Self {
        let initiator_name: Arc<str> = request.initiator_name.as_str().into();
        let target = request.target.clone().filter(|_| !request.discovery);
        let nexus = target.as_ref().map(|target| Nexus {
            initiator_name: Arc::clone(&initiator_name),
            isid: request.isid,
            target_name: target.name.clone(),
            portal_group_tag: request.portal_group_tag,
        });
        Self {
            initiator_name,
            target,
            nexus,
        }
    }
}

/// Something worth a line in the log; none of them is per command.
#[derive(Debug)]
pub struct Event {
    /// Where it happened.
    pub reactor: ReactorId,
    /// The initiator's address.
    pub peer: SocketAddr,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// A session reached the full feature phase.
    SessionOpened {
        /// Its handle.
        tsih: u16,
        /// Who.
        initiator_name: Arc<str>,
        /// `None`: a discovery session.
        target: Option<Arc<Target>>,
    },
    /// A session came from another reactor.
    SessionMoved {
        /// Its handle.
        tsih: u16,
    },
    /// Nothing is left of a session.
    SessionClosed {
        /// Its handle.
        tsih: u16,
        /// Why.
        reason: Reason,
    },
    /// A connection ended before it was a session.
    LoginFailed(Reason),
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The initiator closed it.
    #[error("the initiator closed the connection")]
    PeerClosed,
    /// The network did.
    #[error("the connection failed: {0}")]
    Socket(std::io::ErrorKind),
    /// What came cannot be followed.
    #[error("{0}")]
    Protocol(ConnectionError),
    /// The login came to nothing.
    #[error("{0}")]
    Login(LoginError),
    /// A Logout, or a reset of the target.
    #[error("logged out")]
    LoggedOut,
    /// The initiator logged in anew.
    #[error("the initiator logged in anew")]
    Reinstated,
    /// There is no memory for another session.
    #[error("no memory for another session")]
    OutOfResources,
    /// The target stops.
    #[error("the target stops")]
    Stopping,
}

/// How many connections there are, of all reactors together, and how many of them are not logged in.
#[derive(Debug, Default)]
pub struct Census {
    open: AtomicU32,
    logging_in: AtomicU32,
}

impl Census {
    /// Connections there are.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Connections that are not logged in.
    #[must_use]
    pub fn logging_in(&self) -> u32 {
        self.logging_in.load(Relaxed)
    }

    /// Counts a connection in, until its permit is dropped. Only one thread (the listener's) may ask.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Permit {
        self.open.fetch_add(1, Relaxed);
        self.logging_in.fetch_add(1, Relaxed);
        Permit {
            census: Arc::clone(self),
            login: Some(Arc::new(())),
        }
    }
}

/// One connection's place in the census.
#[derive(Debug)]
pub struct Permit {
    census: Arc<Census>,
    login: Option<Arc<()>>,
}

impl Permit {
    /// Lasts as long as the connection is not logged in.
    #[must_use]
    pub fn login(&self) -> Weak<()> {
        self.login.as_ref().map_or_else(Weak::new, Arc::downgrade)
    }

    /// The login is done.
    pub(super) fn logged_in(&mut self) {
        if self.login.take().is_some() {
            self.census.logging_in.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.logged_in();
        self.census.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_counts_a_connection_until_it_is_dropped() {
        let census = Arc::new(Census::default());
        let mut a = census.enter();
        let b = census.enter();
        assert_eq!((census.open(), census.logging_in()), (2, 2));
        let login = a.login();
        assert_eq!(login.strong_count(), 1);
        a.logged_in();
        a.logged_in();
        assert_eq!(login.strong_count(), 0);
        assert_eq!((census.open(), census.logging_in()), (2, 1));
        drop(a);
        drop(b);
        assert_eq!((census.open(), census.logging_in()), (0, 0));
    }
}
