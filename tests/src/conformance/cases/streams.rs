//! Standard input, output and error.

use crate::conformance::bench::MIB;
use crate::conformance::{Bench, Need};

/// Bytes as the probe makes them: each tells its place.
pub(super) fn pattern(len: u64) -> Vec<u8> {
    (0..=250).cycle().take(usize::try_from(len).expect("it fits into memory")).collect()
}

pub(in crate::conformance) fn output_and_errors_are_kept_apart(bench: &Bench) {
    let ended =
        bench.probe(&["say", "out", "then", "complain", "err", "then", "say", "more"]).expect(0);
    assert_eq!((ended.text().as_str(), ended.stderr.as_str()), ("out\nmore\n", "err\n"));
}

pub(in crate::conformance) fn input_arrives_whole(bench: &Bench) {
    let content = pattern(20 * MIB + 1);
    let mut job = bench.job(&["count"]);
    job.stdin = Some(bench.file("input", &content));
    // FNV-1a, as the probe computes it.
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!(bench.run(&job).expect(0).text(), format!("{} {hash:016x}\n", content.len()));
}

pub(in crate::conformance) fn unread_input_does_no_harm(bench: &Bench) {
    let mut job = bench.job(&["say", "done", "then", "exit", "5"]);
    job.stdin = Some(bench.file("input", &pattern(8 * MIB)));
    assert_eq!(bench.run(&job).expect(5).text(), "done\n");
}

pub(in crate::conformance) fn missing_input_is_empty(bench: &Bench) {
    assert_eq!(bench.probe(&["count"]).expect(0).text(), "0 cbf29ce484222325\n");
    let mut job = bench.job(&["count"]);
    job.stdin = Some(bench.file("empty", b""));
    assert_eq!(bench.run(&job).expect(0).text(), "0 cbf29ce484222325\n");
}

pub(in crate::conformance) fn every_byte_passes(bench: &Bench) {
    let content: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    let mut job = bench.job(&["cat"]);
    job.stdin = Some(bench.file("input", &content));
    assert_eq!(bench.run(&job).expect(0).stdout, content);
}

pub(in crate::conformance) fn a_flood_of_output_arrives_whole(bench: &Bench) {
    let len = 64 * MIB + 3;
    let mut job = bench.job(&["flood", &len.to_string()]);
    if !bench.has(Need::StreamedOutput) {
        job.disk_bytes = 2 * len;
    }
    let ended = bench.run(&job).expect(0);
    assert_eq!(ended.stdout_len, len);
    assert_eq!(ended.stdout_hash, blake3::hash(&pattern(len)));
}

pub(in crate::conformance) fn the_last_words_of_a_task_arrive(bench: &Bench) {
    for n in 0..bench.tries(8) {
        let word = format!("last {n}");
        let ended =
            bench.probe(&["say", &word, "then", "complain", &word, "then", "exit", "3"]).expect(3);
        assert_eq!((ended.text(), ended.stderr), (format!("{word}\n"), format!("{word}\n")));
    }
}

pub(in crate::conformance) fn a_task_may_close_its_output(bench: &Bench) {
    let ended = bench.probe(&[
        "say", "a", "then", "close", "1", "then", "close", "2", "then", "append", "f", "x",
    ]);
    assert_eq!(ended.expect(0).file("f"), b"x");
}
