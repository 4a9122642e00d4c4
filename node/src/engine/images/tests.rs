use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::document::{OCI_INDEX, OCI_MANIFEST, Part};
use super::name::Algorithm;
use super::*;
use crate::store::batch::Table;

/// The images, and the rows as the store would hold them.
#[derive(Default)]
struct World {
    images: Images,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    now_ms: u64,
}

impl World {
    fn apply(&mut self, batch: Batch) {
        for op in batch.ops {
            assert_eq!(op.table, Table::Images);
            assert!(op.key.len() <= crate::store::batch::KEY_LEN_MAX);
            match op.value {
                Some(value) => self.rows.insert(op.key, value),
                None => self.rows.remove(&op.key),
            };
        }
    }

    fn handle(&mut self, command: Command) -> Result<Answer, ImageError> {
        let mut batch = Batch::default();
        let before = self.images.clone();
        let result = self.images.handle(command, self.now_ms, &mut batch);
        if result.is_err() {
            assert!(batch.is_empty() && self.images == before, "a refusal changes nothing");
        }
        self.apply(batch);
        self.check();
        result
    }

    fn poll(&mut self) {
        let mut batch = Batch::default();
        self.images.poll(self.now_ms, &mut batch);
        self.apply(batch);
        self.check();
    }

    fn ask(&mut self, query: Query) -> Result<Answer, ImageError> {
        let n_rows = self.rows.len();
        let answer = self.handle(Command::Ask(query));
        assert_eq!(self.rows.len(), n_rows);
        answer
    }

    /// What holds after every step.
    fn check(&self) {
        let rows: Vec<_> = self.rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut recovered = Images::recover(&rows, self.now_ms).unwrap();
        recovered.next_sweep_ms = self.images.next_sweep_ms;
        assert_eq!(recovered, self.images, "the rows say the same");
        let mut links: BTreeMap<OciDigest, usize> = BTreeMap::new();
        let mut n_entries = 0;
        for shelf in self.images.shelves.values() {
            assert!(!shelf.is_empty());
            let parts: usize = shelf.manifests.values().map(|m| m.document.parts.len()).sum();
            n_entries += 1 + shelf.blobs.len() + shelf.manifests.len() + parts + shelf.tags.len();
            for digest in shelf.blobs.keys().chain(shelf.manifests.keys()) {
                *links.entry(*digest).or_default() += 1;
            }
            assert!(shelf.tags.values().all(|digest| shelf.manifests.contains_key(digest)));
        }
        assert_eq!(n_entries, self.images.n_entries);
        let held: BTreeMap<_, _> =
            self.images.contents.iter().map(|(digest, held)| (*digest, held.n_links)).collect();
        assert_eq!(held, links);
        assert_eq!(self.images.next_sweep_ms.is_none(), self.images.shelves.is_empty());
    }

    fn pins(&self) -> Pins {
        let mut pins = Pins::default();
        self.images.pin(self.now_ms, &mut pins);
        pins
    }
}

fn digest(n: u8) -> OciDigest {
    OciDigest::of(Algorithm::Sha256, &[n])
}

fn content(n: u8) -> Content {
    Content { digest: Digest::of(&[n]), size: u64::from(n) }
}

fn repository(n: u8) -> Repository {
    format!("repo/{n}").parse().unwrap()
}

fn tag(n: u8) -> Tag {
    format!("tag-{n}").parse().unwrap()
}

fn add(at: u8, n: u8) -> Command {
    Command::Add { repository: repository(at), digest: digest(n), content: content(n) }
}

fn document(parts: &[(u8, Role)], subject: Option<u8>) -> Box<Document> {
    let is_index = parts.iter().any(|(_, role)| *role == Role::Manifest);
    let part =
        |(n, role): &(u8, Role)| Part { digest: digest(*n), size: u64::from(*n), role: *role };
    Box::new(Document {
        media_type: if is_index { OCI_INDEX } else { OCI_MANIFEST }.to_owned(),
        parts: parts.iter().map(part).collect(),
        subject: subject.map(digest),
        artifact_type: Some("kind".to_owned()),
        annotations: BTreeMap::new(),
    })
}

fn push(at: u8, n: u8, parts: &[(u8, Role)], subject: Option<u8>, tags: &[u8]) -> Command {
    let tags = tags.iter().map(|n| tag(*n)).collect();
    let document = document(parts, subject);
    Command::Push {
        repository: repository(at),
        digest: digest(n),
        content: content(n),
        tags,
        document,
    }
}

fn by_tag(at: u8, n: u8) -> ImageName {
    ImageName { repository: repository(at), reference: Reference::Tag(tag(n)) }
}

fn by_digest(at: u8, n: u8) -> ImageName {
    ImageName { repository: repository(at), reference: Reference::Digest(digest(n)) }
}

const BLOB: Role = Role::Blob;

/// Repository 0 with an image 10 of blobs 1 and 2 under tag 0.
fn pushed() -> World {
    let mut world = World { now_ms: 1_000_000_000_000, ..World::default() };
    world.handle(add(0, 1)).unwrap();
    world.handle(add(0, 2)).unwrap();
    world.handle(push(0, 10, &[(1, BLOB), (2, BLOB)], None, &[0])).unwrap();
    world
}

fn directory(world: &mut World, name: ImageName) -> Result<ImageDir, ImageError> {
    match world.ask(Query::Resolve { name })? {
        Answer::Directory(dir) => Ok(*dir),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_is_a_directory_in_the_oci_layout_with_one_name_everywhere() {
    let mut world = pushed();
    let made = directory(&mut world, by_tag(0, 0)).unwrap();
    assert_eq!(made.dir.digest, Digest::of(&made.own[2]));
    let tree = scheduler::value::Manifest::decode(&made.own[2]).unwrap();
    assert_eq!(tree.size(), made.dir.size);
    let names: Vec<&str> = tree.files.keys().map(String::as_str).collect();
    assert_eq!(names.len(), 5);
    assert!(names.contains(&"oci-layout") && names.contains(&"index.json"));
    for n in [1, 2, 10] {
        let file = &tree.files[&format!("blobs/sha256/{}", digest(n).to_hex())];
        assert_eq!((file.digest, file.size), (content(n).digest, content(n).size));
    }
    let index: serde_json::Value = serde_json::from_slice(&made.own[1]).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest(10).to_string());
    assert_eq!(index["manifests"][0]["size"], 10);

    // The same image in another repository and under another tag is the same directory, but for its label.
    world.handle(add(1, 1)).unwrap();
    world.handle(add(1, 2)).unwrap();
    world.handle(push(1, 10, &[(1, BLOB), (2, BLOB)], None, &[5])).unwrap();
    assert_eq!(directory(&mut world, by_tag(1, 5)).unwrap().dir.digest, made.dir.digest);
    assert_eq!(directory(&mut world, by_digest(1, 10)).unwrap().dir.digest, made.dir.digest);
}

#[test]
fn an_image_whose_parts_are_missing_or_of_another_size_is_refused() {
    let mut world = pushed();
    let missing = world.handle(push(0, 11, &[(1, BLOB), (3, BLOB)], None, &[1]));
    assert!(matches!(missing, Err(ImageError::Missing { count: 1, first }) if first == digest(3)));
    let index = world.handle(push(0, 12, &[(9, Role::Manifest)], None, &[]));
    assert!(matches!(index, Err(ImageError::Missing { .. })));
    // In another repository nothing is there.
    assert!(world.handle(push(1, 11, &[(1, BLOB)], None, &[])).is_err());
    let mut wrong = document(&[(1, BLOB)], None);
    wrong.parts[0].size = 77;
    let command = Command::Push {
        repository: repository(0),
        digest: digest(11),
        content: content(11),
        tags: Vec::new(),
        document: wrong,
    };
    assert!(matches!(world.handle(command), Err(ImageError::Size { said: 77, size: 1, .. })));
}

#[test]
fn a_foreign_layer_may_be_elsewhere_and_then_there_is_no_directory() {
    let mut world = pushed();
    let answer = world.handle(push(0, 11, &[(1, BLOB), (3, Role::Foreign)], None, &[1])).unwrap();
    assert!(matches!(answer, Answer::Pushed(None)));
    assert!(matches!(
        directory(&mut world, by_tag(0, 1)),
        Err(ImageError::Missing { count: 1, .. })
    ));
    world.handle(add(0, 3)).unwrap();
    assert!(directory(&mut world, by_tag(0, 1)).is_ok());
}

#[test]
fn what_an_image_needs_cannot_be_removed_and_what_nothing_needs_can() {
    let mut world = pushed();
    world.handle(push(0, 20, &[(10, Role::Manifest)], None, &[1])).unwrap();
    let unlink = |n| Command::Unlink { repository: repository(0), digest: digest(n) };
    assert!(
        matches!(world.handle(unlink(1)), Err(ImageError::InUse { by, .. }) if *by == digest(10))
    );
    let name = by_digest(0, 10);
    assert!(matches!(world.handle(Command::Remove { name }), Err(ImageError::InUse { .. })));
    world.handle(Command::Remove { name: by_digest(0, 20) }).unwrap();
    assert!(directory(&mut world, by_tag(0, 1)).is_err(), "its tag went with it");
    world.handle(Command::Remove { name: by_digest(0, 10) }).unwrap();
    world.handle(unlink(1)).unwrap();
    assert!(matches!(world.handle(unlink(1)), Err(ImageError::NoContent { .. })));
    world.handle(unlink(2)).unwrap();
    assert!(world.rows.is_empty() && world.images.n_entries == 0);
    assert!(matches!(world.handle(unlink(2)), Err(ImageError::NoRepository { .. })));
}

#[test]
fn a_tagged_image_stays_with_what_refers_to_it_and_an_untagged_one_is_forgotten_in_time() {
    let mut world = pushed();
    world.handle(add(0, 3)).unwrap();
    world.handle(push(0, 30, &[(3, BLOB)], Some(10), &[])).unwrap();
    world.now_ms += 10 * UNTAGGED_KEPT_MS;
    world.poll();
    let pinned: BTreeSet<Digest> = world.pins().files;
    assert_eq!(pinned, [1, 2, 3, 10, 30].map(|n| content(n).digest).into());
    let made = directory(&mut world, by_tag(0, 0)).unwrap();
    assert!(world.pins().dirs.contains(&made.dir.digest));

    world.handle(Command::Remove { name: by_tag(0, 0) }).unwrap();
    assert_eq!(world.pins().files, pinned, "it may be on its way to another tag");
    world.now_ms += PUSH_MS + 1;
    assert_eq!(world.pins(), Pins::default());
    assert!(directory(&mut world, by_digest(0, 10)).is_ok(), "it is remembered");
    world.now_ms += UNTAGGED_KEPT_MS;
    world.poll();
    assert!(world.rows.is_empty());
    assert_eq!(world.images.poll_timeout(), None);
}

#[test]
fn a_tag_that_moves_leaves_the_old_image_and_what_is_lost_can_come_again() {
    let mut world = pushed();
    world.handle(push(0, 11, &[(1, BLOB)], None, &[0])).unwrap();
    let Answer::Manifest(found) = world.ask(Query::Manifest { name: by_tag(0, 0) }).unwrap() else {
        panic!("another answer");
    };
    assert_eq!(found.digest, digest(11));
    assert!(world.ask(Query::Manifest { name: by_digest(0, 10) }).is_ok());
    let lost = Command::Lost { repository: repository(0), digests: vec![digest(1)] };
    world.handle(lost).unwrap();
    assert!(directory(&mut world, by_tag(0, 0)).is_err());
    world.handle(add(0, 1)).unwrap();
    assert!(directory(&mut world, by_tag(0, 0)).is_ok());
}

#[test]
fn lists_come_in_order_and_in_pages() {
    let mut world = pushed();
    world.handle(push(0, 10, &[(1, BLOB), (2, BLOB)], None, &[3, 1, 2])).unwrap();
    let mut tags = |after: Option<&str>, limit| {
        let page = Page { after: after.map(str::to_owned), limit };
        match world.ask(Query::Tags { repository: repository(0), page }).unwrap() {
            Answer::Names(names, is_more) => (names.join(" "), is_more),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tags(None, 100), ("tag-0 tag-1 tag-2 tag-3".to_owned(), false));
    assert_eq!(tags(None, 2), ("tag-0 tag-1".to_owned(), true));
    assert_eq!(tags(Some("tag-1"), 2), ("tag-2 tag-3".to_owned(), false));
    assert_eq!(tags(Some("tag-1x"), 0), (String::new(), true));
    let page = Page { after: Some("repo/0:tag-1".to_owned()), limit: 10 };
    let Answer::Images(images) = world.ask(Query::List { page }).unwrap() else {
        panic!("another answer");
    };
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["repo/0:tag-2", "repo/0:tag-3"]);
    assert_eq!(images[0].size, 13);
    assert_eq!(images[0].tags.len(), 4);
}

#[test]
fn one_manifest_has_so_many_tags_and_no_more() {
    let mut world = pushed();
    for n in 1..TAGS_PER_MANIFEST_MAX {
        let tag = format!("t{n}").parse().unwrap();
        world
            .images
            .handle(Command::Tag { name: by_tag(0, 0), tag }, 1, &mut Batch::default())
            .unwrap();
    }
    let tag = "one-more".parse().unwrap();
    let command = Command::Tag { name: by_tag(0, 0), tag };
    let refused = world.images.handle(command, 1, &mut Batch::default());
    assert!(matches!(refused, Err(ImageError::Tags { .. })));
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![4 => Just(Role::Blob), 1 => Just(Role::Foreign), 3 => Just(Role::Manifest)]
}

fn command() -> impl Strategy<Value = Command> {
    let (at, n) = (0..3_u8, 0..12_u8);
    let parts = proptest::collection::vec((0..12_u8, role()), 0..4);
    let pushes = (
        at.clone(),
        n.clone(),
        parts,
        proptest::option::of(n.clone()),
        proptest::collection::vec(0..4_u8, 0..3),
    );
    let name = (at.clone(), n.clone(), any::<bool>())
        .prop_map(|(at, n, is_tag)| if is_tag { by_tag(at, n % 4) } else { by_digest(at, n) });
    prop_oneof![
        4 => (at.clone(), n.clone()).prop_map(|(at, n)| add(at, n)),
        6 => pushes.prop_map(|(at, n, parts, subject, tags)| push(at, n, &parts, subject, &tags)),
        1 => (at.clone(), n.clone(), proptest::option::of(at.clone())).prop_map(|(at, n, from)| {
            Command::Mount { repository: repository(at), digest: digest(n), from: from.map(repository) }
        }),
        1 => (at.clone(), n.clone()).prop_map(|(at, n)| {
            Command::Lost { repository: repository(at), digests: vec![digest(n)] }
        }),
        1 => (at, n).prop_map(|(at, n)| {
            Command::Unlink { repository: repository(at), digest: digest(n) }
        }),
        2 => name.clone().prop_map(|name| Command::Remove { name }),
        1 => (name, 0..4_u8).prop_map(|(name, n)| Command::Tag { name, tag: tag(n) }),
    ]
}

/// Everything a tag leads to, found in another way than the code does: until nothing more is found.
fn reachable(images: &Images) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    for shelf in images.shelves.values() {
        let mut manifests: BTreeSet<OciDigest> = shelf.tags.values().copied().collect();
        loop {
            let more: BTreeSet<OciDigest> = shelf
                .manifests
                .iter()
                .filter(|(digest, manifest)| {
                    let is_part = manifests.iter().any(|by| {
                        shelf.manifests[by]
                            .document
                            .parts
                            .iter()
                            .any(|p| p.role == Role::Manifest && p.digest == **digest)
                    });
                    is_part || manifest.document.subject.is_some_and(|s| manifests.contains(&s))
                })
                .map(|(digest, _)| *digest)
                .filter(|digest| !manifests.contains(digest))
                .collect();
            if more.is_empty() {
                break;
            }
            manifests.extend(more);
        }
        for manifest in &manifests {
            let parts = shelf.manifests[manifest].document.parts.iter();
            let blobs = parts.map(|part| part.digest).filter(|d| shelf.blobs.contains_key(d));
            found.extend(blobs.chain([*manifest]).map(|d| images.contents[&d].content.digest));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_done_the_rows_say_the_same_and_tagged_images_are_pinned_whole(
        steps in proptest::collection::vec((command(), 0..3_u8), 1..60),
    ) {
        let mut world = World { now_ms: 1_000_000_000_000, ..World::default() };
        for (command, wait) in steps {
            // A refusal is one of the normal outcomes; `handle` checks that it changes nothing.
            let _refused = world.handle(command);
            world.now_ms += u64::from(wait) * UNTAGGED_KEPT_MS / 3;
            world.poll();
            let pins = world.pins();
            let wanted = reachable(&world.images);
            prop_assert!(pins.files.is_superset(&wanted), "{:?}", world.images);
        }
        // In the end exactly what tags lead to is left.
        world.now_ms += 2 * UNTAGGED_KEPT_MS;
        world.poll();
        prop_assert_eq!(&world.pins().files, &reachable(&world.images));
        let held: BTreeSet<Digest> =
            world.images.contents.values().map(|held| held.content.digest).collect();
        prop_assert_eq!(held, reachable(&world.images));
    }
}
