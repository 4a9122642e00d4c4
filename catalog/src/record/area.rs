//! What an organisation says of a collaborative area, as its nodes show it to the members and to those that are invited.
//!
//! Each node writes at most three records of an area: its statement, the rule books it holds for right, and what it shares. What
//! follows from the statements of all is in [`crate::area`].

use super::ResourceError;
use crate::cbor::{CborError, Item, ListItem, MapReader, MapWriter};
use crate::id::{Digest, OrgId, to_hex};
use crate::rules::BOOK_LEN_MAX;
use crate::text::{check_line, check_name};
use crate::wire::{wire_map, word_enum};

use super::ballot::{Ballot, BookRef, Passed, TRAIL_MAX, is_mask};

/// Longest name of an area, in characters.
pub const AREA_NAME_LEN_MAX: usize = 64;
/// Longest sentence about an area, in characters.
pub const AREA_ABOUT_LEN_MAX: usize = 120;
/// Most members of an area: with those that are invited no more than one restricted record may be shown to
/// ([`super::AUDIENCE_MAX`]), and no more than a statement has room for. A further one is not let in.
pub const AREA_MEMBERS_MAX: usize = 48;
/// Most organisations that one member wants in, and most that it wants out or has seen put out. More are refused; of those put
/// out the first in order is forgotten.
pub const AREA_WISHES_MAX: usize = 16;
/// Most things that one node shares in one area. More are refused.
pub const AREA_SHARES_MAX: usize = 32;
/// Longest name of something shared, in bytes.
pub const SHARE_NAME_LEN_MAX: usize = 64;
/// Longest content of something shared, in bytes: that of a workspace. Longer ones are refused.
pub const SHARE_LEN_MAX: u64 = 2 << 20;

/// How the key of every record of an area begins.
pub const AREA_KEY_PREFIX: &str = "area/";

/// What is fixed about an area when it is founded. Its hash is the area's id.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// For people.
    pub name: String,
    /// What it is for, in a line.
    pub about: String,
    /// Who founded it.
    pub founder: OrgId,
    /// Tells it from others of the same name.
    pub nonce: [u8; 16],
}

wire_map!(Charter, "a charter", {
    1 must name,
    2 must about,
    3 must founder,
    4 must nonce,
});

impl Charter {
    /// The area's id.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.to_map().encode())
    }

    /// Checks the texts.
    ///
    /// # Errors
    /// See [`ResourceError`].
    pub fn check(&self) -> Result<(), ResourceError> {
        check_name("the area's name", &self.name, AREA_NAME_LEN_MAX)?;
        Ok(check_line("what the area is for", &self.about, AREA_ABOUT_LEN_MAX)?)
    }
}

word_enum!(
    /// The records that a node writes of an area.
    AreaForm, "a form of an area's record",
    {
        /// Who is in, who is wanted in and who out.
        Statement = 1 "statement",
        /// Rule books.
        Books = 2 "books",
        /// What is shared.
        Shares = 3 "shares",
    }
);

impl AreaForm {
    /// The key of this record of an area.
    #[must_use]
    pub fn key(self, area: Digest) -> String {
        let id = to_hex(area.as_bytes());
        match self {
            Self::Statement => format!("{AREA_KEY_PREFIX}{id}"),
            Self::Books | Self::Shares => format!("{AREA_KEY_PREFIX}{id}/{self}"),
        }
    }
}

/// What an organisation says of the members.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AreaStatement {
    /// Grows with each statement of the organisation, whichever of its nodes makes it.
    pub version: u64,
    /// The area.
    pub charter: Charter,
    /// Whether the organisation has left, or was put out; else it is in, or wants to be.
    pub left: bool,
    /// The members on the roll that it holds, ascending; none in the last words to one that was put out.
    pub members: Vec<OrgId>,
    /// Who is let in by that roll, or wanted in by this organisation, ascending.
    pub admits: Vec<OrgId>,
    /// Whom it wants out, or has seen put out, ascending.
    pub expels: Vec<OrgId>,
    /// The number of that roll.
    pub number: u64,
    /// The rule book in force on it.
    pub book: Option<BookRef>,
    /// Those of `admits` that are let in by the roll: the first is the lowest bit.
    pub granted: u64,
    /// Those of `admits` that this organisation wants in itself.
    pub wishes: u64,
    /// How it votes on the next roll.
    pub ballot: Option<Ballot>,
}

wire_map!(AreaStatement, "a statement about an area", {
    1 must version,
    2 must charter,
    3 must left,
    4 must members,
    5 must admits,
    6 must expels,
    7 must number,
    8 may book,
    9 must granted,
    10 must wishes,
    11 may ballot,
});

/// A rule book with its number, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberedBook {
    /// Which one it is of those that follow each other.
    pub number: u64,
    /// It.
    pub content: Vec<u8>,
}

wire_map!(NumberedBook, "a numbered rule book", {
    1 must number,
    2 must content,
});

impl NumberedBook {
    /// The hash of the content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.content)
    }
}

/// Rule books, as one organisation holds them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AreaBooks {
    /// As of [`AreaStatement::version`].
    pub version: u64,
    /// What it takes to be in force.
    pub rules: Option<NumberedBook>,
    /// What it wants to be next.
    pub proposal: Option<NumberedBook>,
    /// The rolls that it has held last, ascending.
    pub trail: Vec<Passed>,
}

wire_map!(AreaBooks, "the rule books of an area", {
    1 must version,
    2 may rules,
    3 may proposal,
    4 must trail,
});

word_enum!(
    /// What can be shared in an area.
    ShareKind, "a kind of shared thing",
    {
        /// Chosen resources, notes, searches and drafts of workflows.
        Workspace = 1 "workspace",
        /// A workflow document.
        Workflow = 2 "workflow",
        /// The document of a service.
        Service = 3 "service",
    }
);

/// Something shared in an area.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What it is.
    pub kind: ShareKind,
    /// Its name among those of its kind.
    pub name: String,
    /// Its content.
    pub digest: Digest,
    /// Bytes of the content.
    pub size: u64,
}

wire_map!(Share, "something shared", {
    1 must kind,
    2 must name,
    3 must digest,
    4 must size,
});
impl ListItem for Share {}

/// What one node shares in an area.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AreaShares {
    /// Grows with each change.
    pub version: u64,
    /// By kind and name, ascending.
    pub items: Vec<Share>,
}

wire_map!(AreaShares, "what is shared in an area", {
    1 must version,
    2 must items,
});

/// What one of the records says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AreaPart {
    /// Of members.
    Statement(Box<AreaStatement>),
    /// Of rule books.
    Books(AreaBooks),
    /// Of what is shared.
    Shares(AreaShares),
}

/// A record of an area.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AreaDetail {
    /// Which area.
    pub area: Digest,
    /// What it says of it.
    pub part: AreaPart,
}

/// Why the record of an area is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AreaRecordError {
    /// It stands under a key that is not its own.
    #[error("a record of area {area} stands under the key `{key}`")]
    Key {
        /// The area.
        area: Digest,
        /// The key.
        key: String,
    },
    /// The charter is that of another area.
    #[error("the charter is that of area {found}, not of {area}")]
    Charter {
        /// The area.
        area: Digest,
        /// Whose charter it is.
        found: Digest,
    },
    /// A list is not in order, or names something twice.
    #[error("{field} are not in order")]
    Order {
        /// The list.
        field: &'static str,
    },
    /// Bits of a set say more than there is to choose from.
    #[error("the bits of `{field}` name what is not there")]
    Mask {
        /// The set.
        field: &'static str,
    },
    /// A ballot that nobody can have.
    #[error("a ballot of round {round} {what}")]
    Ballot {
        /// Its round.
        round: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The name of something shared is not one.
    #[error(
        "`{name}` is no name for something shared: use 1 to {SHARE_NAME_LEN_MAX} letters, digits, `-`, `_` and `.`, a letter or digit first"
    )]
    Name {
        /// As given, cut to 80 characters.
        name: String,
    },
    /// Something shared is too long.
    #[error("`{name}` has {size} bytes, at most {SHARE_LEN_MAX} can be shared in an area")]
    Size {
        /// Its name.
        name: String,
        /// Its bytes.
        size: u64,
    },
    /// A rule book is too long, or has no number.
    #[error(
        "a rule book of {len} bytes with the number {number}: at most {BOOK_LEN_MAX} bytes are allowed, and numbers begin with 1"
    )]
    Book {
        /// Its bytes.
        len: usize,
        /// Its number.
        number: u64,
    },
}

impl AreaDetail {
    /// Which of the three records it is.
    #[must_use]
    pub const fn form(&self) -> AreaForm {
        match &self.part {
            AreaPart::Statement(_) => AreaForm::Statement,
            AreaPart::Books(_) => AreaForm::Books,
            AreaPart::Shares(_) => AreaForm::Shares,
        }
    }

    pub(super) fn to_map(&self) -> MapWriter {
        let part = match &self.part {
            AreaPart::Statement(part) => part.to_map(),
            AreaPart::Books(part) => part.to_map(),
            AreaPart::Shares(part) => part.to_map(),
        };
        MapWriter::new().put(1, &self.area).put(2, &self.form()).put(3, &part.finish())
    }

    pub(super) fn from_map(item: &Item<'_>) -> Result<Self, CborError> {
        let mut map = MapReader::new(item)?;
        let area = map.take(1)?;
        let form: AreaForm = map.take(2)?;
        let part = map.item(3)?;
        let part = match form {
            AreaForm::Statement => {
                AreaStatement::from_map(&part).map(|s| AreaPart::Statement(Box::new(s)))
            }
            AreaForm::Books => AreaBooks::from_map(&part).map(AreaPart::Books),
            AreaForm::Shares => AreaShares::from_map(&part).map(AreaPart::Shares),
        }?;
        map.finish()?;
        Ok(Self { area, part })
    }

    /// Checks texts, lists and numbers, and that the record stands under its own key.
    pub(super) fn check(&self, key: &str) -> Result<(), ResourceError> {
        if self.form().key(self.area) != key {
            let key = key.chars().take(80).collect();
            return Err(AreaRecordError::Key { area: self.area, key }.into());
        }
        match &self.part {
            AreaPart::Statement(statement) => statement.check(self.area),
            AreaPart::Books(books) => {
                count("rolls of a trail", books.trail.len(), TRAIL_MAX)?;
                ascending("rolls of a trail", &books.trail)?;
                books.rules.iter().chain(&books.proposal).try_for_each(check_book)
            }
            AreaPart::Shares(shares) => {
                count("shared things", shares.items.len(), AREA_SHARES_MAX)?;
                let names: Vec<_> = shares.items.iter().map(|s| (s.kind, &s.name)).collect();
                ascending("shared things", &names)?;
                shares.items.iter().try_for_each(|share| Ok(share.check()?))
            }
        }
    }
}

impl AreaStatement {
    fn check(&self, area: Digest) -> Result<(), ResourceError> {
        self.charter.check()?;
        let found = self.charter.id();
        if found != area {
            return Err(AreaRecordError::Charter { area, found }.into());
        }
        let lists = [
            ("members", &self.members, AREA_MEMBERS_MAX),
            ("organisations wanted in", &self.admits, AREA_WISHES_MAX),
            ("organisations wanted out", &self.expels, AREA_WISHES_MAX),
        ];
        for (field, list, max) in lists {
            count(field, list.len(), max)?;
            ascending(field, list)?;
        }
        for (field, mask) in [("granted", self.granted), ("wishes", self.wishes)] {
            if !is_mask(mask, self.admits.len()) {
                return Err(AreaRecordError::Mask { field }.into());
            }
        }
        self.ballot.as_ref().map_or(Ok(()), |ballot| Ok(ballot.check()?))
    }
}

impl Share {
    /// Checks name and size.
    ///
    /// # Errors
    /// See [`AreaRecordError`].
    pub fn check(&self) -> Result<(), AreaRecordError> {
        let name = &self.name;
        let is_fine = name.len() <= SHARE_NAME_LEN_MAX
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_fine {
            let shown = name.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(AreaRecordError::Name { name: shown });
        }
        if self.size > SHARE_LEN_MAX {
            return Err(AreaRecordError::Size { name: name.clone(), size: self.size });
        }
        Ok(())
    }
}

fn check_book(book: &NumberedBook) -> Result<(), ResourceError> {
    let (len, number) = (book.content.len(), book.number);
    if len > BOOK_LEN_MAX || number == 0 {
        return Err(AreaRecordError::Book { len, number }.into());
    }
    Ok(())
}

fn count(field: &'static str, count: usize, max: usize) -> Result<(), ResourceError> {
    if count > max {
        return Err(ResourceError::Count { field, count, max });
    }
    Ok(())
}

fn ascending<T: Ord>(field: &'static str, list: &[T]) -> Result<(), ResourceError> {
    if list.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(AreaRecordError::Order { field }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::ballot::{Accepted, LETS_MAX, RollChange};
    use super::super::{BODY_LEN_MAX, Detail, Resource};
    use super::*;

    fn org(n: u8) -> OrgId {
        OrgId::from_bytes([n; 32])
    }

    fn record(part: AreaPart, area: Digest) -> Resource {
        let detail = AreaDetail { area, part };
        crate::area::record(detail)
    }

    /// The longest that the bounds allow, with characters of four bytes.
    fn longest() -> AreaStatement {
        let charter = Charter {
            name: "\u{10348}".repeat(AREA_NAME_LEN_MAX),
            about: "\u{10348}".repeat(AREA_ABOUT_LEN_MAX),
            founder: org(1),
            nonce: [0xff; 16],
        };
        let orgs =
            |from: u8, n: usize| (0..n).map(|i| org(from + u8::try_from(i).unwrap())).collect();
        AreaStatement {
            version: u64::MAX,
            charter,
            left: false,
            members: orgs(0, AREA_MEMBERS_MAX),
            admits: orgs(100, AREA_WISHES_MAX),
            expels: orgs(200, AREA_WISHES_MAX),
            number: u64::MAX,
            book: Some(BookRef { number: u64::MAX, digest: Digest::of(b"x") }),
            granted: 0xffff,
            wishes: 0xffff,
            ballot: Some(Ballot {
                round: u64::MAX,
                choice: Some(longest_change(&orgs)),
                accepted: Some(Accepted { round: u64::MAX, change: longest_change(&orgs) }),
            }),
        }
    }

    fn longest_change(orgs: &impl Fn(u8, usize) -> Vec<OrgId>) -> RollChange {
        RollChange {
            lets: orgs(150, LETS_MAX),
            ins: 0xffff,
            drops: 0xffff,
            outs: u64::MAX >> 16,
            book: Some(Digest::of(b"x")),
        }
    }

    #[test]
    fn what_the_bounds_allow_has_room_in_a_record_and_reads_back() {
        let statement = longest();
        let area = statement.charter.id();
        let book = NumberedBook { number: u64::MAX, content: vec![7; BOOK_LEN_MAX] };
        let passed = |n| Passed { number: u64::MAX - n, digest: Digest::of(b"x") };
        let trail = (0..TRAIL_MAX as u64).rev().map(passed).collect();
        let (rules, proposal) = (Some(book.clone()), Some(book));
        let books = AreaBooks { version: u64::MAX, rules, proposal, trail };
        let share = |n: usize| Share {
            kind: ShareKind::Workspace,
            name: format!("{n:0>64}"),
            digest: Digest::of(b"x"),
            size: SHARE_LEN_MAX,
        };
        let items = (0..AREA_SHARES_MAX).map(share).collect();
        let shares = AreaShares { version: u64::MAX, items };
        for part in [
            AreaPart::Statement(Box::new(statement)),
            AreaPart::Books(books),
            AreaPart::Shares(shares),
        ] {
            let resource = record(part, area);
            let body = resource.encode().unwrap();
            assert!(body.len() <= BODY_LEN_MAX, "{} bytes", body.len());
            assert_eq!(Resource::decode(&resource.key, &body).unwrap(), resource);
        }
    }

    #[test]
    fn records_that_are_not_what_they_say_are_refused() {
        let good = longest();
        let area = good.charter.id();
        let error = |change: &dyn Fn(&mut Resource)| {
            let mut resource = record(AreaPart::Statement(Box::new(good.clone())), area);
            change(&mut resource);
            resource.encode().unwrap_err()
        };
        let part = |resource: &mut Resource, change: &dyn Fn(&mut AreaStatement)| {
            let Detail::Area(detail) = &mut resource.detail else { unreachable!() };
            let AreaPart::Statement(statement) = &mut detail.part else { unreachable!() };
            change(statement);
        };
        let is = |found: ResourceError, text: &str| {
            let cause = std::error::Error::source(&found).map(ToString::to_string);
            let causes = format!("{found} {}", cause.unwrap_or_default());
            assert!(causes.contains(text), "{causes}");
        };
        is(error(&|r| r.key = "area/other".to_owned()), "stands under the key `area/other`");
        is(error(&|r| part(r, &|s| s.charter.nonce = [1; 16])), "the charter is that of area");
        is(error(&|r| part(r, &|s| s.members.reverse())), "members are not in order");
        is(error(&|r| part(r, &|s| s.admits.push(org(250)))), "17 organisations wanted in");
        is(error(&|r| part(r, &|s| s.expels = vec![org(1); 2])), "wanted out are not in order");
        is(error(&|r| part(r, &|s| s.wishes = 1 << 16)), "the bits of `wishes`");
        let ballot = |change: &dyn Fn(&mut Ballot)| {
            error(&|r| part(r, &|s| change(s.ballot.as_mut().unwrap())))
        };
        is(ballot(&|b| b.round = 3), "has accepted a later one");
        let lets = |b: &mut Ballot| b.choice.as_mut().unwrap().lets.push(org(251));
        is(ballot(&lets), "lets in too many, or not in order");
        let share = |name: &str, size| Share {
            kind: ShareKind::Workflow,
            name: name.to_owned(),
            digest: Digest::of(b"x"),
            size,
        };
        assert!(matches!(share("../x", 1).check(), Err(AreaRecordError::Name { .. })));
        assert!(matches!(share("x", SHARE_LEN_MAX + 1).check(), Err(AreaRecordError::Size { .. })));
        let book = NumberedBook { number: 0, content: Vec::new() };
        assert!(matches!(check_book(&book), Err(ResourceError::Area(_))));
    }
}
