//! Who is where: session handles (TSIH), and the reactor that a login belongs to.
//!
//! Pure: requests in, answers out. Every session and every login that was placed holds one TSIH until
//! [`Directory::ended`] gives it back. All that share a nexus (initiator name, ISID, target, portal group) are on
//! the same reactor, so that one can end the other there (session reinstatement, RFC 7143, section 6.3.5)
//! without asking anybody.

use std::collections::HashMap;
use std::sync::Arc;

use crate::reactor::{Place, Unmoved, Whereabouts};
use crate::session::ReactorId;
use crate::session::login::{LoginStatus, PlaceRequest};

/// What makes two sessions the same to an initiator (RFC 7143, sections 4.4.2 and 6.3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Nexus {
    initiator_name: String,
    isid: [u8; 6],
    target_name: String,
    portal_group_tag: u16,
}

impl Nexus {
    /// None: a discovery session.
    fn of(request: &PlaceRequest) -> Option<Self> {
        let target = request.target.as_ref().filter(|_| !request.discovery)?;
        Some(Self {
            initiator_name: request.initiator_name.clone(),
            isid: request.isid,
            target_name: target.name.clone(),
            portal_group_tag: request.portal_group_tag,
        })
    }
}

/// Where a nexus lives, and how many sessions and logins it has there.
#[derive(Clone, Copy, Debug)]
struct Home {
    reactor: ReactorId,
    members: u32,
}

#[derive(Clone, Debug)]
struct Entry {
    reactor: ReactorId,
    cid: u16,
    /// None: a discovery session, which nothing reinstates.
    nexus: Option<Arc<Nexus>>,
}

/// Who is where.
#[derive(Debug)]
pub struct Directory {
    entries: HashMap<u16, Entry>,
    homes: HashMap<Arc<Nexus>, Home>,
    /// Sessions and placed logins per reactor.
    load: Vec<u32>,
    /// Sessions that are asked to move, and where from. A TSIH in here is not given out.
    moving: HashMap<u16, (Arc<Nexus>, ReactorId)>,
    /// Whether a reactor is gone for good.
    is_gone: Vec<bool>,
    /// The TSIH to try first: handles are given out in turn, so that a stale one is not soon somebody else's.
    next: u16,
}

impl Directory {
    /// Nobody is anywhere yet, on `reactors` reactors.
    #[must_use]
    pub fn new(reactors: u16) -> Self {
        Self {
            entries: HashMap::new(),
            homes: HashMap::new(),
            moving: HashMap::new(),
            load: vec![0; usize::from(reactors.max(1))],
            is_gone: vec![false; usize::from(reactors.max(1))],
            next: 1,
        }
    }

    /// Answers a login's first request.
    ///
    /// - TSIH 0 is a new session: it goes where its nexus is, if it has sessions, else to the least loaded
    ///   reactor.
    /// - Another TSIH asks to add a connection to that session, or to replace its connection (the same CID).
    ///   With MaxConnections=1 there is no place for a second one. Replacing the only connection of a
    ///   session with ErrorRecoveryLevel 0 would end every task and keep nothing but the name (RFC 7143,
    ///   section 6.3.4); such an initiator is told that the session does not exist, and logs in anew with
    ///   TSIH 0, which has the same effect and ends the old session in an orderly way.
    ///
    /// # Errors
    /// The status to answer the login with.
    pub fn place(&mut self, request: &PlaceRequest) -> Result<Place, LoginStatus> {
        let nexus = Nexus::of(request).map(Arc::new);
        if request.tsih != 0 {
            return Err(self.refuse_addition(request, nexus.as_deref()));
        }
        let tsih = self.free_tsih().ok_or(LoginStatus::OUT_OF_RESOURCES)?;
        let at_home = nexus
            .as_ref()
            .and_then(|nexus| self.homes.get(nexus))
            .map(|home| home.reactor);
        let reactor = at_home
            .or_else(|| self.least_loaded())
            .ok_or(LoginStatus::OUT_OF_RESOURCES)?;
        if let Some(nexus) = &nexus {
            self.homes
                .entry(Arc::clone(nexus))
                .or_insert(Home {
                    reactor,
                    members: 0,
                })
                .members += 1;
        }
        self.load[usize::from(reactor.0)] += 1;
        self.entries.insert(
            tsih,
            Entry {
                reactor,
                cid: request.cid,
                nexus,
            },
        );
        Ok(Place { reactor, tsih })
    }

    /// Takes a TSIH back: the login failed or the session is gone. Unknown ones are nothing to do.
    pub fn ended(&mut self, tsih: u16) {
        let Some(entry) = self.entries.remove(&tsih) else {
            return;
        };
        self.load[usize::from(entry.reactor.0)] -= 1;
        let Some(nexus) = entry.nexus else {
            return;
        };
        if let Some(home) = self.homes.get_mut(&nexus) {
            home.members -= 1;
            if home.members == 0 {
                self.homes.remove(&nexus);
            }
        }
    }

    /// A session is to move to reactor `to`; gives the reactor that it is on. Until [`Self::settled`] no login of its
    /// nexus may be placed ([`Self::must_wait`]): it would look for the session in the wrong place.
    ///
    /// # Errors
    /// Why it is not to move.
    pub fn begin_move(&mut self, tsih: u16, to: ReactorId) -> Result<ReactorId, Unmoved> {
        let there = self.is_gone.get(usize::from(to.0));
        if there.is_none_or(|is_gone| *is_gone) {
            return Err(Unmoved::NoReactor);
        }
        let entry = self.entries.get(&tsih).ok_or(Unmoved::NoSession)?;
        let nexus = entry.nexus.clone().ok_or(Unmoved::NoSession)?;
        // A login that was placed beside it goes on there, and expects it there.
        let alone = self.homes.get(&nexus).is_some_and(|home| home.members == 1);
        if !alone || self.moving.contains_key(&tsih) {
            return Err(Unmoved::Busy);
        }
        let from = entry.reactor;
        if from != to {
            self.moving.insert(tsih, (nexus, from));
        }
        Ok(from)
    }

    /// Whether a login has to wait because the session it may reinstate is being moved.
    #[must_use]
    pub fn must_wait(&self, request: &PlaceRequest) -> bool {
        let moving = || Nexus::of(request).is_some_and(|n| self.is_moving(&n));
        !self.moving.is_empty() && moving()
    }

    fn is_moving(&self, nexus: &Nexus) -> bool {
        self.moving.values().any(|(moving, _)| **moving == *nexus)
    }

    /// Whether this session is being moved.
    #[must_use]
    pub fn is_under_way(&self, tsih: u16) -> bool {
        self.moving.contains_key(&tsih)
    }

    /// A move has come to its end: the session, if it is still there, is on `reactor`.
    pub fn settled(&mut self, tsih: u16, reactor: ReactorId) {
        let Some((nexus, _)) = self.moving.remove(&tsih) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&tsih) else {
            return;
        };
        self.load[usize::from(entry.reactor.0)] -= 1;
        self.load[usize::from(reactor.0)] += 1;
        entry.reactor = reactor;
        if let Some(home) = self.homes.get_mut(&nexus) {
            home.reactor = reactor;
        }
    }

    /// Every session of a target, and every login to one, by handle.
    #[must_use]
    pub fn list(&self) -> Vec<Whereabouts> {
        let whereabouts = |(&tsih, entry): (&u16, &Entry)| {
            let nexus = entry.nexus.as_ref()?;
            Some(Whereabouts {
                tsih,
                initiator_name: nexus.initiator_name.clone(),
                target_name: nexus.target_name.clone(),
                reactor: entry.reactor,
            })
        };
        let mut list: Vec<_> = self.entries.iter().filter_map(whereabouts).collect();
        list.sort_by_key(|one| one.tsih);
        list
    }

    /// The reactor's thread has ended: what was there is gone, and nobody is placed there any more.
    pub fn reactor_gone(&mut self, reactor: ReactorId) {
        let here = |entry: &Entry| entry.reactor == reactor;
        let lost: Vec<u16> = (self.entries.iter())
            .filter(|(_, entry)| here(entry))
            .map(|(&tsih, _)| tsih)
            .collect();
        for tsih in lost {
            self.ended(tsih);
        }
        // Nobody will say any more what became of these.
        self.moving.retain(|_, (_, from)| *from != reactor);
        if let Some(is_gone) = self.is_gone.get_mut(usize::from(reactor.0)) {
            *is_gone = true;
        }
    }

    /// Whether a reactor has ended.
    #[must_use]
    pub fn is_gone(&self, reactor: ReactorId) -> bool {
        self.is_gone
            .get(usize::from(reactor.0))
            .is_none_or(|is_gone| *is_gone)
    }

    /// Sessions and placed logins there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn refuse_addition(&self, request: &PlaceRequest, nexus: Option<&Nexus>) -> LoginStatus {
        match self.entries.get(&request.tsih) {
            Some(entry)
                if entry.nexus.as_deref() == nexus
                    && nexus.is_some()
                    && entry.cid != request.cid =>
            {
                LoginStatus::TOO_MANY_CONNECTIONS
            }
            _ => LoginStatus::SESSION_DOES_NOT_EXIST,
        }
    }

    /// `None`: no reactor is left.
    fn least_loaded(&self) -> Option<ReactorId> {
        let index = (0..self.load.len())
            .filter(|&i| !self.is_gone[i])
            .min_by_key(|&i| self.load[i])?;
        let index = u16::try_from(index).expect("there are at most 65536 reactors");
        Some(ReactorId(index))
    }

    /// A TSIH nobody holds. Bounded by the number of handles.
    fn free_tsih(&mut self) -> Option<u16> {
        for _ in 0..=u16::MAX {
            let tsih = self.next;
            self.next = self.next.checked_add(1).unwrap_or(1);
            if !self.entries.contains_key(&tsih) && !self.moving.contains_key(&tsih) {
                return Some(tsih);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::target::Target;
    use proptest::prelude::*;

    fn target(name: &str) -> Arc<Target> {
        Arc::new(Target {
            name: name.to_owned(),
            alias: None,
            portal_groups: Vec::new(),
            luns: Vec::new(),
        })
    }

    fn request(initiator: u8, isid: u8, target_name: &str) -> PlaceRequest {
        PlaceRequest {
            initiator_name: format!("iqn.2001-04.com.example:{initiator}"),
            isid: [0, 0, 0, 0, 0, isid],
            tsih: 0,
            cid: 1,
            target: Some(target(target_name)),
            portal_group_tag: 1,
            discovery: false,
        }
    }

    #[test]
    fn new_sessions_go_to_the_least_loaded_reactor() {
        let mut directory = Directory::new(3);
        let mut counts = [0; 3];
        for n in 0..30 {
            let place = directory.place(&request(n, 0, "t")).expect("a new session");
            counts[usize::from(place.reactor.0)] += 1;
        }
        assert_eq!(counts, [10; 3]);
    }

    #[test]
    fn the_same_nexus_goes_where_its_session_is() {
        let mut directory = Directory::new(4);
        let first = directory.place(&request(1, 7, "t")).expect("a new session");
        for n in 2..9 {
            directory.place(&request(n, 7, "t")).expect("a new session");
        }
        let again = directory.place(&request(1, 7, "t")).expect("reinstatement");
        assert_eq!(again.reactor, first.reactor);
        assert_ne!(again.tsih, first.tsih);
        directory.ended(first.tsih);
        let third = directory.place(&request(1, 7, "t")).expect("reinstatement");
        assert_eq!(
            third.reactor, first.reactor,
            "the second one is still there"
        );
    }

    #[test]
    fn what_was_on_a_reactor_that_is_gone_starts_anew_elsewhere() {
        let mut directory = Directory::new(2);
        let first = directory.place(&request(1, 7, "t")).expect("a new session");
        let other = directory.place(&request(2, 7, "t")).expect("a new session");
        directory.reactor_gone(first.reactor);
        assert_eq!(directory.len(), 1, "the other one is still there");
        directory.ended(first.tsih);
        for n in [1, 3, 4, 5] {
            let place = directory.place(&request(n, 7, "t")).expect("a new session");
            assert_eq!(place.reactor, other.reactor);
        }
        directory.reactor_gone(other.reactor);
        assert!(directory.is_empty() && directory.homes.is_empty());
        assert_eq!(
            directory.place(&request(1, 7, "t")),
            Err(LoginStatus::OUT_OF_RESOURCES)
        );
    }

    #[test]
    fn a_session_that_moved_is_found_where_it_is() {
        let mut directory = Directory::new(2);
        let first = directory.place(&request(1, 7, "t")).expect("a new session");
        let to = ReactorId(1 - first.reactor.0);
        assert_eq!(directory.begin_move(first.tsih, to), Ok(first.reactor));
        assert_eq!(directory.begin_move(first.tsih, to), Err(Unmoved::Busy));
        assert!(directory.must_wait(&request(1, 7, "t")));
        assert!(!directory.must_wait(&request(1, 8, "t")));
        directory.settled(first.tsih, to);
        assert!(!directory.must_wait(&request(1, 7, "t")));
        assert_eq!(directory.list()[0].reactor, to);
        let again = directory.place(&request(1, 7, "t")).expect("reinstatement");
        assert_eq!(again.reactor, to);
        // Both are one nexus now: they stay together.
        assert_eq!(
            directory.begin_move(first.tsih, first.reactor),
            Err(Unmoved::Busy)
        );
        directory.ended(first.tsih);
        directory.ended(again.tsih);
        assert_eq!(directory.load, [0, 0]);
    }

    #[test]
    fn a_session_that_ends_while_it_moves_leaves_nothing() {
        let mut directory = Directory::new(2);
        let first = directory.place(&request(1, 7, "t")).expect("a new session");
        let to = ReactorId(1 - first.reactor.0);
        assert!(directory.begin_move(first.tsih, to).is_ok());
        directory.ended(first.tsih);
        directory.next = first.tsih;
        let other = directory.place(&request(2, 7, "t")).expect("a new session");
        assert_ne!(
            other.tsih, first.tsih,
            "the handle is still spoken of elsewhere"
        );
        directory.settled(first.tsih, to);
        directory.ended(other.tsih);
        assert!(directory.is_empty() && directory.homes.is_empty() && directory.moving.is_empty());
        assert_eq!(directory.load, [0, 0]);
        assert_eq!(
            directory.begin_move(first.tsih, to),
            Err(Unmoved::NoSession)
        );
        assert_eq!(
            directory.begin_move(first.tsih, ReactorId(2)),
            Err(Unmoved::NoReactor)
        );
    }

    #[test]
    fn discovery_sessions_reinstate_nothing() {
        let mut directory = Directory::new(2);
        let discovery = PlaceRequest {
            target: None,
            discovery: true,
            ..request(1, 1, "t")
        };
        let a = directory.place(&discovery).expect("a new session");
        let b = directory.place(&discovery).expect("a new session");
        assert_ne!(a.reactor, b.reactor);
    }

    #[test]
    fn a_handle_that_names_no_session_is_told_so() {
        let mut directory = Directory::new(1);
        let place = directory.place(&request(1, 1, "t")).expect("a new session");
        let ask = |tsih, cid, isid| PlaceRequest {
            tsih,
            cid,
            ..request(1, isid, "t")
        };
        for (tsih, cid, isid, status) in [
            (place.tsih, 2, 1, LoginStatus::TOO_MANY_CONNECTIONS),
            (place.tsih, 1, 1, LoginStatus::SESSION_DOES_NOT_EXIST),
            (place.tsih, 2, 9, LoginStatus::SESSION_DOES_NOT_EXIST),
            (place.tsih + 1, 1, 1, LoginStatus::SESSION_DOES_NOT_EXIST),
        ] {
            assert_eq!(
                directory.place(&ask(tsih, cid, isid)),
                Err(status),
                "{tsih} {cid} {isid}"
            );
        }
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn more_logins_than_there_are_handles_are_no_matter_as_long_as_they_end() {
        let mut directory = Directory::new(2);
        let kept = directory.place(&request(0, 0, "t")).expect("a new session");
        for n in 0..70_000_u32 {
            let isid = u8::try_from(n % 251).expect("small");
            let place = directory
                .place(&request(1, isid, "t"))
                .expect("there is room");
            assert!(place.tsih != 0 && place.tsih != kept.tsih);
            directory.ended(place.tsih);
        }
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn when_every_handle_is_taken_a_login_is_refused() {
        let mut directory = Directory::new(1);
        let ask = PlaceRequest {
            target: None,
            discovery: true,
            ..request(1, 1, "t")
        };
        for _ in 0..u16::MAX {
            directory.place(&ask).expect("there is room");
        }
        assert_eq!(directory.place(&ask), Err(LoginStatus::OUT_OF_RESOURCES));
        directory.ended(77);
        assert_eq!(directory.place(&ask).map(|place| place.tsih), Ok(77));
    }

    proptest! {
        /// Whatever comes and goes: handles are unique and not 0, a nexus is on one reactor, and the books balance.
        #[test]
        fn the_books_balance(
            steps in proptest::collection::vec((0_u8..4, 0_u8..3, any::<bool>(), any::<proptest::sample::Index>()), 1..200)
        ) {
            let mut directory = Directory::new(3);
            let mut held: Vec<(u16, u8, u8, ReactorId)> = Vec::new();
            for (initiator, isid, leave, which) in steps {
                if leave && !held.is_empty() {
                    let (tsih, ..) = held.swap_remove(which.index(held.len()));
                    directory.ended(tsih);
                    directory.ended(tsih);
                } else {
                    let place = directory.place(&request(initiator, isid, "t")).unwrap();
                    prop_assert!(place.tsih != 0 && held.iter().all(|h| h.0 != place.tsih));
                    let same = held.iter().find(|h| (h.1, h.2) == (initiator, isid));
                    prop_assert!(same.is_none_or(|h| h.3 == place.reactor));
                    held.push((place.tsih, initiator, isid, place.reactor));
                }
                prop_assert_eq!(directory.len(), held.len());
                for reactor in 0..3_u16 {
                    let here = held.iter().filter(|h| h.3 == ReactorId(reactor)).count();
                    prop_assert_eq!(directory.load[usize::from(reactor)] as usize, here);
                }
            }
            for (tsih, ..) in held {
                directory.ended(tsih);
            }
            prop_assert!(directory.is_empty() && directory.homes.is_empty());
        }
    }
}
