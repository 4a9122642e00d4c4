//! Who used what of whom, and what it costs: metered dimensions, prices, quotes, and the two-signature channel logs.
//!
//! Between a providing and a consuming node there is one directed **channel** per currency: two hash-linked logs, one written
//! by each side, in which every entry names the newest entry of the other log that its writer durably holds. An attempt of a
//! task is one **lane** of the channel; its receipts are cumulative, so loss, repetition and reordering cannot change money,
//! and its amount is a pure function that anyone recomputes. Two signatures prove that both sides agreed, not that the
//! counters are true.
//!
//! The crate is pure: no socket, file, clock or randomness. Time comes in as Unix milliseconds, keys and random bytes as
//! arguments. The caller stores the bytes of an entry durably **before** it sends them, and after a crash sends the stored
//! bytes again; a channel never signs a sequence number twice.
//!
//! | module | holds |
//! |---|---|
//! | [`dimension`], [`price`], [`rate`] | what is counted, what it costs, the integer arithmetic between |
//! | [`quote`] | a provider's signed priced offer, and its signed no |
//! | [`body`], [`entry`] | the entries of the logs, exactly as they are signed |
//! | [`lane`], [`channel`] | the state machine of one side |
//! | [`bundle`], [`mod@verify`] | the file for third parties and its offline check |
//!
//! ```
//! use accounting::{Counters, Dimension, PricePlan};
//!
//! let plan = PricePlan::default();
//! let hour_of_one_core = Counters::default().with(Dimension::Cpu, 3_600_000_000);
//! let amount = accounting::rate::rate(&plan, &hour_of_one_core)?;
//! assert_eq!(amount.to_string(), "0.02");
//! # Ok::<(), accounting::rate::RateError>(())
//! ```

#![forbid(unsafe_code)]

pub mod body;
pub mod bundle;
pub mod channel;
pub mod dimension;
pub mod entry;
pub mod lane;
mod merge;
mod party;
pub mod price;
pub mod quote;
pub mod rate;
mod state;
pub mod verify;

pub use body::{
    AckCode, AckException, Agreement, Body, Caps, CloseReason, ExposurePolicy, Open, Receipt,
    WorkId,
};
pub use bundle::{Manifest, export};
pub use channel::{
    Channel, ChannelError, EntryError, Event, NewAgreement, OpenTerms, Reading, Received,
    ReplayError,
};
pub use dimension::{Counters, DIMENSIONS, Dimension};
pub use entry::{Entry, EquivocationProof, Side, SignedEntry};
pub use lane::{Lane, LaneState};
pub use party::PartyError;
pub use price::{Basis, PricePlan, PricePlanError, PriceRow};
pub use quote::{Quote, QuoteError, Refusal, RefusalCode};
pub use state::Violation;
pub use verify::{Report, Verdict, verify};
