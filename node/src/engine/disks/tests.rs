//! Plans and commits against a plain model, and what each refuses.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::{Detail, DiskFormat, Properties, Resource, Sha256, StatementError};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::store::batch::Op;

struct Key(SigningKey);

impl Key {
    fn new(seed: u8) -> Self {
        Self(SigningKey::from_bytes(&[seed; 32]))
    }
}

impl Pen for Key {
    fn org(&self) -> OrgId {
        self.0.verifying_key().into()
    }

    fn sign(&self, statement: &DiskStatement) -> Signature {
        statement.sign(&self.0)
    }
}

fn name(text: &str) -> DiskName {
    text.parse().unwrap()
}

fn detail(content: &str, size: u64) -> DiskDetail {
    DiskDetail {
        format: DiskFormat::Qcow2,
        digest: Digest::of(content.as_bytes()),
        sha256: Sha256([1; 32]),
        size,
        virtual_bytes: 1 << 30,
        arch: "x86_64".to_owned(),
        min_memory_bytes: 0,
        properties: Properties::default(),
        signature: None,
    }
}

/// Disks together with the rows that their batches have made.
#[derive(Default)]
struct World {
    disks: Disks,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl World {
    fn take(&mut self, batch: Batch) {
        for Op { key, value, .. } in batch.ops {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    fn commit(&mut self, planned: Result<Planned, DiskError>) -> Result<(), DiskError> {
        let mut batch = Batch::default();
        self.disks.commit(planned?, &mut batch);
        self.take(batch);
        Ok(())
    }

    fn add(&mut self, called: &str, content: &str, size: u64) -> Result<(), DiskError> {
        let detail = detail(content, size);
        self.commit(self.disks.plan_add(name(called), detail, Sharing::Private, None, 5))
    }

    fn limit(&mut self, quota: Quota) {
        let mut batch = Batch::default();
        self.disks.limit(quota, &mut batch).unwrap();
        self.take(batch);
    }

    fn set(&mut self, called: &str, change: Change, pen: &Key) -> Result<(), DiskError> {
        self.commit(self.disks.plan_set(&name(called), change, Some(pen), 9))
    }

    fn signer(&self, called: &str) -> Result<Option<Signer>, StatementError> {
        self.disks.own(&name(called)).unwrap().detail.signer(called)
    }

    fn recovered(&self) -> Disks {
        let rows: Vec<_> = self.rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Disks::recover(&rows).unwrap()
    }
}

#[test]
fn a_name_is_given_once_and_free_again_after_its_image() {
    let mut world = World::default();
    world.add("a", "one", 10).unwrap();
    assert_eq!(world.add("a", "two", 10), Err(DiskError::Exists { name: name("a") }));
    world.commit(world.disks.plan_remove(&name("a"))).unwrap();
    world.add("a", "two", 10).unwrap();
    let none = DiskError::None { name: "b".to_owned() };
    assert_eq!(world.disks.plan_remove(&name("b")), Err(none));
}

#[test]
fn images_are_bounded_in_number_and_bytes_and_shared_content_counts_once() {
    let mut world = World::default();
    world.limit(Quota { images: 3, bytes: 100 });
    world.add("a", "one", 60).unwrap();
    assert_eq!(world.add("b", "two", 60), Err(DiskError::Bytes { bytes: 60, free: 40, max: 100 }));
    world.add("b", "one", 60).unwrap();
    assert_eq!(world.disks.usage().bytes, 60);
    world.add("c", "two", 40).unwrap();
    assert_eq!(world.add("d", "two", 40), Err(DiskError::Count { max: 3 }));
    world.commit(world.disks.plan_remove(&name("a"))).unwrap();
    assert_eq!(world.disks.usage(), Usage { images: 2, bytes: 100, quota: world.disks.quota });
    let images = IMAGES_MAX + 1;
    let refused = world.disks.limit(Quota { images, bytes: 1 }, &mut Batch::default());
    assert_eq!(refused, Err(DiskError::Limit { images }));
}

#[test]
fn what_is_said_of_an_image_is_bounded() {
    let disks = Disks::default();
    let add = |detail: DiskDetail, sharing: Sharing| {
        disks.plan_add(name("a"), detail, sharing, None, 1).map(drop)
    };
    let good = detail("one", 10);
    let huge = DiskDetail { virtual_bytes: DISK_BYTES_MAX + 1, ..good.clone() };
    let bytes = DISK_BYTES_MAX + 1;
    assert_eq!(add(huge, Sharing::Private), Err(DiskError::Virtual { bytes }));
    let arch = DiskDetail { arch: "x86 64".to_owned(), ..good.clone() };
    assert!(matches!(add(arch, Sharing::Private), Err(DiskError::Arch { .. })));
    let properties = Properties([("A".to_owned(), String::new())].into());
    let keyed = DiskDetail { properties, ..good.clone() };
    assert!(matches!(add(keyed, Sharing::Private), Err(DiskError::Property(_))));
    let nobody = Sharing::Partner(BTreeSet::new());
    assert_eq!(add(good.clone(), nobody), Err(DiskError::Orgs { count: 0 }));
    let orgs =
        |n: usize| Sharing::Partner((0..n).map(|n| OrgId::from_bytes([n as u8; 32])).collect());
    assert_eq!(add(good.clone(), orgs(AUDIENCE_MAX)), Ok(()));
    let count = AUDIENCE_MAX + 1;
    assert_eq!(add(good, orgs(count)), Err(DiskError::Orgs { count }));
}

#[test]
fn an_own_signature_is_renewed_with_what_it_says_and_a_strangers_is_not_broken() {
    let (own, other) = (Key::new(1), Key::new(2));
    let mut world = World::default();
    let planned = world.disks.plan_add(name("a"), detail("one", 1), Sharing::Public, Some(&own), 5);
    world.commit(planned).unwrap();
    let signer = |signed_ms, key: &Key| Ok(Some(Signer { org: key.org(), signed_ms }));
    assert_eq!(world.signer("a"), signer(5, &own));
    let arch = |arch: &str| Change { arch: Some(arch.to_owned()), ..Change::default() };
    world.set("a", arch("aarch64"), &own).unwrap();
    assert_eq!(world.signer("a"), signer(9, &own));
    // Who sees it is not signed.
    let private = Change { sharing: Some(Sharing::Private), ..Change::default() };
    let before = world.disks.own(&name("a")).unwrap().detail.clone();
    world.set("a", private, &own).unwrap();
    assert_eq!(world.disks.own(&name("a")).unwrap().detail, before);

    assert_eq!(world.set("a", arch("x86_64"), &other), Err(DiskError::Signed { org: own.org() }));
    let sign = |sign| Change { sign: Some(sign), ..arch("x86_64") };
    world.set("a", sign(true), &other).unwrap();
    assert_eq!(world.signer("a"), signer(9, &other));
    world.set("a", sign(false), &other).unwrap();
    assert_eq!(world.signer("a"), Ok(None));
}

#[test]
fn an_image_with_a_signature_of_another_is_refused() {
    let signer = Signer { org: Key::new(1).org(), signed_ms: 1 };
    let good = detail("one", 1);
    let signature = DiskStatement::of("a", &good, signer).sign(&Key::new(1).0);
    let good = DiskDetail { signature: Some(signature), ..good };
    let disks = Disks::default();
    let add = |called: &str, detail: DiskDetail| {
        disks.plan_add(name(called), detail, Sharing::Public, None, 1).map(drop)
    };
    assert_eq!(add("a", good.clone()), Ok(()));
    assert!(matches!(add("b", good.clone()), Err(DiskError::Signature { .. })));
    let other = DiskDetail { sha256: Sha256([2; 32]), ..good };
    assert!(matches!(add("a", other), Err(DiskError::Signature { .. })));
}

#[test]
fn a_lost_image_is_in_no_catalogue_until_it_is_whole_again() {
    let mut world = World::default();
    let planned = world.disks.plan_add(name("a"), detail("one", 1), Sharing::Public, None, 5);
    world.commit(planned).unwrap();
    let visibility = |world: &World| world.disks.own(&name("a")).unwrap().visibility();
    assert!(visibility(&world).is_some());
    world.commit(world.disks.plan_mark(&name("a"), false, 6)).unwrap();
    assert_eq!(visibility(&world), None);
    world.commit(world.disks.plan_mark(&name("a"), true, 7)).unwrap();
    assert!(visibility(&world).is_some());
}

#[test]
fn everything_at_its_bounds_fits_into_a_record() {
    let properties = (0..PROPERTIES_MAX_USED).map(|n| (format!("k{n:02}"), "v".repeat(29)));
    let long = DiskDetail {
        arch: "a".repeat(ARCH_LEN_MAX),
        size: u64::MAX / 2,
        min_memory_bytes: u64::MAX,
        properties: Properties(properties.collect()),
        ..detail("one", 1)
    };
    let called = "n".repeat(64);
    let disks = Disks { quota: Quota { images: 1, bytes: u64::MAX }, ..Disks::default() };
    let planned = disks.plan_add(name(&called), long, Sharing::Public, Some(&Key::new(1)), 5);
    let detail = planned.unwrap().after.unwrap().detail;
    let resource = Resource {
        key: name(&called).key(),
        name: called,
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Disk(detail),
    };
    let body = resource.encode().unwrap();
    assert_eq!(Resource::decode(&resource.key, &body), Ok(resource));
}

/// As many properties as there may be, of 32 bytes each: 1024 bytes together.
const PROPERTIES_MAX_USED: usize = catalog::record::PROPERTIES_MAX;

#[test]
fn a_row_of_another_program_is_no_image() {
    for row in [
        (vec![], vec![]),
        (b"d".to_vec(), vec![]),
        (b"dA".to_vec(), vec![]),
        (b"x".to_vec(), vec![]),
    ] {
        assert!(Disks::recover(std::slice::from_ref(&row)).is_err(), "{row:?}");
    }
}

/// What may happen to images of a few names and contents.
#[derive(Clone, Debug)]
enum Step {
    Add(u8, u8),
    Remove(u8),
    Set(u8, Option<bool>, u64),
    Mark(u8, bool),
    Limit(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..6_u8, 0..4_u8).prop_map(|(n, content)| Step::Add(n, content)),
        (0..6_u8).prop_map(Step::Remove),
        (0..6_u8, any::<Option<bool>>(), 0..3_u64).prop_map(|(n, s, m)| Step::Set(n, s, m)),
        (0..6_u8, any::<bool>()).prop_map(|(n, whole)| Step::Mark(n, whole)),
        (0..6_u64, 0..200_u64).prop_map(|(images, bytes)| Step::Limit(images, bytes)),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #[test]
    fn what_is_used_is_what_there_is_and_the_rows_say_the_same(steps in steps()) {
        let pen = Key::new(1);
        let mut world = World::default();
        for step in steps {
            let called = |n: u8| format!("disk-{n}");
            let before = world.disks.clone();
            let result = match step {
                // A content has one length.
                Step::Add(n, content) => world.add(&called(n), &content.to_string(), 10 + u64::from(content)),
                Step::Remove(n) => world.commit(world.disks.plan_remove(&name(&called(n)))),
                Step::Set(n, sign, memory) => {
                    let change = Change { sign, min_memory_bytes: Some(memory), ..Change::default() };
                    world.set(&called(n), change, &pen)
                }
                Step::Mark(n, whole) => world.commit(world.disks.plan_mark(&name(&called(n)), whole, 7)),
                Step::Limit(images, bytes) => {
                    world.limit(Quota { images, bytes });
                    Ok(())
                }
            };
            if result.is_err() {
                prop_assert_eq!(&world.disks, &before);
            }
            let contents: BTreeMap<Digest, u64> =
                world.disks.iter().map(|(_, disk)| (disk.detail.digest, disk.detail.size)).collect();
            let usage = world.disks.usage();
            prop_assert_eq!(usage.bytes, contents.values().sum::<u64>());
            prop_assert_eq!(usage.images, world.disks.iter().count() as u64);
            let mut pins = Pins::default();
            world.disks.pin(&mut pins);
            prop_assert_eq!(pins.files, contents.keys().copied().collect::<BTreeSet<_>>());
            for (name, disk) in world.disks.iter() {
                prop_assert!(disk.detail.signer(name.as_str()).is_ok());
            }
            prop_assert_eq!(&world.recovered(), &world.disks);
        }
    }
}
