//! The fate of a transfer whose ticket was refused, or whose server is away: the decision of a
//! renewal, from the phase that the engine shows and from what was done about it before.

use std::time::Duration;

use crate::engine::Phase;
use crate::imageio::TicketState;

/// A user's pause is ended for data that waits when this much of the retry time is left, or a quarter of it
/// where that is less: the data needs the rest for its way.
const REST_OF_RETRY_TIME: Duration = Duration::from_secs(15);

/// The fate of a transfer whose ticket, or whose server, has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its ticket is there again.
    GoesOn,
    /// It stays as it is, for this reason.
    Stays(&'static str),
    /// It stays as it is: it is in a phase which others have brought it to.
    IsTheirs,
    /// Its pause is the user's, who gets time to end it.
    AwaitsUser,
    /// It is resumed.
    Resumed,
    /// Another one takes its place.
    Replaced,
}

/// The facts that decide the fate of a transfer, beside its phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) state: TicketState,
    pub(super) is_upload: bool,
    /// An earlier attempt has asked for its end.
    pub(super) finalized_by_us: bool,
    /// A resume was tried on it.
    pub(super) resumed: bool,
    /// The user has had the time to end a pause.
    pub(super) awaited: bool,
}

/// Decides whether a transfer in this phase can go on, is out of our hands, or is to be replaced. An upload
/// that others have ended is never brought back.
pub(super) fn fate(phase: Option<&Phase>, facts: Facts) -> Fate {
    match phase {
        Some(paused) if paused.is_paused_by_user() && !facts.awaited => match facts.state {
            TicketState::NobodyThere => Fate::Stays("a user has paused it"),
            TicketState::Refused | TicketState::Unknown | TicketState::InDoubt => Fate::AwaitsUser,
        },
        // A resume brings back a ticket that has expired, and none that is not there; and it ends no request.
        Some(Phase::Paused(_)) if facts.resumed => Fate::Replaced,
        Some(Phase::Paused(_)) if matches!(facts.state, TicketState::Unknown | TicketState::InDoubt) => {
            Fate::Replaced
        }
        Some(Phase::Paused(_)) => Fate::Resumed,
        Some(Phase::Transferring | Phase::Coming(_)) => match facts.state {
            TicketState::NobodyThere => Fate::Stays("the engine sees it at work"),
            // The watcher, or the user, has resumed it just now.
            TicketState::Refused if !facts.resumed => Fate::GoesOn,
            TicketState::Refused | TicketState::Unknown | TicketState::InDoubt => Fate::Replaced,
        },
        // That was us, in an earlier attempt.
        Some(Phase::Finalizing | Phase::Finished) | None if facts.finalized_by_us => Fate::Replaced,
        // The engine ends a download by itself when every byte was read, and when its ticket is lost.
        Some(Phase::Finalizing | Phase::Finished | Phase::Failing(_) | Phase::Failed) | None
            if !facts.is_upload =>
        {
            Fate::Replaced
        }
        Some(Phase::Finalizing | Phase::Finished | Phase::Failing(_) | Phase::Failed) => Fate::IsTheirs,
        None => Fate::Stays("the engine does not know it any more"),
    }
}

/// How long data waits for a user who has paused the transfer.
pub(super) fn users_time(retry_time: Duration) -> Duration {
    retry_time - REST_OF_RETRY_TIME.min(retry_time / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [&str; 11] = [
        "initializing",
        "resuming",
        "transferring",
        "paused_system",
        "paused_user",
        "finalizing_success",
        "finished_success",
        "finished_failure",
        "cancelled_user",
        "cancelled_system",
        "finalizing_cleanup",
    ];

    const FACTS: Facts = Facts {
        state: TicketState::Unknown,
        is_upload: true,
        finalized_by_us: false,
        resumed: false,
        awaited: false,
    };

    fn of(phase: &str, facts: Facts) -> Fate {
        fate(Some(&Phase::of(phase)), facts)
    }

    fn is_left(fate: Fate) -> bool {
        matches!(fate, Fate::IsTheirs | Fate::Stays(_))
    }

    #[test]
    fn an_upload_that_others_have_ended_is_not_brought_back() {
        for state in [
            TicketState::Unknown,
            TicketState::Refused,
            TicketState::NobodyThere,
        ] {
            for resumed in [false, true] {
                let facts = Facts {
                    state,
                    resumed,
                    ..FACTS
                };
                assert!(is_left(fate(None, facts)), "{facts:?}");
                for phase in &PHASES[5..] {
                    assert!(is_left(of(phase, facts)), "{phase} {facts:?}");
                }
                let by_us = Facts {
                    finalized_by_us: true,
                    ..facts
                };
                assert_eq!(fate(None, by_us), Fate::Replaced);
                for (phase, is_end_of_ours) in
                    PHASES[5..].iter().zip([true, true, false, false, false, false])
                {
                    assert_eq!(!is_left(of(phase, by_us)), is_end_of_ours, "{phase} {by_us:?}");
                }
            }
        }
    }

    #[test]
    fn a_download_that_has_ended_is_replaced_whoever_has_ended_it() {
        let facts = Facts {
            is_upload: false,
            ..FACTS
        };
        assert_eq!(fate(None, facts), Fate::Replaced);
        for phase in &PHASES[5..] {
            assert_eq!(of(phase, facts), Fate::Replaced, "{phase}");
        }
    }

    #[test]
    fn the_users_pause_is_the_users_until_data_can_wait_no_longer() {
        for (state, now, then) in [
            (TicketState::Refused, Fate::AwaitsUser, Fate::Resumed),
            (TicketState::Unknown, Fate::AwaitsUser, Fate::Replaced),
            (
                TicketState::NobodyThere,
                Fate::Stays("a user has paused it"),
                Fate::Resumed,
            ),
        ] {
            let facts = Facts { state, ..FACTS };
            assert_eq!(of("paused_user", facts), now);
            let awaited = Facts {
                awaited: true,
                ..facts
            };
            assert_eq!(of("paused_user", awaited), then);
            assert_eq!(of("paused_system", facts), then);
        }
        for seconds in [0, 1, 40, 300] {
            let retry_time = Duration::from_secs(seconds);
            assert!(users_time(retry_time) <= retry_time && users_time(retry_time) >= retry_time / 2);
        }
    }

    #[test]
    fn a_transfer_with_a_request_in_doubt_is_replaced_and_not_resumed() {
        let facts = Facts {
            state: TicketState::InDoubt,
            ..FACTS
        };
        for phase in ["transferring", "resuming", "paused_system"] {
            assert_eq!(of(phase, facts), Fate::Replaced, "{phase}");
        }
        assert_eq!(of("paused_user", facts), Fate::AwaitsUser);
        assert!(is_left(of("cancelled_user", facts)));
    }

    #[test]
    fn a_resume_is_tried_once_before_the_transfer_is_replaced() {
        let facts = Facts {
            state: TicketState::Refused,
            ..FACTS
        };
        let resumed = Facts {
            resumed: true,
            ..facts
        };
        for phase in ["transferring", "resuming"] {
            assert_eq!(of(phase, facts), Fate::GoesOn);
            assert_eq!(of(phase, resumed), Fate::Replaced);
        }
        assert_eq!(of("paused_system", facts), Fate::Resumed);
        assert_eq!(of("paused_system", resumed), Fate::Replaced);
        assert_eq!(of("transferring", FACTS), Fate::Replaced);
    }
}
