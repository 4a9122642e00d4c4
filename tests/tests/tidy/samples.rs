//! Samples that prove that each rule catches what it should, and lets pass what it should.

use super::*;

type Rule = fn(&Repo) -> Vec<String>;

/// The rule complains about this file once, and the complaint holds `expected`.
fn catches(rule: Rule, path: &str, text: &str, expected: &str) {
    let found = rule(&Repo::sample(&[(path, text)]));
    assert_eq!(found.len(), 1, "{path}: {text}\n{found:#?}");
    assert!(found[0].contains(expected), "{}", found[0]);
}

fn passes(rule: Rule, path: &str, text: &str) {
    assert_eq!(rule(&Repo::sample(&[(path, text)])), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn an_unlisted_dependency_of_a_pure_crate_is_caught() {
    let path = "catalog/Cargo.toml";
    catches(pure_dependencies, path, "[dependencies]\ntokio.workspace = true", "`tokio`");
    catches(pure_dependencies, path, "[dependencies.rand]\nworkspace = true", "`rand`");
    catches(pure_dependencies, path, "[target.'cfg(unix)'.dependencies]\nlibc = \"1\"", "`libc`");
    catches(pure_dependencies, path, "[build-dependencies]\ncc = \"1\"", "`cc`");
    // Listed, but for another crate.
    catches(pure_dependencies, path, "[dependencies]\ncel.workspace = true", "`cel`");
    passes(pure_dependencies, path, "[dependencies]\nserde.workspace = true # tokio = 1");
    passes(pure_dependencies, path, "[dev-dependencies]\nproptest.workspace = true");
    passes(pure_dependencies, "node/Cargo.toml", "[dependencies]\ntokio.workspace = true");
}

#[test]
fn impure_code_in_a_pure_crate_is_caught() {
    let path = "scheduler/src/a.rs";
    for (code, bad) in [
        ("use std::fs;", "std::fs"),
        ("use std::{\n    fmt,\n    net::{self, IpAddr},\n};", "std::net"),
        ("use std::time::{Duration, Instant as Clock};", "std::time::Instant"),
        ("use std::collections::{BTreeMap, hash_map::Entry};", "std::collections::hash_map"),
        ("fn f() { std::thread::yield_now() }", "std::thread"),
        ("fn f() { let t = time::Instant::now(); }", "Instant::now"),
        ("fn f() -> time::SystemTime;", "SystemTime"),
        ("use std::collections::HashMap;", "HashMap"),
        ("type A = HashMap<u8, u8>;", "HashMap"),
        ("type A = collections::HashSet<u8>;", "HashSet"),
        ("fn f() { io::stdin(); }", "io::stdin"),
        ("fn f() { tokio::spawn(x) }", "tokio"),
        ("fn f() { rand::random() }", "rand"),
        ("async fn f() {}", "async"),
        ("#[cfg(test)]\nmod tests {}\nuse std::env;", ":3: a pure crate may not use `std::env`"),
    ] {
        catches(pure_code, path, code, bad);
    }
    for code in [
        "// std::fs and HashMap",
        "/* use std::fs; */",
        "/// ```\n/// use std::fs;\n/// ```",
        "const A: &str = \"use std::fs; HashMap\";",
        "const A: &str = r#\"std::fs \" HashMap\"#;",
        "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // HashMap",
        "#[cfg(test)]\nmod tests {\n    use std::fs;\n}",
        "#[cfg(test)]\nuse std::fs;",
        "use std::io::Write;",
        "struct A { stdin: u8, brand: u8, std_fs: u8 }",
    ] {
        passes(pure_code, path, code);
    }
    passes(pure_code, "scheduler/tests/a.rs", "use std::fs;");
    passes(pure_code, "scheduler/src/a/tests.rs", "use std::fs;");
    passes(pure_code, "node/src/a.rs", "use std::fs;");
}

#[test]
fn a_reversed_arrow_is_caught() {
    for (from, to) in [
        ("catalog", "accounting"),
        ("accounting", "scheduler"),
        ("scheduler", "node"),
        ("scheduler", "fabric"),
        ("fabric", "catalog"),
        ("node", "tests"),
    ] {
        let path = format!("{from}/Cargo.toml");
        let arrow = |section: &str| format!("[{section}]\n{to}.workspace = true");
        catches(arrows, &path, &arrow("dependencies"), to);
        catches(arrows, &path, &arrow("dev-dependencies"), to);
    }
    passes(arrows, "scheduler/Cargo.toml", "[dependencies]\naccounting.workspace = true");
}

#[test]
fn libp2p_outside_fabric_is_caught() {
    let manifest = "[dependencies]\nlibp2p-stream.workspace = true";
    catches(libp2p_in_fabric_only, "node/Cargo.toml", manifest, "libp2p-stream");
    catches(libp2p_in_fabric_only, "node/src/a.rs", "\nuse libp2p_stream::A;", "a.rs:2");
    passes(libp2p_in_fabric_only, "fabric/Cargo.toml", manifest);
    passes(libp2p_in_fabric_only, "fabric/src/a.rs", "use libp2p::A;");
    passes(libp2p_in_fabric_only, "catalog/src/id.rs", "/// Prints as a libp2p PeerId.");
}

#[test]
fn a_print_outside_the_command_line_is_caught() {
    for print in PRINTS {
        let code = format!("fn f() {{ {print}(\"x\") }}");
        catches(prints_in_cli_only, "node/src/engine/a.rs", &code, print);
        passes(prints_in_cli_only, "node/src/cli/run.rs", &code);
        passes(prints_in_cli_only, "node/src/main.rs", &code);
        passes(prints_in_cli_only, "tests/src/lib.rs", &code);
        passes(prints_in_cli_only, "fabric/tests/a.rs", &code);
    }
}

#[test]
fn a_manifest_without_the_lints_is_caught() {
    let other = "[package]\nworkspace = true\n[lints]\nrust = 1";
    catches(lints_inherited, "node/Cargo.toml", other, "node/Cargo.toml");
    passes(lints_inherited, "node/Cargo.toml", "[lints]\nworkspace = true");
}

#[test]
fn a_version_outside_the_root_is_caught() {
    let path = "node/Cargo.toml";
    for line in ["serde = \"1\"", "serde = { path = \"../serde\" }", "serde.version = \"1\""] {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            catches(
                versions_in_one_place,
                path,
                &format!("[{section}]\n{line}"),
                "`serde.workspace",
            );
        }
    }
    catches(
        versions_in_one_place,
        path,
        "[dependencies.serde]\nversion = \"1\"",
        "`serde.workspace",
    );
    let inherited =
        "[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"c\"] }";
    passes(versions_in_one_place, path, inherited);
    passes(versions_in_one_place, path, "[package]\nversion = \"1\"");
}

#[test]
fn an_undocumented_empty_or_missing_public_module_is_caught() {
    let check = |path: &str, text: &str, expected: Option<&str>| {
        let lib = ("fabric/src/lib.rs", "//! A.\npub mod a;\nmod b;");
        let found = public_modules_documented(&Repo::sample(&[lib, (path, text)]));
        assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
        assert!(expected.is_none_or(|expected| found[0].contains(expected)), "{found:?}");
    };
    check("fabric/src/a.rs", "use b;", Some("starts with `//!`"));
    check("fabric/src/a/mod.rs", "/// Not inner.\nuse b;", Some("starts with `//!`"));
    check("fabric/src/a.rs", "//! To come.", Some("nothing in it"));
    check("fabric/src/c.rs", "//! C.", Some("missing"));
    check("fabric/src/a.rs", "//! A.\nuse b;", None);
    let nested = [("fabric/src/a.rs", "//! A.\npub mod b;"), ("fabric/src/a/b.rs", "fn f() {}")];
    assert_eq!(public_modules_documented(&Repo::sample(&nested)).len(), 1);
}

#[test]
fn a_long_architecture_is_caught() {
    catches(architecture_short, "ARCHITECTURE.md", &"x\n".repeat(251), "251 lines");
    passes(architecture_short, "ARCHITECTURE.md", &"x\n".repeat(250));
}

#[test]
fn a_path_of_one_machine_is_caught() {
    for bad in MACHINE_PATHS {
        catches(no_machine_paths, "node/src/a.rs", &format!("// see {bad}x"), bad);
        catches(no_machine_paths, "examples/a.yaml", &format!("a: \"{bad}x\""), bad);
        passes(no_machine_paths, "README.md", &format!("https://example.org{bad}x"));
        passes(no_machine_paths, "README.md", &format!("examples{bad}x"));
    }
}

#[test]
fn an_ignored_test_is_caught() {
    let attribute = concat!("#[ign", "ore = \"slow\"]\nfn f() {}");
    catches(no_ignored_tests, "node/src/a.rs", attribute, "a.rs:1");
    catches(no_ignored_tests, "tests/tests/a.rs", &attribute.replace(" = \"slow\"", ""), "a.rs:1");
    passes(no_ignored_tests, "node/src/a.rs", &format!("// {attribute}").replace('\n', " "));
}

#[test]
fn a_sleep_in_a_test_is_caught() {
    for code in [
        "fn f() { std::thread::sleep(d) }",
        "async fn f() { tokio::time::sleep(d).await }",
        "use std::{thread::sleep, time::Duration};",
        "use tokio::time::{self, sleep};",
    ] {
        catches(no_sleeps_in_tests, "tests/tests/a.rs", code, "sleeps");
        catches(no_sleeps_in_tests, "node/src/a/tests.rs", code, "sleeps");
        passes(no_sleeps_in_tests, "node/src/a.rs", code);
    }
    passes(
        no_sleeps_in_tests,
        "tests/tests/a.rs",
        "// thread::sleep\nfn f() { time::sleep_until(d) }",
    );
    passes(
        no_sleeps_in_tests,
        "tests/tests/a.rs",
        "fn f() {\n    while !is_so() {\n        std::thread::sleep(d);\n    }\n}",
    );
}

#[test]
fn a_stranger_at_the_top_is_caught() {
    let top = |name: &str| {
        let top = BTreeSet::from([name.to_owned()]);
        top_level_fixed(&Repo { top, ..Repo::default() })
    };
    assert_eq!(top("xtask").len(), 1);
    for name in ["catalog", ".ci", "LICENSE-MIT", "target", "README.md"] {
        assert_eq!(top(name), Vec::<String>::new());
    }
}

#[test]
fn ignored_files_are_left_alone() {
    let ignored = ["/examples/fpga/bundle/", "*.profraw", "wheels"];
    for path in ["examples/fpga/bundle", "a/b.profraw", "a/wheels"] {
        assert!(is_ignored(path, &ignored), "{path}");
    }
    assert!(!is_ignored("a/examples/fpga/bundle", &ignored));
}
