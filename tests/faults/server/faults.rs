//! What a test can make go wrong, and when.
//!
//! A `Fault` names a verb, how many matching requests it lets pass, how many it then hits, and what happens to
//! those. Faults are asked in the order in which they were armed; the first that wants a request has it.

use super::ledger::Verb;
use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Action {
    /// Take the whole request, do nothing, answer with this status and text; the connection stays.
    Status(u16, &'static str),
    /// Answer at once, with the body unread, and close: a client that still sends gets EPIPE or a reset.
    EarlyStatus(u16, &'static str),
    /// Close as soon as the header is read.
    CloseBeforeBody,
    /// PUT: take (and keep) half of the body, then close. GET: send half of the body, then close.
    CloseMidBody,
    /// Do what was asked, then close without an answer.
    CloseBeforeReply,
    /// Do what was asked, but answer only after this long.
    Stall(Duration),
    /// GET: an answer that is well-formed but shorter than what was asked for.
    ShortLength,
    /// GET: the right bytes under the wrong `content-range`.
    WrongContentRange,
    /// Answer with this status and raw body whatever was asked.
    Reply(u16, &'static str),
    /// Bytes that are no HTTP.
    Garbage,
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
    /// Hits the next request of this kind, once.
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

    /// Only requests whose range holds this byte count.
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
