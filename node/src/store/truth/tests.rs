use super::*;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Truth {
        Truth::open(self.dir.path()).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(DATABASE)
    }

    fn generation(&self) -> PathBuf {
        self.dir.path().join(GENERATION)
    }
}

fn batch(entries: &[(Table, &str, Option<&str>)]) -> Batch {
    let ops = entries.iter().map(|(table, key, value)| Op {
        table: *table,
        key: key.as_bytes().to_vec(),
        value: value.map(|value| value.as_bytes().to_vec()),
    });
    Batch { ops: ops.collect() }
}

fn one(key: &str, value: &str) -> [Batch; 1] {
    [batch(&[(Table::Meta, key, Some(value))])]
}

fn keys(truth: &Truth, table: Table) -> Vec<String> {
    let entries = truth.load(table).unwrap();
    entries.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn what_was_committed_is_equal_after_reopening() {
    let home = Home::new();
    let truth = home.open();
    for table in Table::ALL {
        assert_eq!(truth.load(table).unwrap(), []);
    }
    truth
        .commit(&[
            batch(&[(Table::RunEvents, "b", Some("1")), (Table::RunEvents, "a", Some("2"))]),
            batch(&[(Table::RunEvents, "b", Some("3")), (Table::Meta, "x", Some(""))]),
            batch(&[(Table::RunEvents, "c", Some("4")), (Table::RunEvents, "c", None)]),
        ])
        .unwrap();
    let mut truth = Some(truth);
    for _ in 0..2 {
        let truth = truth.take().unwrap_or_else(|| home.open());
        assert_eq!(keys(&truth, Table::RunEvents), ["a", "b"]);
        assert_eq!(truth.get(Table::RunEvents, b"b").unwrap().unwrap(), b"3");
        assert_eq!(truth.get(Table::Meta, b"x").unwrap().unwrap(), b"");
        assert_eq!(truth.get(Table::RunEvents, b"c").unwrap(), None);
        assert!(!truth.was_restored());
    }
}

#[test]
fn a_prefix_scan_gives_its_keys_and_no_others() {
    let home = Home::new();
    let truth = home.open();
    let all = ["a", "ab", "ab1", "ab2", "ac", "b"];
    truth.commit(&all.map(|key| one(key, "")[0].clone())).unwrap();
    let found = truth.scan_prefix(Table::Meta, b"ab").unwrap();
    let found: Vec<_> = found.iter().map(|(key, _)| key.as_slice()).collect();
    assert_eq!(found, [&b"ab"[..], b"ab1", b"ab2"]);
}

#[test]
fn nothing_of_a_commit_beyond_the_bounds_is_written() {
    let home = Home::new();
    let truth = home.open();
    let good = one("good", "")[0].clone();
    let mut long_key = Batch::default();
    long_key.put(Table::Meta, vec![0; KEY_LEN_MAX + 1], vec![]);
    let mut long_value = Batch::default();
    long_value.put(Table::Meta, vec![], vec![0; VALUE_LEN_MAX + 1]);
    let mut many = Batch::default();
    (0..COMMIT_OPS_MAX).for_each(|_| many.delete(Table::Meta, []));
    let refused = truth.commit(&[good.clone(), long_key]).unwrap_err();
    assert!(matches!(refused, CommitError::TooLong { part: "key", .. }));
    let refused = truth.commit(&[good.clone(), long_value]).unwrap_err();
    assert!(matches!(refused, CommitError::TooLong { part: "value", .. }));
    let refused = truth.commit(&[good, many]).unwrap_err();
    assert!(matches!(refused, CommitError::TooMany { .. }));
    assert_eq!(keys(&truth, Table::Meta), [""; 0]);
}

#[test]
fn a_commit_cut_off_at_any_write_leaves_all_or_nothing() {
    let home = Home::new();
    let mut n_writes = 0;
    loop {
        let truth = home.open();
        fill_after(&truth, Some(n_writes));
        let name = format!("{n_writes}");
        let pair = [
            batch(&[(Table::RunEvents, &name, Some("1"))]),
            batch(&[(Table::Meta, &name, Some(&"x".repeat(20_000)))]),
        ];
        let result = truth.commit(&pair);
        drop(truth);
        let truth = home.open();
        let (left, right) = (keys(&truth, Table::RunEvents), keys(&truth, Table::Meta));
        assert_eq!(left.contains(&name), right.contains(&name), "after {n_writes} writes");
        match result {
            Ok(()) => {
                assert!(left.contains(&name));
                break;
            }
            Err(refused) => assert!(refused.is_disk_full(), "{refused:?}"),
        }
        n_writes += 1;
    }
    assert!(n_writes > 3, "the fault was injected {n_writes} times only");
}

fn fill_after(truth: &Truth, n_writes: Option<u64>) {
    *truth.health.writes_left.lock().unwrap() = n_writes;
}

#[test]
fn a_full_disk_is_got_over_without_a_restart() {
    let home = Home::new();
    let truth = home.open();
    truth.commit(&one("before", "")).unwrap();
    fill_after(&truth, Some(0));
    for _ in 0..3 {
        let refused = truth.commit(&one("during", "")).unwrap_err();
        assert!(refused.is_disk_full(), "{refused:?}");
    }
    fill_after(&truth, None);
    assert_eq!(keys(&truth, Table::Meta), ["before"]);
    truth.commit(&one("during", "")).unwrap();
    drop(truth);
    let truth = home.open();
    assert_eq!(keys(&truth, Table::Meta), ["before", "during"]);
    assert!(!truth.was_restored());
}

#[test]
fn a_failed_sync_is_final_until_the_process_restarts() {
    let home = Home::new();
    let truth = home.open();
    truth.health.no_sync.store(true, Ordering::Release);
    let refused = truth.commit(&one("k", "")).unwrap_err();
    assert!(matches!(refused, CommitError::NotDurable { .. }), "{refused:?}");
    truth.health.no_sync.store(false, Ordering::Release);
    assert!(matches!(truth.commit(&one("k", "")), Err(CommitError::NotDurable { .. })));
    assert!(matches!(truth.load(Table::Meta), Err(ReadError::NotDurable { .. })));
}

#[test]
fn a_cut_or_foreign_file_is_an_error_that_names_it() {
    let home = Home::new();
    let truth = home.open();
    for n in 0..200 {
        truth.commit(&one(&format!("{n:03}"), &"x".repeat(500))).unwrap();
    }
    drop(truth);
    let whole = std::fs::read(home.file()).unwrap();
    let cuts = [0, 1, 100, 4096, 8192, whole.len() / 2, whole.len() - 1];
    let files = cuts.iter().map(|len| whole[..*len].to_vec());
    for bytes in files.chain([b"not a database".to_vec(), vec![0; 1 << 16]]) {
        std::fs::write(home.file(), &bytes).unwrap();
        let refused = Truth::open(home.dir.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{} bytes: {refused:?}", bytes.len());
        assert!(refused.to_string().contains(DATABASE), "{refused}");
    }
    std::fs::write(home.file(), &whole).unwrap();
    assert_eq!(keys(&home.open(), Table::Meta).len(), 200);
}

#[test]
fn flipped_bytes_never_panic_and_never_change_a_value() {
    let home = Home::new();
    let truth = home.open();
    let value = "x".repeat(500);
    for n in 0..40 {
        truth.commit(&one(&format!("{n:03}"), &value)).unwrap();
    }
    drop(truth);
    let whole = std::fs::read(home.file()).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[at..].iter_mut().take(40).for_each(|byte| *byte ^= 0xff);
        std::fs::write(home.file(), &bytes).unwrap();
        let Ok(truth) = Truth::open(home.dir.path()) else {
            continue;
        };
        let Ok(entries) = truth.load(Table::Meta) else {
            continue;
        };
        assert!(entries.iter().all(|(_, found)| *found == value.as_bytes()), "at {at}");
    }
}

#[test]
fn a_database_that_vanished_is_not_replaced_by_an_empty_one() {
    let home = Home::new();
    home.open().commit(&one("k", "v")).unwrap();
    std::fs::remove_file(home.file()).unwrap();
    let refused = Truth::open(home.dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Missing { commits: 2, .. }), "{refused:?}");
    assert!(!home.file().exists());
    std::fs::remove_file(home.generation()).unwrap();
    let truth = home.open();
    assert_eq!(keys(&truth, Table::Meta), [""; 0]);
}

#[test]
fn a_crash_while_the_store_is_made_is_picked_up() {
    let home = Home::new();
    let new = home.dir.path().join(DATABASE_NEW);
    std::fs::write(&new, b"half a database").unwrap();
    drop(home.open());
    assert!(!new.exists());
    std::fs::rename(home.file(), &new).unwrap();
    let truth = home.open();
    assert!(!truth.was_restored());
    truth.commit(&one("k", "v")).unwrap();
}

#[test]
fn another_format_is_refused_by_number() {
    let home = Home::new();
    let truth = home.open();
    truth
        .write(|transaction, _| {
            let mut rows = transaction.open_table(STORE)?;
            rows.insert(KEY_FORMAT, 9_u32.to_le_bytes().as_slice())?;
            Ok(())
        })
        .unwrap();
    drop(truth);
    let refused = Truth::open(home.dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Format { found: 9, .. }), "{refused:?}");
}

#[test]
fn a_second_handle_is_refused() {
    let home = Home::new();
    let truth = home.open();
    let refused = Truth::open(home.dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    drop(truth);
}

#[test]
fn a_store_put_back_from_a_backup_says_so_until_that_is_handled() {
    let home = Home::new();
    let truth = home.open();
    truth.commit(&one("a", "")).unwrap();
    drop(truth);
    let backup = std::fs::read(home.file()).unwrap();
    let truth = home.open();
    truth.commit(&one("b", "")).unwrap();
    assert!(!truth.was_restored());
    drop(truth);
    // In place: same inode, same instance, but behind the generation.
    std::fs::write(home.file(), &backup).unwrap();
    for _ in 0..2 {
        let truth = home.open();
        assert!(truth.was_restored());
        assert_eq!(keys(&truth, Table::Meta), ["a"]);
    }
    let truth = home.open();
    truth.restore_handled().unwrap();
    assert!(!truth.was_restored());
    drop(truth);
    assert!(!home.open().was_restored());
}

#[test]
fn a_copy_of_the_home_knows_that_it_is_one() {
    let home = Home::new();
    home.open().commit(&one("a", "")).unwrap();
    let copy = Home::new();
    std::fs::copy(home.file(), copy.file()).unwrap();
    std::fs::copy(home.generation(), copy.generation()).unwrap();
    assert!(copy.open().was_restored());
    assert!(!home.open().was_restored());
    std::fs::remove_file(home.generation()).unwrap();
    assert!(home.open().was_restored());
}

#[test]
fn a_process_killed_without_closing_loses_no_acknowledged_commit() {
    let home = Home::new();
    let truth = home.open();
    for n in 0..20 {
        truth.commit(&one(&format!("{n:02}"), "v")).unwrap();
    }
    // What a killed process leaves: the files as they are, without redb's orderly close.
    let left = Home::new();
    std::fs::copy(home.file(), left.file()).unwrap();
    assert_eq!(keys(&left.open(), Table::Meta).len(), 20);
    drop(truth);
}

#[test]
fn a_table_of_a_later_version_is_added_and_another_that_is_missing_is_damage() {
    let home = Home::new();
    home.open().commit(&one("a", "b")).unwrap();
    let without = |table: Table| {
        let database = Database::create(home.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        assert!(transaction.delete_table(definition(table)).unwrap());
        transaction.commit().unwrap();
    };
    Table::ADDED.into_iter().for_each(without);
    let truth = home.open();
    for table in Table::ADDED {
        assert_eq!(truth.load(table).unwrap(), []);
    }
    assert_eq!(keys(&truth, Table::Meta), ["a"]);
    drop(truth);
    without(Table::LedgerEntries);
    assert!(matches!(home.open().load(Table::LedgerEntries), Err(ReadError::Failed { .. })));
}
