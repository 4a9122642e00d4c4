//! Collaborative areas: what several organisations hold in common, without anybody who holds it for them.
//!
//! An area is a **charter** ({name, purpose, founder, nonce}, whose hash is the area's id), its **members** (organisations), a
//! **rule book** with a number, and what members **share**. There is no log, no coordinator and no vote that somebody counts for
//! others: every fact is a statement of one member in its own catalogue record ([`crate::record::AreaDetail`]), and each member's
//! node folds the newest statements of all into the area that it takes as true ([`Area`]).
//!
//! # Messages
//!
//! There are none but restricted records. Each node of a member writes up to three of each area: the statement (charter, whom it
//! takes for members, wants in, wants out; or that it has left), the rule books (the one in force and the one it wants next),
//! and what it shares. Statement and rule books are for members and for those whom this one wants in; what is shared is for
//! members alone. An organisation that was put out gets a last statement that says this and nothing else. Of several nodes of
//! one organisation the statement with the highest (version, node) counts, and the others follow it.
//!
//! # States
//!
//! An organisation is *invited* to an area when a member wants it in. It *asks* once it has said that it joins, and is a
//! *member* once more than half of the members want it in. It has *left* when it says so, and is *expelled* once more than half
//! of the other members want it out. The founder is a member like the others from the second member on. The rule book in force
//! is the one with the highest number that more than half of the members hold or want.
//!
//! What a majority decided, every other honest member takes over and says itself, so that it stays decided and reaches those who
//! missed the votes. **Who decides** about a question (may this one come in, must that one go) is fixed at each node when it
//! first hears of the question: those who were members then. So it does not matter in which order several invitations made at
//! the same time are answered. When one of those has gone since, the present members decide.
//!
//! # Invariants
//!
//! 1. Nobody is in without its own word, and nobody speaks for another: a statement comes from its author's signed record.
//! 2. As long as those who lie are no majority of the members at any time, they decide nothing: nobody is let in or put out, and
//!    no rule book comes into force, without an honest member having wanted it.
//! 3. What a node takes as true it stores before it says so. A restart goes on where it was, and a member that is away for ever
//!    takes nothing with it: its last statement, and what it shared, stay with the others.
//! 4. Members whose newest statements have all reached each other take the same to be true, whatever was lost or came late on the
//!    way: but for two members who are put out by each other's votes at the same moment, for a vote that is taken back, or members
//!    who come or go, at the moment in which others make it one of a majority, and for two rule books under one number without a
//!    majority for either. Then views may differ, mostly by a question that is open at some: further votes of owners settle it.
//!    Who joins by the word of somebody who has left meanwhile may be alone, and leaves and is invited again.
//!
//! # What a liar can do
//!
//! Share, leave, and vote: say that it takes somebody for a member, or wants somebody out, as far as a minority reaches. Say one
//! thing to one and another to another: each counts what it was told, and a minority is one in both. Name up to 80 organisations in
//! a statement: questions beyond [`QUESTIONS_MAX`] are decided by the present members, and cost nothing else. Share up to
//! [`crate::record::AREA_SHARES_MAX`] things, each of bounded length, which nobody has to take. Show what the others say to
//! somebody outside, which nothing can prevent. A liar who was put out learns of nothing that was said afterwards, but that
//! those leave who put it out.

mod fold;
mod state;
mod view;

pub use state::{Area, AreaError, Gone, Said, Standing, Words};
pub use view::{Holding, Question, QuestionView};

use crate::record::{AreaDetail, Detail, Resource};

/// Most questions that are open at once: further ones are decided by those who are members then, not by those who were when the
/// question was first heard.
pub const QUESTIONS_MAX: usize = 64;

/// The record of an area, as a resource that can be published.
#[must_use]
pub fn record(detail: AreaDetail) -> Resource {
    Resource {
        key: detail.form().key(detail.area),
        name: "area".to_owned(),
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Area(detail),
    }
}
