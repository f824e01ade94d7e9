//! What machines decide: pure state machines with no IO, no clock and no random source.
//!
//! A machine takes inputs through `handle_<input>(&mut self, …, now)`, hands out what is to be done
//! through `poll_output`, says through `poll_timeout` when it wants to be woken, and is woken with
//! `handle_timeout(now)`. One mutation, then every output is drained, then the driver waits. `now`
//! and random numbers come in as arguments; maps are ordered, so that a run can be replayed.
//! Misbehaviour of a peer is an output; an `Err` is a mistake of the caller.

pub mod backoff;
pub mod mailbox;
pub mod rate;
pub mod registry;
pub mod schedule;
pub mod speed;
