//! Looks for bytes that break a decoder without the help of coverage: `cargo run -p tests --bin mutate -- TARGET|rest SECONDS`.
//! For the targets that `tests/fuzz/run` leaves out, because what they call is too large to be built for it; `rest` means all of
//! them, SECONDS each. It changes what the corpus holds, and goes on from what is accepted.
//!
//! What breaks something is written to the directory in `BROKEN`, by default the present one, and the exit code is 1.

use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tests::fuzz::{CORPUS, Target, pure, targets};

/// Examples kept to go on from; at the bound a new one takes the place of another.
const POOL_MAX: usize = 4_096;
/// Longest bytes that are tried.
const LEN_MAX: usize = 8_192;
/// Most changes of one example.
const CHANGES_MAX: usize = 8;

/// A number below `n`; 0 when that is 0.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    let chance = usize::try_from(rng.next_u32()).unwrap_or(0);
    if n == 0 { 0 } else { chance % n }
}

fn change(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = below(rng, bytes.len() + 1);
    let len = below(rng, 9).min(bytes.len() - at);
    match below(rng, 7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << below(rng, 8),
        1 if at < bytes.len() => {
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 0x40][below(rng, 6)];
        }
        2 => drop(bytes.drain(at..at + len)),
        3 => {
            let mut new = [0; 8];
            rng.fill_bytes(&mut new);
            bytes.splice(at..at, new[..1 + below(rng, 8)].iter().copied());
        }
        4 => {
            let again = bytes[at..at + len].to_vec();
            bytes.splice(at..at, again);
        }
        5 => {
            let from = below(rng, other.len() + 1);
            let to = from + below(rng, 64).min(other.len() - from);
            bytes.splice(at..at + len, other[from..to].iter().copied());
        }
        _ => {
            let number = u64::MAX >> below(rng, 64);
            let width = [1, 2, 4, 8][below(rng, 4)];
            let new = if below(rng, 2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, new[8 - width..].iter().copied());
        }
    }
    bytes.truncate(LEN_MAX);
}

/// How much was tried and accepted, or what broke it.
fn discover(target: &Target, time: Duration) -> Result<(u64, u64), Vec<u8>> {
    let dir = Path::new(CORPUS).join(target.name);
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut pool: Vec<Vec<u8>> = files.filter_map(|file| fs::read(file.path()).ok()).collect();
    pool.push(Vec::new());
    pool.sort();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (begun, mut tried, mut accepted) = (Instant::now(), 0, 0);
    while begun.elapsed() < time {
        let mut bytes = pool[below(&mut rng, pool.len())].clone();
        let other = pool[below(&mut rng, pool.len())].clone();
        for _ in 0..=below(&mut rng, CHANGES_MAX) {
            change(&mut rng, &mut bytes, &other);
        }
        tried += 1;
        match catch_unwind(|| (target.check)(&bytes)) {
            Err(_) => return Err(bytes),
            Ok(false) => {}
            Ok(true) => {
                accepted += 1;
                let at = below(&mut rng, POOL_MAX);
                match pool.get_mut(at) {
                    Some(place) => *place = bytes,
                    None => pool.push(bytes),
                }
            }
        }
    }
    Ok((tried, accepted))
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let seconds = args.get(1).and_then(|text| text.parse().ok());
    let (Some(what), Some(seconds)) = (args.first(), seconds) else {
        eprintln!("usage: mutate TARGET|rest SECONDS");
        return ExitCode::from(64);
    };
    let built: Vec<&str> = pure::targets().iter().map(|target| target.name).collect();
    let is_meant = |name: &str| if what == "rest" { !built.contains(&name) } else { name == what };
    let mut code = ExitCode::SUCCESS;
    for target in targets().iter().filter(|target| is_meant(target.name)) {
        match discover(target, Duration::from_secs(seconds)) {
            Ok((tried, accepted)) => {
                println!("{}: {tried} tried, {accepted} accepted", target.name)
            }
            Err(bytes) => {
                let dir = env::var("BROKEN").unwrap_or_else(|_| ".".to_owned());
                let file =
                    Path::new(&dir).join(format!("{}-{}", target.name, blake3::hash(&bytes)));
                match fs::write(&file, &bytes) {
                    Ok(()) => println!("{}: broken by {}", target.name, file.display()),
                    Err(error) => println!("{}: broken by {bytes:?} ({error})", target.name),
                }
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
