//! The rules of the house that no compiler checks: purity, arrows between crates, manifests, prints, sleeps, paths.
//!
//! Each rule is a function from the files of the repository to a list of complaints. One test runs it on the repository,
//! another proves on small samples that it catches what it should. The scanners read lines and words, not Rust: code is
//! first freed of comments and of what stands in string literals, so that both may name what code may not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[path = "tidy/scan.rs"]
mod scan;

use scan::{
    Dependency, code_of, dependencies, has_word, imports, is_word, section_has, without_tests,
};

/// Crates without I/O, clock and randomness.
const PURE: [&str; 3] = ["accounting", "catalog", "scheduler"];

/// The arrows of the design: who may depend on whom of ours, in any section of the manifest.
const ARROWS: [(&str, &[&str]); 6] = [
    ("catalog", &[]),
    ("accounting", &["catalog"]),
    ("scheduler", &["accounting", "catalog"]),
    ("fabric", &[]),
    ("node", &["accounting", "catalog", "fabric", "scheduler"]),
    ("tests", &["accounting", "catalog", "fabric", "node", "scheduler"]),
];

/// What a pure crate may depend on, and why that keeps it pure.
const PURE_DEPENDENCIES: [(&str, &[&str], &str); 13] = [
    ("accounting", &["scheduler"], "ours and pure"),
    ("base64", &["scheduler"], "reads public keys; a function of bytes"),
    ("blake3", &["accounting", "catalog"], "names content; a function of bytes"),
    ("bs58", &["catalog"], "prints ids; a function of bytes"),
    ("catalog", &["accounting", "scheduler"], "ours and pure"),
    ("cel", &["scheduler"], "evaluates expressions over values it is given"),
    ("ciborium-ll", &["catalog"], "heads of CBOR items to and from memory"),
    ("ed25519-dalek", &["accounting", "catalog"], "deterministic signatures; no RNG feature is on"),
    ("saphyr-parser", &["scheduler"], "YAML from a text in memory"),
    ("serde", &PURE, "derives"),
    ("serde_json", &PURE, "JSON to and from memory"),
    ("sha2", &["accounting", "catalog"], "the hash chains of the ledger; a function of bytes"),
    ("thiserror", &PURE, "derives"),
];

/// Paths that a pure crate may neither import nor write out.
const IMPURE_PATHS: [&str; 18] = [
    "async_std",
    "futures",
    "getrandom",
    "rand",
    "rand_chacha",
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "std::collections::hash_map",
];

/// Words that have no place in a pure crate however they got there.
const IMPURE_WORDS: [&str; 12] = [
    "HashMap",
    "HashSet",
    "Instant::now",
    "OsRng",
    "RandomState",
    "SystemTime",
    "async",
    "await",
    "io::stderr",
    "io::stdin",
    "io::stdout",
    "thread_rng",
];

/// Macros that print.
const PRINTS: [&str; 5] = ["println!", "print!", "eprintln!", "eprint!", "dbg!"];

/// What may stand at the top of the repository, beside names that begin with a dot or `LICENSE`.
const TOP: [&str; 15] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "accounting",
    "catalog",
    "clippy.toml",
    "examples",
    "fabric",
    "node",
    "rustfmt.toml",
    "scheduler",
    "target",
    "tests",
];

/// Longest `ARCHITECTURE.md`: it should be read in one sitting.
const ARCHITECTURE_LINES_MAX: usize = 250;

/// Beginnings of paths that exist on one machine only; in parts, so that this file does not complain about itself.
const MACHINE_PATHS: [&str; 3] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")];

/// Files that people write, by the end of their names. Others are data.
const TEXT_ENDS: [&str; 18] = [
    ".c", ".css", ".h", ".html", ".js", ".json", ".md", ".mjs", ".py", ".rs", ".sh", ".sql",
    ".toml", ".ts", ".txt", ".yaml", ".yml", "Makefile",
];

/// The text files of the repository by path, and what stands at its top.
#[derive(Default)]
struct Repo {
    files: BTreeMap<String, String>,
    top: BTreeSet<String>,
}

impl Repo {
    /// Reads the repository this test was built from, without what `.gitignore` names.
    fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let ignored = std::fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        let ignored: Vec<&str> = ignored.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let mut repo = Self::default();
        repo.read(&root, "", &ignored);
        assert!(repo.files.contains_key("Cargo.toml"), "no repository at {}", root.display());
        repo
    }

    fn read(&mut self, root: &Path, dir: &str, ignored: &[&str]) {
        let entries = std::fs::read_dir(root.join(dir)).expect("a directory that was just listed");
        for entry in entries {
            let entry = entry.expect("a readable entry");
            let kind = entry.file_type().expect("a kind of file");
            let name = entry.file_name().into_string().expect("names of files are UTF-8");
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            if dir.is_empty() {
                self.top.insert(name.clone());
            }
            let is_hidden = name.starts_with('.') && name != ".ci";
            if is_hidden || name == "target" || is_ignored(&path, ignored) {
                continue;
            }
            if kind.is_dir() {
                self.read(root, &path, ignored);
            } else if kind.is_file() && is_text(&path) {
                let text = std::fs::read_to_string(entry.path());
                self.files.insert(path, text.expect("text files are UTF-8"));
            }
        }
    }

    fn sample(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Self { files: files.collect(), top: BTreeSet::new() }
    }

    /// The Rust files with their code, comments and string contents blanked.
    fn code(&self) -> impl Iterator<Item = (&str, String)> {
        let rust = self.files.iter().filter(|(path, _)| path.ends_with(".rs"));
        rust.map(|(path, text)| (path.as_str(), code_of(text)))
    }

    /// As [`Repo::code`], without tests.
    fn product_code(&self) -> impl Iterator<Item = (&str, String)> {
        let product = self.code().filter(|(path, _)| !is_test(path));
        product.map(|(path, code)| (path, without_tests(&code)))
    }

    /// The manifests of the members with the member's name.
    fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, text)| {
            let member = path.strip_suffix("/Cargo.toml")?;
            (!member.contains('/')).then_some((member, text.as_str()))
        })
    }

    fn dependencies(&self) -> impl Iterator<Item = (&str, Dependency<'_>)> {
        self.manifests().flat_map(|(member, text)| {
            dependencies(text).into_iter().map(move |dependency| (member, dependency))
        })
    }
}

/// `/dir/` and `/file` at the top, `*.end` anywhere: all that our `.gitignore` uses.
fn is_ignored(path: &str, ignored: &[&str]) -> bool {
    ignored.iter().any(|pattern| match (pattern.strip_prefix('/'), pattern.strip_prefix('*')) {
        (Some(exact), _) => path == exact.trim_end_matches('/'),
        (None, Some(end)) => path.ends_with(end),
        (None, None) => path.split('/').any(|part| part == pattern.trim_end_matches('/')),
    })
}

/// Everything in `.ci` and `tests/` without an ending is a script.
fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_script = !name.contains('.') && (path.starts_with(".ci/") || path.starts_with("tests/"));
    is_script || TEXT_ENDS.iter().any(|end| path.ends_with(end))
}

/// Whether a file holds tests only.
fn is_test(path: &str) -> bool {
    let dirs_and_name: Vec<&str> = path.split('/').collect();
    dirs_and_name.iter().any(|part| matches!(*part, "tests" | "benches" | "tests.rs"))
        || path.ends_with("_tests.rs")
}

fn in_pure_crate(path: &str) -> bool {
    PURE.iter().any(|name| path.strip_prefix(name).is_some_and(|rest| rest.starts_with("/src/")))
}

// ---- the rules

fn pure_dependencies(repo: &Repo) -> Vec<String> {
    let may = |member: &str, name: &str| {
        PURE_DEPENDENCIES.iter().any(|(dep, users, _)| *dep == name && users.contains(&member))
    };
    repo.dependencies()
        .filter(|(member, dep)| PURE.contains(member) && !dep.section.contains("dev-"))
        .filter(|(member, dep)| !may(member, dep.name))
        .map(|(member, dep)| {
            format!(
                "{member}/Cargo.toml: a pure crate may not depend on `{}` (see PURE_DEPENDENCIES)",
                dep.name
            )
        })
        .collect()
}

fn pure_code(repo: &Repo) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (path, code) in repo.product_code().filter(|(path, _)| in_pure_crate(path)) {
        let mut complain = |line: usize, bad: &str| {
            found.insert((path.to_owned(), line, bad.to_owned()));
        };
        for (line, import) in imports(&code) {
            let rest_after = |bad: &str| import.strip_prefix(bad).map(str::to_owned);
            IMPURE_PATHS
                .iter()
                .filter(|bad| rest_after(bad).is_some_and(|r| r.is_empty() || r.starts_with("::")))
                .for_each(|bad| complain(line, bad));
        }
        for (line, text) in (1..).zip(code.lines()) {
            let words = IMPURE_WORDS.iter().chain(&IMPURE_PATHS);
            words.filter(|bad| has_word(text, bad)).for_each(|bad| complain(line, bad));
        }
    }
    let say = |(path, line, bad)| format!("{path}:{line}: a pure crate may not use `{bad}`");
    found.into_iter().map(say).collect()
}

fn arrows(repo: &Repo) -> Vec<String> {
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(member, _)| *member).collect();
    let may = |member: &str, name: &str| {
        ARROWS.iter().any(|(from, to)| *from == member && to.contains(&name))
    };
    repo.dependencies()
        .filter(|(member, dep)| ours.contains(dep.name) && !may(member, dep.name))
        .map(|(member, dep)| {
            format!("{member}/Cargo.toml: no arrow leads from here to `{}`", dep.name)
        })
        .collect()
}

fn libp2p_in_fabric_only(repo: &Repo) -> Vec<String> {
    let mut found = Vec::new();
    for (member, dep) in repo.dependencies() {
        if member != "fabric" && dep.name.starts_with("libp2p") {
            found.push(format!("{member}/Cargo.toml: `{}` belongs to fabric", dep.name));
        }
    }
    for (path, code) in repo.code().filter(|(path, _)| !path.starts_with("fabric/")) {
        let imported =
            imports(&code).into_iter().filter(|(_, import)| import.starts_with("libp2p"));
        let is_path = |text: &str| {
            let heads = text.match_indices("::").map(|(at, _)| &text[..at]);
            heads
                .filter_map(|head| head.rsplit(|c| !is_word(c)).next())
                .any(|head| head.starts_with("libp2p"))
        };
        let written = (1..).zip(code.lines()).filter(|(_, text)| is_path(text));
        let lines: BTreeSet<usize> =
            imported.map(|(line, _)| line).chain(written.map(|(line, _)| line)).collect();
        found.extend(lines.iter().map(|line| format!("{path}:{line}: libp2p outside fabric")));
    }
    found
}

fn prints_in_cli_only(repo: &Repo) -> Vec<String> {
    let may = |path: &str| {
        path.starts_with("node/src/cli/") || path == "node/src/cli.rs" || path == "node/src/main.rs"
    };
    let mut found = Vec::new();
    for (path, code) in repo.product_code().filter(|(path, _)| !may(path)) {
        for (line, text) in (1..).zip(code.lines()) {
            if let Some(print) = PRINTS.iter().find(|print| has_word(text, print)) {
                found.push(format!("{path}:{line}: `{print}` outside node/src/cli; use tracing"));
            }
        }
    }
    found
}

fn lints_inherited(repo: &Repo) -> Vec<String> {
    repo.manifests()
        .filter(|(_, text)| !section_has(text, "lints", "workspace = true"))
        .map(|(member, _)| format!("{member}/Cargo.toml: `[lints] workspace = true` is missing"))
        .collect()
}

fn versions_in_one_place(repo: &Repo) -> Vec<String> {
    repo.dependencies()
        .filter(|(_, dep)| !dep.is_from_workspace)
        .map(|(member, dep)| {
            format!(
                "{member}/Cargo.toml: write `{}.workspace = true`, its version belongs in the root",
                dep.name
            )
        })
        .collect()
}

fn public_modules_documented(repo: &Repo) -> Vec<String> {
    let mut found = Vec::new();
    for (path, code) in repo.code().filter(|(path, _)| path.contains("/src/")) {
        let (dir, file) = path.rsplit_once('/').expect("it contains a slash");
        let home = match file {
            "lib.rs" | "main.rs" | "mod.rs" => dir.to_owned(),
            _ => path.trim_end_matches(".rs").to_owned(),
        };
        let declared =
            code.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'));
        for name in declared {
            let places = [format!("{home}/{name}.rs"), format!("{home}/{name}/mod.rs")];
            let Some((place, text)) =
                places.iter().find_map(|place| Some((place, repo.files.get(place)?)))
            else {
                found.push(format!("{path}: the file of `pub mod {name}` is missing"));
                continue;
            };
            if !text.starts_with("//!") {
                found
                    .push(format!("{place}: a public module starts with `//!` and what it is for"));
            }
            if code_of(text).trim().is_empty() {
                found.push(format!("{place}: a public module with nothing in it"));
            }
        }
    }
    found
}

fn architecture_short(repo: &Repo) -> Vec<String> {
    let lines = repo.files.get("ARCHITECTURE.md").map_or(0, |text| text.lines().count());
    let is_long = lines > ARCHITECTURE_LINES_MAX;
    is_long
        .then(|| format!("ARCHITECTURE.md: {lines} lines, at most {ARCHITECTURE_LINES_MAX}"))
        .into_iter()
        .collect()
}

/// A path counts where it begins: not inside another path or an address.
fn no_machine_paths(repo: &Repo) -> Vec<String> {
    let begins = |text: &str, path: &str| {
        text.match_indices(path).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "_-./}".contains(c))
        })
    };
    let mut found = Vec::new();
    for (path, text) in &repo.files {
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(bad) = MACHINE_PATHS.iter().find(|bad| begins(text, bad)) {
                found.push(format!("{path}:{line}: `{bad}` exists on one machine only"));
            }
        }
    }
    found
}

fn no_ignored_tests(repo: &Repo) -> Vec<String> {
    let mut found = Vec::new();
    for (path, code) in repo.code() {
        for (line, text) in (1..).zip(code.lines()) {
            if text.contains("#[ignore") {
                found.push(format!("{path}:{line}: an ignored test; assert what holds instead"));
            }
        }
    }
    found
}

/// How far above a pause the loop stands that it belongs to.
const POLL_LINES: usize = 8;

fn no_sleeps_in_tests(repo: &Repo) -> Vec<String> {
    let mut found = Vec::new();
    for (path, code) in repo.code().filter(|(path, _)| is_test(path)) {
        let imported = imports(&code)
            .into_iter()
            .filter(|(_, import)| {
                import.ends_with("thread::sleep") || import.ends_with("time::sleep")
            })
            .map(|(line, _)| line);
        let lines: Vec<&str> = code.lines().collect();
        // A pause between two looks at a condition is a wait for the condition, not for the time.
        let is_polling = |index: usize| {
            lines[index.saturating_sub(POLL_LINES)..index]
                .iter()
                .any(|text| has_word(text, "while") || has_word(text, "loop"))
        };
        let written = lines
            .iter()
            .enumerate()
            .filter(|(_, text)| has_word(text, "thread::sleep") || has_word(text, "time::sleep"))
            .filter(|(index, _)| !is_polling(*index))
            .map(|(index, _)| index + 1);
        let lines: BTreeSet<usize> = imported.chain(written).collect();
        found.extend(lines.iter().map(|line| {
            format!("{path}:{line}: a test sleeps; wait for the condition with a deadline")
        }));
    }
    found
}

fn top_level_fixed(repo: &Repo) -> Vec<String> {
    repo.top
        .iter()
        .filter(|name| !name.starts_with('.') && !name.starts_with("LICENSE"))
        .filter(|name| !TOP.contains(&name.as_str()))
        .map(|name| {
            format!("{name}: does not belong at the top; crates and folders there are fixed")
        })
        .collect()
}

// ---- the rules on the repository

fn holds(rule: fn(&Repo) -> Vec<String>) {
    let found = rule(&Repo::load());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn pure_crates_depend_only_on_what_is_listed() {
    holds(pure_dependencies);
}

#[test]
fn pure_crates_use_no_io_clock_randomness_or_hash_order() {
    holds(pure_code);
}

#[test]
fn dependencies_between_our_crates_point_one_way() {
    holds(arrows);
}

#[test]
fn only_fabric_names_libp2p() {
    holds(libp2p_in_fabric_only);
}

#[test]
fn only_the_command_line_prints() {
    holds(prints_in_cli_only);
}

#[test]
fn every_member_inherits_the_lints() {
    holds(lints_inherited);
}

#[test]
fn every_version_stands_in_the_root_manifest() {
    holds(versions_in_one_place);
}

#[test]
fn every_public_module_says_what_it_is() {
    holds(public_modules_documented);
}

#[test]
fn the_architecture_can_be_read_in_one_sitting() {
    holds(architecture_short);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    holds(no_machine_paths);
}

#[test]
fn no_test_is_ignored() {
    holds(no_ignored_tests);
}

#[test]
fn no_test_sleeps() {
    holds(no_sleeps_in_tests);
}

#[test]
fn the_top_of_the_repository_stays_as_it_is() {
    holds(top_level_fixed);
}

#[path = "tidy/samples.rs"]
mod samples;
