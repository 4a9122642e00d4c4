//! Collaborative areas: what several organisations hold in common, without anybody who holds it for them.
//!
//! An area is a **charter** ({name, purpose, founder, nonce}, whose hash is the area's id), a **roll**, and what members **share**.
//! The roll says who is in, who may come in, and which rule book is in force; rolls have numbers and follow each other. There is
//! no log, no coordinator and no vote that somebody counts for others: every fact is a statement of one member in its own
//! catalogue record ([`crate::record::AreaDetail`]), and each member's node draws from the newest statements of all what it takes
//! as true ([`Area`]).
//!
//! # Messages
//!
//! There are none but restricted records. Each node of a member writes up to three of each area: the statement (charter, the roll
//! that it holds, whom it wants in, whom it wants out, and its ballot on the next roll; or that it has left), the rule books (the
//! one in force, the one it wants next, and the numbers and hashes of the rolls it has held last, its *trail*), and what it shares.
//! Statement and rule books are for members and for those whom this one wants in or the roll lets in; what is shared is for
//! members alone. An organisation that was put out gets a last statement that says this and nothing else. Who leaves or is put out
//! says last which roll it held. Of several nodes of one organisation the statement with the highest (version, node) counts, and the
//! others follow it.
//!
//! # States
//!
//! An organisation is *invited* to an area when a member wants it in, *let in* once more than half of the members do, *asks* once
//! it has said that it joins, and is a *member* once it has asked and is let in. It has *left* when it says so, and is *expelled*
//! once more than half of the other members want it out. A rule book comes into force when more than half of the members want it.
//! The founder is a member like the others from the second member on. Votes are wishes: they may be taken back until they are
//! counted.
//!
//! What the wishes and words come to is the **change** that makes the next roll. That all make the same one of it, though each hears
//! the others at another time, is the work of the **ballots**, in rounds from 0 for each roll. A member that sees anything to
//! change *chooses* everything that is due as it sees it, once in a round. When more than half of the members have chosen the same,
//! it *accepts* that. When more than half have accepted the same in one round, the change is **passed**, and everyone who sees that
//! holds the next roll. A member that sees more than half choose, and not the same, goes on to the next round, and so does who
//! sees somebody there. In a later round it chooses only when more than half have gone on: what may have been passed before, by all
//! that it knows of them; or, when nothing may, everything that is due now. When all have heard all, they see the same to be due, and
//! choose the same. So there is one chain of rolls, as two halves, each more than one half, have somebody in common. Those who
//! have left count where they have voted, and their last words say how; where they have not they do not count.
//!
//! Who was away takes over a roll that more than half of the members of its own one hold, or have held by their trails.
//!
//! # Invariants
//!
//! 1. Nobody is in without its own word, and nobody speaks for another: a statement comes from its author's signed record.
//! 2. As long as those who lie are no majority of the members at any time, they decide nothing: nobody is let in or put out, and
//!    no rule book comes into force, without an honest member having wanted it. What is passed more than half have chosen, and an
//!    honest member chooses what it sees more than half of the members want.
//! 3. What a node takes as true it stores before it says so. A restart goes on where it was, and a member that is away for ever
//!    takes nothing with it: its last statement, and what it shared, stay with the others. Who leaves and comes back keeps its
//!    ballot, so that it votes once in a round.
//! 4. Members that take each other for members, and whose newest statements have all reached each other, hold the same roll and see
//!    the same questions open, whatever was asked at one moment, taken back, lost, or came late. Where votes are split, the question
//!    is open at all. Liars who say the same to all change nothing of that.
//!
//! # What is not promised
//!
//! Half of the members that are away for ever, and do not say that they leave, stop every change but leaving: the others leave and
//! found another area. Of two members each puts the other out alone; when both do at one moment, each is alone in an area of its own.
//! Two nodes of one organisation that vote at the same moment, before they hear of each other, are as one that says two things.
//! Who was away while more than half of those it knew went and came to others stays behind, or alone, and leaves and is invited
//! again; so does who joined by the word of somebody who has left meanwhile.
//!
//! # What a liar can do
//!
//! Share, leave, and vote: say that it wants somebody in or out, as far as a minority reaches. Choose something else in each round as
//! long as it likes, and so delay a change while the others are not yet more than half of one mind. Say one thing to one and
//! another to another: each counts what it was told, and a minority is one in both. But where the others are split as well, each
//! half may be made to see more than half with it, and they hold two rolls of one number from then on: each half made its own one of
//! honest wishes, and who is in the smaller leaves it and is invited again. Name up to 80 organisations in a statement, which cost
//! nothing but their place. Share up to [`crate::record::AREA_SHARES_MAX`] things, each of bounded length, which nobody has to take. Show
//! what the others say to somebody outside, which nothing can prevent. A liar who was put out learns of nothing that was said
//! afterwards, but that those leave who put it out.

mod agree;
mod fold;
mod roll;
mod state;
mod view;

pub use state::{Area, AreaError, Gone, Said, Standing, Words};
pub use view::{Holding, Question, QuestionView};

use crate::record::{AreaDetail, Detail, Resource};

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
