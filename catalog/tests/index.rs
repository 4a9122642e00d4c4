//! Digests of realms, from real catalogues and papers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use catalog::cert::{GATEWAY_ROLE, Grant, Membership, NodeCert, Role};
use catalog::index::{
    DIGEST_LEN_MAX, DIGEST_LIFE_MS, DigestError, GatewayError, RealmDigest, Source,
};
use catalog::papers::Papers;
use catalog::{Catalog, Filter, Limits, NodeId, RealmId};
use proptest::prelude::*;

use support::{
    NOW, Node, cert, delete, deliver, grant, membership, org, org_key, put, put_for, realm,
};

fn of(node: &Node, now_ms: u64) -> RealmDigest {
    let addresses = ["/ip4/127.0.0.1/tcp/4610".to_owned()];
    let source = Source { gateway: node.id, number: 1, addresses: &addresses, now_ms };
    RealmDigest::build(&node.catalog, source)
}

/// The papers of a node as its organisation and realm made them.
fn papers(of_org: u16, node: NodeId, roles: &[&str], membership: Membership) -> Papers {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    let cert = NodeCert { roles, ..cert(of_org, node, 1) }.sign(&org_key(of_org));
    Papers { author: node, cert, membership }
}

#[test]
fn a_stranger_believes_whom_the_realm_lets_speak_and_nobody_else() {
    let (founder, member) = (Node::new(0), Node::new(1));
    let gateway = [GATEWAY_ROLE];
    let signed = of(&founder, NOW).sign(&founder.key);
    let verdict = |papers: &Papers, now_ms| RealmDigest::verify(&signed, papers, now_ms);
    let good = papers(0, founder.id, &gateway, membership(0));
    let (digest, cert) = verdict(&good, NOW).unwrap();
    assert_eq!((digest.realm, digest.gateway, cert.org), (realm(), founder.id, org(0)));

    let plain = papers(0, founder.id, &[], membership(0));
    assert!(matches!(verdict(&plain, NOW), Err(DigestError::Gateway(GatewayError::Role { .. }))));
    let others = papers(1, member.id, &gateway, membership(1));
    assert!(matches!(verdict(&others, NOW), Err(DigestError::Gateway(GatewayError::Author(_)))));
    for now_ms in [NOW - 600_000, NOW + DIGEST_LIFE_MS + 600_000] {
        assert!(verdict(&good, now_ms).unwrap_err().is_about_time());
    }

    // A member speaks for the realm only with the founder's grant to do so.
    let signed = of(&member, NOW).sign(&member.key);
    let error = RealmDigest::verify(&signed, &others, NOW).unwrap_err();
    assert!(matches!(error, DigestError::Gateway(GatewayError::Realm { .. })), "{error}");
    let old = Grant::verify(&grant(0, 1), NOW).unwrap();
    let new = Grant { role: Role::Gateway, ..old }.sign(&org_key(0));
    let let_speak = membership(0).extend(new);
    let papers = papers(1, member.id, &gateway, let_speak);
    assert!(RealmDigest::verify(&signed, &papers, NOW).is_ok());

    // And for no other realm.
    let elsewhere = RealmDigest { realm: RealmId::from_bytes([1; 16]), ..of(&member, NOW) };
    let signed = elsewhere.sign(&member.key);
    let error = RealmDigest::verify(&signed, &papers, NOW).unwrap_err();
    assert!(matches!(error, DigestError::Gateway(GatewayError::Author(_))), "{error}");
}

#[test]
fn a_digest_sums_up_what_is_public_and_fits() {
    let mut node = Node::new(0);
    node.publish((0..9_000).map(|n| put(&format!("s/{n}"), &format!("Service {n}"))).collect());
    let digest = of(&node, NOW);
    assert_eq!((digest.authors, digest.resources), (1, 9_000));
    assert_eq!(digest.regions, ["eu"]);
    let counts: Vec<_> = digest.counts.iter().map(|c| (c.class.as_str(), c.count)).collect();
    assert_eq!(counts, [("kind:service", 9_000), ("protocol:http", 9_000)]);
    assert_eq!(digest.names, None, "so many names do not fit");
    node.publish((1_500..9_000).map(|n| delete(&format!("s/{n}"))).collect());
    let digest = of(&node, NOW);
    let signed = digest.sign(&node.key);
    assert!(signed.len() <= DIGEST_LEN_MAX, "{} bytes", signed.len());
    assert_eq!(RealmDigest::verify_at_any_time(&signed), Ok(digest.clone()));
    assert_eq!(digest.names.as_ref().map(|n| (n.len(), n.one_mistake_in())), Some((1_500, 128)));
    let may = |text: &str| digest.may_hold(&Filter::parse(text).unwrap());
    assert!(may("name = \"Service 7\"") && may("kind = service") && !may("kind = data"));
}

#[test]
fn what_is_told_outside_is_checked_there_and_public() {
    let mut node = Node::new(1);
    node.publish((0..40).map(|n| put(&format!("s/{n}"), &format!("Service {n}"))).collect());
    node.publish(vec![put_for("s/secret", "Secret", &[1])]);
    let told = |filter: &str, bounds| {
        let (pushes, is_all) = node.catalog.told(&Filter::parse(filter).unwrap(), NOW, bounds);
        let stranger = NodeId::from_bytes([9; 32]);
        let mut aside = Catalog::new(stranger, realm(), Limits::default());
        pushes.iter().for_each(|push| drop(aside.handle_push(NOW, push).unwrap()));
        (aside.public(NOW).count(), aside.resources(NOW).count(), is_all)
    };
    assert_eq!(told("", (100, 1 << 20)), (40, 40, true));
    assert_eq!(told("name = \"Service 7\"", (100, 1 << 20)), (1, 1, true));
    assert_eq!(told("name = Secret", (100, 1 << 20)), (0, 0, true));
    assert_eq!(told("", (10, 1 << 20)), (10, 10, false));
    assert_eq!(told("", (100, 100)), (0, 0, false));
    let (pushes, _) = node.catalog.told(&Filter::default(), NOW, (100, 1 << 20));
    let mut elsewhere = Catalog::new(node.id, RealmId::from_bytes([1; 16]), Limits::default());
    assert!(elsewhere.handle_push(NOW, &pushes[0]).is_err(), "it is another realm's");
}

/// What an author of the test does: on key `k`, for everybody, for organisation 1 (which the gateway is of), for another
/// one, or taken back.
fn act(key: u8, name: u8, to: u8) -> catalog::Change {
    let (key, name) = (format!("s/{key}"), format!("Name {name}"));
    match to {
        0 => put(&key, &name),
        1 => put_for(&key, &name, &[1]),
        2 => put_for(&key, &name, &[5]),
        _ => delete(&key),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A gateway that sees restricted records of a partner, and has its own, says what one says that sees none of them.
    #[test]
    fn nothing_restricted_ever_changes_a_digest(
        acts in proptest::collection::vec((0u8..4, 0u8..4, 0u8..4), 1..12),
    ) {
        let (mut author, mut gateway) = (Node::new(0), Node::new(1));
        let mut public = Node::new(0);
        // Every key holds something at first, so that it can be taken back, and never the same as later.
        let first: Vec<_> = (0..4).map(|key| put(&format!("s/{key}"), "First")).collect();
        let published = author.publish(first.clone());
        deliver(&mut gateway, NOW, &published.push);
        public.publish(first);
        let mut is_there = [true; 4];
        for (key, name, to) in acts {
            let was_there = std::mem::replace(&mut is_there[usize::from(key)], to != 3);
            if to == 3 && !was_there {
                continue;
            }
            // What replaces a public record by a restricted one takes the public one back.
            let seen = if to == 0 { act(key, name, 0) } else { act(key, name, 3) };
            let published = author.publish(vec![act(key, name, to)]);
            deliver(&mut gateway, NOW, &published.push);
            if to == 1 || to == 2 {
                gateway.publish(vec![act(key, name, to)]);
            }
            let is_public = public.catalog.get(public.id, seen.key()).is_some();
            if to == 0 || is_public {
                public.publish(vec![seen]);
            }
        }
        support::sync(&mut gateway, &mut author, NOW);
        let own: Vec<String> = gateway.catalog.public(NOW).map(|e| e.key.to_owned()).collect();
        prop_assert_eq!(own.len(), public.catalog.public(NOW).count());
        let (seeing, blind) = (of(&gateway, NOW), of(&public, NOW));
        let blind = RealmDigest { gateway: seeing.gateway, ..blind };
        prop_assert_eq!(seeing, blind);
        let of_author = RealmDigest { gateway: gateway.id, ..of(&author, NOW) };
        prop_assert_eq!(of(&gateway, NOW), of_author);
    }
}
