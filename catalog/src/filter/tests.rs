//! Filters against resources of several kinds, their errors, and printing.

use super::*;
use crate::amount::Currency;
use crate::id::{Digest, NodeId, OrgId};
use crate::record::{
    ComputeDetail, DataDetail, Detail, Insiders, Maturity, PriceList, Resource, ServiceDetail,
};
use proptest::prelude::*;

fn resource(key: &str, name: &str, detail: Detail) -> Resource {
    Resource {
        key: key.to_owned(),
        name: name.to_owned(),
        short: "computes the slope".to_owned(),
        long: String::new(),
        logo: None,
        licence: Some("CC0-1.0".to_owned()),
        terms: None,
        price: Some(PriceList::free(Currency::EUR)),
        detail,
    }
}

fn compute() -> Resource {
    let detail = ComputeDetail {
        arch: "aarch64".to_owned(),
        runtimes: vec!["wasi".to_owned(), "vm".to_owned()],
        cpu_milli: 4500,
        memory_bytes: 4 << 30,
        disk_bytes: 1 << 40,
        accelerators: vec![],
        network: true,
        exec: Some(Insiders::Partners),
        device_for: None,
        region: "de".to_owned(),
        energy: None,
        addresses: Vec::new(),
    };
    resource("compute/main", "Edge Board", Detail::Compute(detail))
}

fn data() -> Resource {
    let detail = DataDetail {
        media_type: "image/tiff".to_owned(),
        digest: Digest::of(b"dem"),
        size: 1_500_000,
        directory: false,
        quality: String::new(),
        personal: true,
        anonymised: false,
        open: false,
        update_s: None,
        residency: vec!["eu".to_owned(), "ch".to_owned()],
    };
    resource("data/dem", "Elevation \"x\"", Detail::Data(detail))
}

fn service() -> Resource {
    let detail = ServiceDetail {
        protocol: "http".to_owned(),
        version: "2".to_owned(),
        interface: None,
        region: "fr".to_owned(),
        maturity: Maturity::Beta,
        reach: None,
    };
    resource("service/x", "X", Detail::Service(detail))
}

fn entry(resource: &Resource) -> Entry<'_> {
    Entry {
        author: NodeId::from_bytes([1; 32]),
        org: OrgId::from_bytes([2; 32]),
        org_name: "Acme",
        node_name: "rack-7",
        key: &resource.key,
        resource,
        epoch: 1,
        seq: 1,
        is_restricted: false,
    }
}

/// Which of compute, data and service pass: `c`, `d`, `s`.
fn passing(filter: &str) -> String {
    let filter = Filter::parse(filter).unwrap();
    let kinds = [('c', compute()), ('d', data()), ('s', service())];
    kinds.iter().filter(|(_, r)| filter.matches(&entry(r))).map(|(c, _)| *c).collect()
}

#[test]
fn filters_let_the_right_resources_through() {
    for (filter, expected) in [
        ("", "cds"),
        ("kind = compute", "c"),
        ("kind in [compute, data]", "cd"),
        ("not kind = compute", "ds"),
        ("kind != compute", "ds"),
        ("kind = compute and cpu >= 4 and (arch = \"aarch64\" or region in [\"eu\",\"de\"])", "c"),
        ("cpu >= 4.5", "c"),
        ("cpu > 4.5", ""),
        ("cpu < 5", "c"),
        ("memory >= 4GiB and memory <= 4.5GiB", "c"),
        ("size = 1.5MB", "d"),
        ("region != de", "s"),
        ("not region = de", "ds"),
        ("runtime = wasi and runtime = vm", "c"),
        ("runtime != wasi", ""),
        ("runtime ~ was", "c"),
        ("residency in [ch]", "d"),
        ("personal = true", "d"),
        ("not personal = true", "cs"),
        ("static = true", "d"),
        ("text ~ SLOPE", "cds"),
        ("name ~ \"edge b\"", "c"),
        ("name = \"Elevation \\\"x\\\"\"", "d"),
        ("maturity = beta", "s"),
        ("org = Acme and node = rack-7", "cds"),
        ("free = true and currency = EUR and licence = CC0-1.0", "cds"),
        ("type = image/tiff or protocol == http", "ds"),
        ("network = true", "c"),
        ("exec = partners", "c"),
        ("exec = realm", ""),
        ("energy = green", ""),
        ("energy != green", ""),
        ("key = data/dem or key = service/x and kind = data", "d"),
    ] {
        assert_eq!(passing(filter), expected, "{filter}");
    }
}

#[test]
fn errors_name_the_column_and_the_way_out() {
    for (filter, expected) in [
        ("cpus >= 4", "column 1: unknown field `cpus` (did you mean `cpu`?)"),
        (
            "kind = compute and regoin = de",
            "column 20: unknown field `regoin` (did you mean `region`?)",
        ),
        (
            "kind = computer",
            "column 8: `kind` is compared with one of data, algorithm, compute, storage, workflow, service, disk, revocations, area, not with `computer` (did you mean `compute`?)",
        ),
        (
            "cpu >= many",
            "column 8: `cpu` is compared with a number of cores, like 4 or 0.5, not with `many`",
        ),
        (
            "cpu >= \"4\"",
            "column 8: `cpu` is compared with a number of cores, like 4 or 0.5, not with `4`",
        ),
        (
            "memory > 4Gb",
            "column 10: `memory` is compared with a size, like 512MiB or 4GB, not with `4Gb`",
        ),
        ("personal = yes", "column 12: `personal` is compared with true or false, not with `yes`"),
        ("arch > x", "column 6: `arch` cannot be compared with `>` (use `=` or `!=`)"),
        ("cpu ~ 4", "column 5: `cpu` cannot be compared with `~` (use `=` or `!=`)"),
        ("(kind = data", "column 13: expected `and`, `or` or `)`, found the end"),
        ("kind = data kind = data", "column 13: expected `and`, `or` or the end, found `kind`"),
        ("kind", "column 5: expected an operator like `=`, `~` or `in`, found the end"),
        ("region in de", "column 11: expected `[`, found `de`"),
        ("region in [de", "column 14: expected `,` or `]`, found the end"),
        ("name = \"x", "column 8: this text is not closed: its `\"` is missing"),
        ("name = §", "column 8: unexpected `§`"),
    ] {
        assert_eq!(Filter::parse(filter).unwrap_err().to_string(), expected, "{filter}");
    }
}

#[test]
fn long_and_deep_filters_are_refused() {
    let long = format!("name = {}", "x".repeat(FILTER_LEN_MAX));
    assert!(matches!(Filter::parse(&long).unwrap_err().problem, FilterProblem::TooLong { .. }));
    // What is short enough only without its quotes cannot be told to others.
    let words = format!("name in [{}]", vec!["a"; 400].join(","));
    assert!(words.len() < FILTER_LEN_MAX);
    assert!(matches!(Filter::parse(&words).unwrap_err().problem, FilterProblem::TooLong { .. }));
    let deep = |depth| format!("{}name = x{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&deep(FILTER_DEPTH_MAX)).is_ok());
    let error = Filter::parse(&deep(FILTER_DEPTH_MAX + 1)).unwrap_err();
    assert_eq!(error.problem, FilterProblem::TooDeep);
    let wide = "(name = x) and ".repeat(60) + "name = x";
    assert!(Filter::parse(&wide).is_ok(), "width is not depth");
    let nots = "not ".repeat(FILTER_DEPTH_MAX + 1) + "name = x";
    assert!(Filter::parse(&nots).is_err());
}

/// Filters as people write them, good in form.
fn source() -> impl Strategy<Value = String> {
    let compare = prop_oneof![
        "(arch|name|region|licence) (=|!=|~) (x86_64|\"[a-z\\\\\" ]{0,5}\"|a-b)"
            .prop_filter("an escape may not swallow the quote", |text| Filter::parse(text).is_ok()),
        "cpu (=|<|>|<=|>=) [0-9]{1,3}(\\.[0-9]{1,3})?",
        "memory (=|<|>|<=|>=) [0-9]{1,3}(MB|GiB|)",
        "(personal|open) (=|!=) (true|false)",
        "kind in \\[(data|compute)(, service){0,2}\\]",
    ];
    compare.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), "(and|or)", inner.clone())
                .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), "(and|or)", inner.clone())
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn printed_filters_parse_back_and_mean_the_same(source in source()) {
        let filter = Filter::parse(&source).unwrap();
        let printed = filter.to_string();
        let again = Filter::parse(&printed).unwrap();
        prop_assert_eq!(&again, &filter, "{}", printed);
        for resource in [compute(), data(), service()] {
            prop_assert_eq!(filter.matches(&entry(&resource)), again.matches(&entry(&resource)));
        }
    }

    #[test]
    fn no_text_panics_the_parser(text in ".{0,60}") {
        let _ = Filter::parse(&text);
    }

    #[test]
    fn no_heap_of_tokens_panics_the_parser(
        words in proptest::collection::vec("(kind|cpu|name|not|and|or|in|\\(|\\)|\\[|\\]|,|=|~|>=|4GiB|4|0\\.5|true|\"|\\\\| )", 0..30),
    ) {
        let _ = Filter::parse(&words.join(" "));
    }
}

#[test]
fn a_filter_demands_only_what_every_match_has() {
    let of = |text: &str| {
        let filter = Filter::parse(text).unwrap();
        let Demands { kinds, names } = filter.demands();
        let own = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<_>>();
        (own(kinds).join("+"), own(names).join("+"))
    };
    let pair = |kinds: &str, names: &str| (kinds.to_owned(), names.to_owned());
    assert_eq!(of(""), pair("", ""));
    assert_eq!(of("kind = data and name = Slope and size > 1MB"), pair("data", "Slope"));
    assert_eq!(of("name = Slope"), pair("", "Slope"));
    assert_eq!(of("kind = data or name = Slope"), pair("", ""), "either may be missing");
    assert_eq!(of("not kind = data and name ~ slope"), pair("", ""));
    assert_eq!(of("kind in [data, disk]"), pair("", ""));
}
