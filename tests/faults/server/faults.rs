//! Faults that a test can inject, and the requests that they hit.
//!
//! A `Fault` has a verb, the number of matching requests that it lets pass, the number that it then hits, and
//! the action for those. Faults are tried in the order in which they were armed; the first that matches a
//! request applies to it.

use super::ledger::Verb;
use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Action {
    /// Read the whole request, do nothing, answer with this status and text, and keep the connection.
    Status(u16, &'static str),
    /// Answer immediately, with the body unread, and close: a client that still sends gets EPIPE or a reset.
    EarlyStatus(u16, &'static str),
    /// Answer immediately, with the body unread, and keep the connection.
    EarlyStatusKept(u16, &'static str),
    /// `Verb::Patch`: receive no more once the head is read, answer with this status, and close. A request
    /// that has arrived as a whole by then is executed instead, so the records tell whether the fault hit.
    /// Works over a unix socket only, where a client learns at once that nobody receives.
    StatusToHead(u16),
    /// Close as soon as the header is read.
    CloseBeforeBody,
    /// PUT: read and store half of the body, then close. GET: send half of the body, then close.
    CloseMidBody,
    /// Execute the request, then close without an answer.
    CloseBeforeReply,
    /// Execute the request, but answer only after this time.
    Stall(Duration),
    /// Execute the request, but answer only once the faults are disarmed.
    Hold,
    /// GET: send a well-formed answer that is shorter than the requested range.
    ShortLength,
    /// GET: send the right bytes with the wrong `content-range`.
    WrongContentRange,
    /// Answer any request with this status and raw body.
    Reply(u16, &'static str),
    /// Send the right answer without its length, and close.
    WithoutLength,
    /// Send bytes that are not HTTP.
    Garbage,
    /// Read the whole request, do nothing, send exactly these bytes, and keep the connection.
    Raw(&'static str),
    /// The same, and then close.
    RawAndClose(&'static str),
}

#[derive(Debug)]
pub struct Fault {
    verb: Verb,
    touching: Option<u64>,
    pass: usize,
    hits: usize,
    action: Action,
}

impl Fault {
    /// Makes a fault that hits the next request with this verb, once.
    pub fn next(verb: Verb, action: Action) -> Fault {
        Fault {
            verb,
            touching: None,
            pass: 0,
            hits: 1,
            action,
        }
    }

    pub fn always(verb: Verb, action: Action) -> Fault {
        Fault::next(verb, action).times(usize::MAX)
    }

    pub fn after(mut self, requests: usize) -> Fault {
        self.pass = requests;
        self
    }

    pub fn times(mut self, hits: usize) -> Fault {
        self.hits = hits;
        self
    }

    /// Restricts the fault to requests whose range contains this byte.
    pub fn touching(mut self, offset: u64) -> Fault {
        self.touching = Some(offset);
        self
    }
}

#[derive(Default)]
pub struct Faults {
    armed: Vec<Fault>,
    fired: usize,
}

impl Faults {
    pub fn arm(&mut self, fault: Fault) {
        self.armed.push(fault);
    }

    pub fn disarm(&mut self) {
        self.armed.clear();
    }

    pub fn disarm_verb(&mut self, verb: Verb) {
        self.armed.retain(|fault| fault.verb != verb);
    }

    pub fn are_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    pub fn fired(&self) -> usize {
        self.fired
    }

    pub fn pick(&mut self, verb: Verb, range: &Range<u64>) -> Option<Action> {
        for fault in &mut self.armed {
            let wanted = fault.verb == verb && fault.touching.is_none_or(|offset| range.contains(&offset));
            if !wanted || fault.hits == 0 {
                continue;
            }
            if fault.pass > 0 {
                fault.pass -= 1;
                continue;
            }
            if fault.hits != usize::MAX {
                fault.hits -= 1;
            }
            self.fired += 1;
            return Some(fault.action.clone());
        }
        None
    }
}
