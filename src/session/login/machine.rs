//! The login itself: requests out of bytes, stages, and what it waits for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use zerocopy::FromBytes;

use super::introduction::Introduction;
use super::negotiate::Negotiation;
use super::refusal::{LoginError, Refusal};
use super::respond::{Accept, Header, Responses, VERSION};
use super::stage::{LoginState, Next, StageRequest};
use super::{Established, LoginEvent, LoginLimits, PlaceRequest};
use crate::pdu::bhs::{BHS_LEN, CONTINUE, FINAL, LoginRequestBhs, length_from_24};
use crate::pdu::code::{LoginStage, LoginStatus, Opcode};
use crate::pdu::padding;
use crate::session::target::TargetSet;

/// Most data in one Login PDU: the default MaxRecvDataSegmentLength holds (section 6.3).
const MOST_DATA: usize = 8192;
/// What a login reads into before it is known that more is coming.
const FIRST_ROOM: usize = 1024;
/// Unsent answers that an initiator may pile up by not reading them.
const MOST_UNSENT: usize = 16 * 1024;
/// What the login waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// The initiator's next request.
    Request,
    /// [`Login::placed`], with the stage that the request wants to go to.
    Placement(Option<LoginStage>),
    /// [`Login::finish`].
    Finish,
}

/// One connection before its session: the Login Phase. See the module's text.
#[derive(Debug)]
pub struct Login {
    targets: Arc<TargetSet>,
    portal: SocketAddr,
    limits: LoginLimits,
    deadline: Instant,
    /// Receive buffer; the first `filled` bytes came.
    input: Vec<u8>,
    filled: usize,
    /// Text of the requests that are continued.
    text: Vec<u8>,
    responses: Responses,
    header: Option<Header>,
    requests: u32,
    /// `None` only while a stage is consumed, and when nothing follows.
    state: Option<LoginState>,
    negotiation: Negotiation,
    introduction: Option<Introduction>,
    /// The session's handle, from the directory.
    tsih: u16,
    waiting: Waiting,
    event: Option<LoginEvent>,
    failed: Option<LoginError>,
    /// Text that the first answer starts with.
    greeting: Vec<u8>,
    /// Text of the last response, and the stage it ends.
    last: (Vec<u8>, LoginStage),
}

impl Login {
    /// A connection that arrived now at `portal`, our address of it.
    #[must_use]
    pub fn new(
        targets: Arc<TargetSet>,
        portal: SocketAddr,
        limits: LoginLimits,
        now: Instant,
    ) -> Self {
        Self {
            targets,
            portal,
            limits,
            deadline: now + limits.deadline,
            input: vec![0; FIRST_ROOM],
            filled: 0,
            text: Vec::new(),
            responses: Responses::default(),
            header: None,
            requests: 0,
            state: None,
            negotiation: Negotiation::new(limits.offer, limits.foreign_keys),
            introduction: None,
            tsih: 0,
            waiting: Waiting::Request,
            event: None,
            failed: None,
            greeting: Vec::new(),
            last: (Vec::new(), LoginStage::OPERATIONAL_NEGOTIATION),
        }
    }

    /// Where to receive next; never empty.
    pub fn receive_into(&mut self) -> &mut [u8] {
        &mut self.input[self.filled..]
    }

    /// `len` bytes came into [`Self::receive_into`].
    ///
    /// # Errors
    /// The login is over: send what [`Self::poll_transmit`] has, close.
    pub fn handle_received(&mut self, now: Instant, len: usize) -> Result<(), LoginError> {
        self.handle_timeout(now)?;
        self.filled += len;
        assert!(self.filled <= self.input.len(), "more than there was room");
        self.advance()
    }

    /// Bytes to send.
    #[must_use]
    pub fn poll_transmit(&self) -> &[u8] {
        self.responses.unsent()
    }

    /// `len` bytes of [`Self::poll_transmit`] were sent.
    pub fn transmitted(&mut self, len: usize) {
        self.responses.sent(len);
    }

    /// What the owner must do; each event once.
    pub const fn poll_event(&mut self) -> Option<LoginEvent> {
        self.event.take()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.failed.is_none().then_some(self.deadline)
    }

    /// Time has passed.
    ///
    /// # Errors
    /// The login is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LoginError> {
        if self.failed.is_none() && now >= self.deadline {
            self.failed = Some(LoginError::Deadline);
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// The directory's answer to [`LoginEvent::Place`]: the session's handle, or why there is none.
    ///
    /// # Errors
    /// The login is over: send what [`Self::poll_transmit`] has, close.
    ///
    /// # Panics
    /// When nobody asked.
    pub fn placed(&mut self, placement: Result<u16, LoginStatus>) -> Result<(), LoginError> {
        let Waiting::Placement(transit) = self.waiting else {
            panic!("placed without having been asked to");
        };
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.waiting = Waiting::Request;
        let outcome = match placement {
            Ok(tsih) => {
                self.tsih = tsih;
                self.answer(transit)
            }
            Err(status) => Err(Refusal::Placement(status)),
        };
        outcome.map_err(|refusal| self.fail(refusal))?;
        self.advance()
    }

    /// Ends the login from outside with `status`, until [`Self::finish`] is called: what it was placed on
    /// cannot take it.
    ///
    /// # Panics
    /// Before the first request came.
    pub fn refuse(&mut self, status: LoginStatus) -> LoginError {
        self.fail(Refusal::Placement(status))
    }

    /// Builds the last response, after [`LoginEvent::Complete`]; the session starts with a window of
    /// `window` commands.
    ///
    /// # Panics
    /// When the login is not complete.
    #[must_use]
    pub fn finish(mut self, window: u32) -> Established {
        assert_eq!(self.waiting, Waiting::Finish, "the login is not complete");
        let params = self.negotiation.result().expect("checked when complete");
        let introduction = self.introduction.take().expect("there is a first request");
        let header = self.header.expect("there is a first request");
        let (text, stage) = self.last;
        let answer = Accept {
            stage,
            transit: Some(LoginStage::FULL_FEATURE_PHASE),
            tsih: self.tsih,
            window,
            text: &text,
        };
        self.responses.accept(&header, &answer);
        let (response, stat_sn) = self.responses.into_parts();
        self.input.truncate(self.filled);
        Established {
            initiator_name: introduction.initiator_name,
            isid: header.isid,
            tsih: self.tsih,
            cid: header.cid,
            discovery: introduction.discovery,
            target: introduction.target,
            targets: self.targets,
            portal: self.portal,
            portal_group_tag: introduction.portal_group_tag.unwrap_or(0),
            params,
            cmd_sn: header.cmd_sn,
            stat_sn,
            response,
            received: self.input,
        }
    }

    /// Takes whole requests out of the input while the login waits for one.
    fn advance(&mut self) -> Result<(), LoginError> {
        while self.waiting == Waiting::Request {
            let Some(len) = self.whole_request()? else {
                break;
            };
            let request: Vec<u8> = self.input[..len].to_vec();
            self.input.copy_within(len..self.filled, 0);
            self.filled -= len;
            self.request(&request)
                .map_err(|refusal| self.fail(refusal))?;
            if self.responses.unsent().len() > MOST_UNSENT {
                return Err(self.give_up(LoginError::TooMuchInput));
            }
        }
        if self.filled == self.input.len() {
            return Err(self.give_up(LoginError::TooMuchInput));
        }
        Ok(())
    }

    /// How long the first request in the input is, padding included; `None` while it is not whole.
    fn whole_request(&mut self) -> Result<Option<usize>, LoginError> {
        let Some(&first) = self.input[..self.filled].first() else {
            return Ok(None);
        };
        let opcode = Opcode(first & 0x3f);
        if opcode != Opcode::LOGIN_REQUEST {
            return Err(match self.header {
                None => self.give_up(LoginError::NotLogin(opcode)),
                Some(_) => self.fail(Refusal::OtherPdu(opcode)),
            });
        }
        if self.filled < BHS_LEN {
            return Ok(None);
        }
        let bhs = login_request(&self.input);
        let data = usize::try_from(length_from_24(bhs.data_segment_length))
            .expect("24 bits fit in a usize");
        if data > MOST_DATA || bhs.total_ahs_length != 0 {
            let header = Header::of(bhs);
            self.header.get_or_insert(header);
            return Err(self.fail(Refusal::Length));
        }
        let len = BHS_LEN + data + padding(data);
        // One byte more than the request, so that there is always room to receive into.
        if self.input.len() <= len {
            self.input.resize(len + 1, 0);
        }
        Ok((self.filled >= len).then_some(len))
    }

    /// One whole Login Request.
    fn request(&mut self, request: &[u8]) -> Result<(), Refusal> {
        let bhs = login_request(request);
        let transit = self.check_header(bhs)?;
        let data = usize::try_from(length_from_24(bhs.data_segment_length))
            .expect("24 bits fit in a usize");
        self.text
            .extend_from_slice(&request[BHS_LEN..BHS_LEN + data]);
        self.requests += 1;
        if self.text.len() > self.limits.text || self.requests > self.limits.requests {
            return Err(Refusal::TooLong);
        }
        if bhs.flags & CONTINUE != 0 {
            let stage = LoginStage(bhs.flags >> 2 & 3);
            self.respond(stage, None, &[]);
            return Ok(());
        }
        if self.introduction.is_some() {
            return self.answer(transit);
        }
        let introduction = Introduction::read(&self.text, &self.targets, self.portal)?;
        let (tsih, cid) = (bhs.tsih.get(), bhs.cid.get());
        self.negotiation
            .set_session(tsih == 0, introduction.discovery);
        self.event = Some(LoginEvent::Place(PlaceRequest {
            initiator_name: introduction.initiator_name.clone(),
            isid: bhs.isid,
            tsih,
            cid,
            target: introduction.target.clone(),
            portal_group_tag: introduction.portal_group_tag.unwrap_or(0),
            discovery: introduction.discovery,
        }));
        self.greeting = introduction.greeting();
        self.introduction = Some(introduction);
        self.waiting = Waiting::Placement(transit);
        Ok(())
    }

    /// Checks what the header says of stages and of the login it belongs to; gives the stage it wants to
    /// go to.
    fn check_header(&mut self, bhs: &LoginRequestBhs) -> Result<Option<LoginStage>, Refusal> {
        let header = Header::of(bhs);
        let first = *self.header.get_or_insert(header);
        if !first.is_same_login(&header) {
            return Err(Refusal::HeaderChanged);
        }
        if bhs.version_min > VERSION {
            return Err(Refusal::Version);
        }
        let (current, next) = (LoginStage(bhs.flags >> 2 & 3), LoginStage(bhs.flags & 3));
        match &self.state {
            None => self.state = Some(LoginState::starting(current)?),
            Some(state) if state.stage() == current => {}
            Some(_) => return Err(Refusal::Stage),
        }
        match (bhs.flags & FINAL != 0, bhs.flags & CONTINUE != 0) {
            (true, true) => Err(Refusal::ContinueAndTransit),
            (false, _) => Ok(None),
            (true, false) => {
                let known = next == LoginStage::OPERATIONAL_NEGOTIATION
                    || next == LoginStage::FULL_FEATURE_PHASE;
                if known && next.0 > current.0 {
                    Ok(Some(next))
                } else {
                    Err(Refusal::Stage)
                }
            }
        }
    }

    /// Answers the text that has come together, in the stage it belongs to.
    fn answer(&mut self, transit: Option<LoginStage>) -> Result<(), Refusal> {
        let text = std::mem::take(&mut self.text);
        let state = self.state.take().expect("every request has a stage");
        let stage = state.stage();
        let mut reply = std::mem::take(&mut self.greeting);
        let request = StageRequest {
            text: &text,
            transit,
        };
        match state.handle(request, &mut self.negotiation, &mut reply)? {
            Next::Continue(state) => {
                self.state = Some(state);
                self.respond(stage, transit, &reply);
            }
            Next::FullFeaturePhase => {
                self.negotiation.result()?;
                self.last = (reply, stage);
                self.waiting = Waiting::Finish;
                self.event = Some(LoginEvent::Complete);
            }
        }
        Ok(())
    }

    /// A response that does not end the login.
    fn respond(&mut self, stage: LoginStage, transit: Option<LoginStage>, text: &[u8]) {
        let header = self.header.expect("there is a request to answer");
        let answer = Accept {
            stage,
            transit,
            tsih: header.tsih,
            window: 0,
            text,
        };
        self.responses.accept(&header, &answer);
    }

    /// Ends the login with a response that says why.
    fn fail(&mut self, refusal: Refusal) -> LoginError {
        let header = self.header.expect("there is a request to refuse");
        if self.failed.is_none() {
            self.responses.refuse(&header, refusal.status());
        }
        self.give_up(LoginError::Refused(refusal))
    }

    /// Ends the login; the first reason stays.
    fn give_up(&mut self, error: LoginError) -> LoginError {
        *self.failed.get_or_insert(error)
    }
}

/// The header at the start of `request`, which is long enough.
fn login_request(request: &[u8]) -> &LoginRequestBhs {
    LoginRequestBhs::ref_from_prefix(request)
        .expect("a header is there")
        .0
}
