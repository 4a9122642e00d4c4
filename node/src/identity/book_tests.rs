//! The book under time, bounds and random use.

use super::*;
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;

fn bytes(n: u32) -> [u8; SECRET_BYTES] {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

fn with_ada() -> Book {
    let mut book = Book::default();
    let groups = BTreeSet::from(["staff".to_owned()]);
    book.add("ada", &groups, &BTreeSet::new(), (1_000, &bytes(0))).unwrap();
    book
}

#[test]
fn a_link_is_good_once_and_not_too_late() {
    let mut book = with_ada();
    let (link, until) = book.link("ada", HOUR, (1_000, &bytes(1))).unwrap();
    assert_eq!(book.peek(link.text(), until - 1), Ok("ada"));
    assert_eq!(book.peek(link.text(), until), Err(BookError::Link));
    let session = book.redeem(link.text(), (2_000, &bytes(2))).unwrap();
    assert_eq!(book.session(session.text(), 2_000).unwrap().1.unwrap().name, "ada");
    assert_eq!(book.redeem(link.text(), (2_001, &bytes(3))), Err(BookError::Link));
    let (late, until) = book.link("owner", HOUR, (1_000, &bytes(4))).unwrap();
    assert_eq!(book.redeem(late.text(), (until, &bytes(5))), Err(BookError::Link));
    assert!(matches!(
        book.link("ada", LINK_MS_MAX + 1, (0, &bytes(6))),
        Err(BookError::Validity { .. })
    ));
}

#[test]
fn all_sessions_of_one_user_end_and_nobody_elses() {
    let mut book = with_ada();
    book.add("grace", &BTreeSet::new(), &BTreeSet::new(), (1_000, &bytes(9))).unwrap();
    let mut begin = |n, name: &str| book.begin(book.who(name).unwrap(), (1_000, &bytes(n)));
    let (first, second, other) = (begin(1, "ada"), begin(2, "ada"), begin(3, "grace"));
    assert_eq!(book.end_all("ada"), Ok(2));
    let is_there = |secret: &Secret| book.session(secret.text(), 1_000).is_some();
    assert!(!is_there(&first) && !is_there(&second) && is_there(&other));
    assert!(book.end_all("nobody").is_err());
}

#[test]
fn a_session_ends_when_idle_when_old_and_when_told() {
    let mut book = with_ada();
    let secret = book.begin(book.who("ada").unwrap(), (0, &bytes(1)));
    assert!(book.session(secret.text(), SESSION_IDLE_MS - 1).is_some());
    assert!(book.session(secret.text(), SESSION_IDLE_MS).is_none(), "idle");
    let mut now = 0;
    while now + SESSION_IDLE_MS / 2 < SESSION_MS {
        now += SESSION_IDLE_MS / 2;
        assert!(book.session(secret.text(), now).is_some() && book.touch(secret.text(), now));
    }
    assert!(book.session(secret.text(), SESSION_MS).is_none(), "old, though used");
    let other = book.begin(Who::Owner, (now, &bytes(2)));
    assert!(book.end(other.text()) && !book.end(other.text()));
    assert!(book.session(other.text(), now).is_none());
    let ahead = book.begin(Who::Owner, (now + HOUR, &bytes(3)));
    assert!(book.session(ahead.text(), now).is_none(), "of a clock that was set back");
}

#[test]
fn whoever_is_removed_is_out_and_the_name_may_be_given_to_another() {
    let mut book = with_ada();
    let before = book.find("ada").unwrap().1.subject.clone();
    let session = book.begin(book.who("ada").unwrap(), (0, &bytes(1)));
    let (link, _) = book.link("ada", HOUR, (0, &bytes(2))).unwrap();
    let (token, _) = book.add_token("ada", "ci", HOUR, (0, &bytes(3))).unwrap();
    assert!(book.token(token.text(), 0).is_some() && book.token(token.text(), HOUR).is_none());
    book.remove("ada").unwrap();
    assert!(book.session(session.text(), 0).is_none() && book.token(token.text(), 0).is_none());
    assert_eq!(book.redeem(link.text(), (0, &bytes(4))), Err(BookError::Link));
    book.add("ada", &BTreeSet::new(), &BTreeSet::new(), (0, &bytes(5))).unwrap();
    assert_ne!(book.find("ada").unwrap().1.subject, before);
}

#[test]
fn names_are_checked_and_the_owner_is_nobodys_name() {
    let mut book = with_ada();
    let none = BTreeSet::new();
    let mut add = |name: &str| book.add(name, &none, &none, (0, &bytes(9)));
    assert_eq!(add("ada"), Err(BookError::Exists { name: "ada".to_owned() }));
    assert_eq!(add("owner"), Err(BookError::Reserved));
    for bad in ["", "a b", "a/b", "a\n", &"x".repeat(65)] {
        assert!(matches!(add(bad), Err(BookError::Name { .. })), "{bad:?}");
    }
}

#[test]
fn a_token_is_revoked_by_its_own_user_alone() {
    let mut book = with_ada();
    book.add("bob", &BTreeSet::new(), &BTreeSet::new(), (0, &bytes(1))).unwrap();
    let (secret, token) = book.add_token("ada", "ci", HOUR, (0, &bytes(2))).unwrap();
    assert!(matches!(book.revoke("bob", &token.id), Err(BookError::NoToken { .. })));
    assert!(!secret.text().contains(token.id.trim_start_matches("t-")));
    book.revoke("ada", &token.id).unwrap();
    assert!(book.token(secret.text(), 0).is_none() && book.tokens("ada", 0).unwrap().is_empty());
}

#[test]
fn nothing_of_a_secret_is_written_down() {
    let mut book = with_ada();
    let (link, _) = book.link("ada", HOUR, (0, &bytes(2))).unwrap();
    let (token, _) = book.add_token("ada", "ci", HOUR, (0, &bytes(3))).unwrap();
    let session = book.begin(Who::Owner, (0, &bytes(4)));
    let written = serde_json::to_string(&book).unwrap();
    for secret in [&link, &token, &session] {
        assert!(
            !written.contains(&secret.text()[4..12])
                && !format!("{book:?}").contains(&secret.text()[4..12])
        );
    }
    assert_eq!(serde_json::from_str::<Book>(&written).unwrap(), book);
}

#[test]
fn a_provider_ends_the_sessions_that_began_at_it_and_no_later_ones() {
    let mut book = Book::default();
    let person = |subject: &str| Person {
        org: OrgId::from_bytes([1; 32]),
        issuer: "https://id".to_owned(),
        subject: subject.to_owned(),
        name: "ada".to_owned(),
        groups: BTreeSet::new(),
        roles: BTreeSet::new(),
    };
    let mut n = 0;
    let mut begin = |book: &mut Book, subject: &str, sid: &str, now_ms: u64| {
        n += 1;
        let id = book.meet(&person(subject), now_ms).unwrap();
        let origin = Origin { provider: "work".to_owned(), sid: Some(sid.to_owned()) };
        book.begin_from(Who::Account(id), Some(origin), (now_ms, &bytes(n)))
    };
    let first = begin(&mut book, "a", "s1", 0);
    let second = begin(&mut book, "a", "s2", 0);
    let other = begin(&mut book, "b", "s3", 0);
    let later = begin(&mut book, "a", "s4", 9);
    assert_eq!(book.end_of("work", "https://id", (None, None), 5), 0);
    assert_eq!(book.end_of("else", "https://id", (Some("s1"), None), 5), 0);
    assert_eq!(book.end_of("work", "https://id", (Some("s1"), Some("b")), 5), 0);
    assert_eq!(book.end_of("work", "https://id", (Some("s1"), Some("a")), 5), 1);
    assert!(book.session(first.text(), 9).is_none() && book.session(second.text(), 9).is_some());
    assert_eq!(book.end_of("work", "https://id", (None, Some("a")), 5), 1);
    assert!(book.session(other.text(), 9).is_some() && book.session(later.text(), 9).is_some());
    assert_eq!(book.accounts().len(), 2, "the same person is the same account");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_use_breaks_the_bounds(steps in proptest::collection::vec((0u8..4, 0u64..HOUR), 1..300)) {
        let mut book = with_ada();
        let mut now = 0;
        for (n, (what, later)) in (1..).zip(steps) {
            now += later / 30;
            let at = (now, &bytes(n));
            match what {
                0 => drop(book.begin(Who::Account(book.find("ada").unwrap().0.clone()), at)),
                1 => drop(book.begin(Who::Owner, at)),
                2 => drop(book.link("ada", HOUR, at)),
                _ => drop(book.add_token("ada", "x", HOUR, at)),
            }
            prop_assert!(book.sessions.len() <= 2 * SESSIONS_OF_ONE_MAX);
            prop_assert!(book.links.len() <= LINKS_MAX && book.tokens.len() <= TOKENS_OF_ONE_MAX);
        }
    }
}

#[test]
fn a_login_is_due_in_time_and_its_grant_goes_with_it() {
    let mut book = with_ada();
    let who = book.who("ada").unwrap();
    let session = book.begin(who, (0, &bytes(1)));
    let (token, _) = book.add_token("ada", "login", HOUR, (0, &bytes(2))).unwrap();
    let grant = |secret: &Secret, next_ms| {
        Grant::seal(("work", "r3fresh"), secret.text(), next_ms, [1; 12])
    };
    book.keep_grant(session.text(), grant(&session, 10));
    book.keep_grant(token.text(), grant(&token, 20));
    let other = Secret::new(Kind::Session, &bytes(3));
    book.keep_grant(other.text(), grant(&other, 0));
    assert!(book.due(session.text(), 9).is_none() && book.due(other.text(), 100).is_none());
    let due = book.due(session.text(), 10).unwrap();
    assert_eq!(due.account, *book.find("ada").unwrap().0);
    assert_eq!(due.grant.open(session.text()).as_deref(), Some("r3fresh"));
    assert!(book.due(token.text(), 19).is_none() && book.due(token.text(), 20).is_some());
    assert!(book.due(session.text(), SESSION_IDLE_MS).is_none(), "it has ended by itself");
    book.set_grant(&due.hash, grant(&session, 30));
    assert!(book.due(session.text(), 29).is_none());
    book.end_login(&due.hash);
    assert!(book.session(session.text(), 30).is_none());
    book.forget_grants();
    assert_eq!(book.grants.len(), 1, "that of the token");
    book.remove("ada").unwrap();
    book.forget_grants();
    assert_eq!(book.grants, BTreeMap::new());
}
