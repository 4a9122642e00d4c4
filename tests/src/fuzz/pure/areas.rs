//! The records of collaborative areas, as seeds.

use catalog::area;
use catalog::record::{
    Accepted, AreaBooks, AreaDetail, AreaPart, AreaShares, AreaStatement, Ballot, BookRef, Charter,
    NumberedBook, Passed, Resource, RollChange, Share, ShareKind,
};
use catalog::{Digest, OrgId};

use super::support::org;

/// One of each form.
pub(super) fn records() -> Vec<Resource> {
    let charter = Charter {
        name: "valley".to_owned(),
        about: "floods of the lower valley".to_owned(),
        founder: org(),
        nonce: [7; 16],
    };
    let area = charter.id();
    let content = b"{\"rules\":[]}".to_vec();
    let book = NumberedBook { number: 1, content };
    let other = OrgId::from_bytes([0xee; 32]);
    let change = RollChange { lets: vec![other], ..RollChange::default() };
    let accepted =
        Accepted { round: 0, change: RollChange { book: Some(book.digest()), ..change.clone() } };
    let statement = AreaStatement {
        version: 3,
        charter,
        left: false,
        members: vec![org()],
        admits: vec![other],
        expels: Vec::new(),
        number: 2,
        book: Some(BookRef { number: 1, digest: book.digest() }),
        granted: 0,
        wishes: 1,
        ballot: Some(Ballot { round: 1, choice: Some(change), accepted: Some(accepted) }),
    };
    let books = AreaBooks {
        version: 3,
        proposal: Some(NumberedBook { number: 2, ..book.clone() }),
        rules: Some(book),
        trail: vec![Passed { number: 1, digest: Digest::of(b"roll") }],
    };
    let share = Share {
        kind: ShareKind::Workspace,
        name: "floods".to_owned(),
        digest: Digest::of(b"content"),
        size: 7,
    };
    let shares = AreaShares { version: 3, items: vec![share] };
    [AreaPart::Statement(Box::new(statement)), AreaPart::Books(books), AreaPart::Shares(shares)]
        .into_iter()
        .map(|part| area::record(AreaDetail { area, part }))
        .collect()
}
