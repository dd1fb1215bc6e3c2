//! Choosing the segments of the next request: the oldest one that is worth a request and conflicts with
//! nothing in flight, and the neighbours that may go with it.

use std::sync::Arc;

use super::{Flight, MAX_LINGER, MAX_SEGMENTS_PER_LOOK, MAX_SEGMENTS_PER_REQUEST, Pick, Segment, Table};
use crate::disk::write::payload::{Payload, share_block};
use crate::disk::write::strays::Passage;
use crate::sync::Instant;

impl Table {
    /// Chooses the segments to send now, at most `most` bytes of data, but at least one segment if any may
    /// go. With `pressed`, a write waits for room, and no segment waits for neighbours.
    pub(crate) fn pick(&mut self, now: Instant, pressed: bool, most: u64) -> Pick {
        let mut next_look = None;
        let mut found = None;
        for &(_, start) in self.by_age.iter().take(MAX_SEGMENTS_PER_LOOK) {
            let segment = &self.queued[&start];
            let end = start + segment.payload.len();
            if self
                .flights
                .iter()
                .any(|flight| share_block(&(start..end), &(flight.start..flight.end())))
            {
                continue;
            }
            let mut ripe = segment.born + MAX_LINGER;
            if pressed || self.is_due(start, segment, now) {
                match self.strays.passage(start, &segment.payload, now) {
                    Passage::Free => {
                        found = Some(start);
                        break;
                    }
                    Passage::Wait(until) => ripe = until,
                    Passage::Blocked(by) => return Pick::Blocked(by),
                }
            }
            next_look = Some(next_look.map_or(ripe, |t: Instant| t.min(ripe)));
        }
        let Some(start) = found else {
            return Pick::Wait(next_look);
        };
        let mut run = vec![self.launch(start)];
        while let Some(next) = self.next_of(&run, now, pressed, most) {
            let next = self.launch(next);
            run.push(next);
        }
        Pick::Go(run)
    }

    /// True when a segment does not have to wait for neighbours.
    fn is_due(&self, start: u64, segment: &Segment, now: Instant) -> bool {
        let end = start + segment.payload.len();
        let full = matches!(segment.payload, Payload::Data(_)) && end % self.cell == 0;
        full || segment.seq <= self.urgent || segment.born + MAX_LINGER <= now
    }

    /// Returns the start of the queued data that follows `run` and may go with it.
    fn next_of(&mut self, run: &[Flight], now: Instant, pressed: bool, most: u64) -> Option<u64> {
        let (first, last) = (run.first()?, run.last()?);
        let end = last.end();
        let next = self.queued.get(&end)?;
        let next_end = end + next.payload.len();
        let is_data = |payload: &Payload| matches!(payload, Payload::Data(_));
        // The flights of the run itself were launched last.
        let others = &self.flights[..self.flights.len() - run.len()];
        let free = |flight: &Flight| !share_block(&(end..next_end), &(flight.start..flight.end()));
        let fits = is_data(&last.payload) && is_data(&next.payload) && next_end - first.start <= most;
        let due = pressed || self.is_due(end, next, now);
        let goes = run.len() < MAX_SEGMENTS_PER_REQUEST && fits && due && others.iter().all(free);
        (goes && self.strays.passage(end, &next.payload, now) == Passage::Free).then_some(end)
    }

    /// Moves the segment at `start` to the flights; of long zeros, only the first part.
    fn launch(&mut self, start: u64) -> Flight {
        let mut segment = self.take(start);
        let most = self.pace.bytes();
        match &mut segment.payload {
            Payload::Zero(len) if *len > most => {
                let rest = Segment {
                    payload: Payload::Zero(*len - most),
                    ..segment
                };
                *len = most;
                self.insert(start + most, rest);
            }
            _ => {}
        }
        self.count(&segment.payload);
        let flight = Flight {
            start,
            payload: Arc::new(segment.payload),
            seq: segment.seq,
            era: self.era,
        };
        self.flights.push(flight.clone());
        flight
    }
}
