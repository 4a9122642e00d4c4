//! Descriptions of every kind, in both forms, within their bounds.

use super::*;
use crate::amount::{Amount, Currency};
use crate::cert::Revocations;
use crate::id::{Digest, NodeId};
use proptest::prelude::*;

fn port(name: &str) -> Port {
    Port { name: name.to_owned(), port_type: PortType::File, optional: false }
}

fn details() -> Vec<Detail> {
    let digest = Digest::of(b"x");
    vec![
        Detail::Data(DataDetail {
            media_type: "image/tiff".to_owned(),
            digest,
            size: 12,
            directory: false,
            quality: "checked".to_owned(),
            personal: false,
            anonymised: true,
            open: true,
            update_s: Some(3600),
            residency: vec!["eu".to_owned()],
        }),
        Detail::Algorithm(AlgorithmDetail {
            runtime: "wasi".to_owned(),
            digest,
            size: 9,
            version: "1.2".to_owned(),
            inputs: vec![port("dem")],
            outputs: vec![port("slope")],
            maturity: Maturity::Stable,
            manifest: Some(format!("sha256:{}", "0f".repeat(32))),
        }),
        Detail::Compute(ComputeDetail {
            arch: "aarch64".to_owned(),
            runtimes: vec!["wasi".to_owned()],
            cpu_milli: 4000,
            memory_bytes: 1 << 33,
            disk_bytes: 1 << 36,
            accelerators: vec!["gpu".to_owned(), "gpu".to_owned()],
            region: "de".to_owned(),
            energy: None,
            addresses: Vec::new(),
            network: true,
            exec: Some(Insiders::Own),
            device_for: Some(Insiders::Partners),
        }),
        Detail::Storage(StorageDetail {
            class: "blob".to_owned(),
            capacity_bytes: 1 << 40,
            copies: 2,
            endpoint: "opencloud".to_owned(),
            region: "de".to_owned(),
        }),
        Detail::Workflow(WorkflowDetail {
            digest,
            size: 700,
            steps: 5,
            inputs: vec![port("dem")],
            outputs: vec![],
            maturity: Maturity::Beta,
        }),
        Detail::Service(ServiceDetail {
            protocol: "http".to_owned(),
            version: String::new(),
            interface: Some(digest),
            region: "de".to_owned(),
            maturity: Maturity::Experimental,
            reach: None,
        }),
        reachable(80, 2),
        disk(),
        revocations(),
    ]
}

fn revocations() -> Detail {
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let list = Revocations::empty(key.verifying_key().into()).with([[7; 32]]).unwrap();
    Detail::Revocations(RevocationsDetail::of(&list.sign(&key)).unwrap())
}

fn disk() -> Detail {
    let digest = Digest::of(b"x");
    Detail::Disk(DiskDetail {
        format: DiskFormat::Vhdx,
        digest,
        sha256: Sha256([1; 32]),
        size: 1,
        virtual_bytes: 1 << 31,
        arch: "aarch64".to_owned(),
        min_memory_bytes: 1 << 29,
        properties: Properties([("os_distro".to_owned(), "debian".to_owned())].into()),
        signature: None,
    })
}

fn reachable(port: u32, endpoints: u8) -> Detail {
    let endpoint = |n| ServiceEndpoint {
        node: NodeId::from_bytes([n; 32]),
        attempt: format!("run-{}/0.0#1", "0f".repeat(16)),
    };
    let reach = ServiceReach {
        ports: vec![ServicePort { name: "http".to_owned(), port }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    Detail::Service(ServiceDetail {
        protocol: "http".to_owned(),
        version: String::new(),
        interface: None,
        region: String::new(),
        maturity: Maturity::Stable,
        reach: Some(reach),
    })
}

#[test]
fn where_a_service_is_reached_is_bounded() {
    let error = |detail| resource(detail).encode().unwrap_err();
    for port in [0, 65_536] {
        let expected = ResourceError::Port { name: "http".to_owned(), port };
        assert_eq!(error(reachable(port, 1)), expected);
    }
    let expected = ResourceError::Count { field: "service endpoints", count: 33, max: LIST_MAX };
    assert_eq!(error(reachable(80, 33)), expected);
    assert!(resource(reachable(65_535, 16)).encode().is_ok());
}

fn resource(detail: Detail) -> Resource {
    Resource {
        key: format!("{}/main", detail.kind()),
        name: "Main".to_owned(),
        short: "A short text.".to_owned(),
        long: "A long\ntext.".to_owned(),
        logo: None,
        licence: Some("CC0-1.0".to_owned()),
        terms: None,
        price: Some(PriceList {
            currency: Currency::EUR,
            rows: vec![PriceRow { dimension: "cpu_ms".to_owned(), amount_nano: 5, per: 3 }],
            fixed: Amount::from_nano(10),
        }),
        detail,
    }
}

#[test]
fn every_kind_reads_back_from_cbor_and_json() {
    for detail in details() {
        let resource = resource(detail);
        let body = resource.encode().unwrap();
        assert_eq!(Resource::decode(&resource.key, &body), Ok(resource.clone()));
        let json = serde_json::to_string(&resource).unwrap();
        assert_eq!(serde_json::from_str::<Resource>(&json).unwrap(), resource);
        assert!(json.contains(&format!("\"kind\":\"{}\"", resource.kind())), "{json}");
    }
}

#[test]
fn kinds_and_details_must_agree() {
    let mut compute = resource(details().remove(2)).encode().unwrap();
    // The body starts with the map header, key 1 and the kind's code.
    assert_eq!(compute[1..3], [1, 3]);
    compute[2] = 4;
    assert!(Resource::decode("k", &compute).is_err());
}

#[test]
fn bounds_are_kept_on_both_sides() {
    let good = resource(details().remove(0));
    for (bad, why) in [
        (Resource { key: String::new(), ..good.clone() }, "empty key"),
        (Resource { key: "a b".to_owned(), ..good.clone() }, "space in key"),
        (Resource { key: "k".repeat(129), ..good.clone() }, "long key"),
        (Resource { name: String::new(), ..good.clone() }, "no name"),
        (Resource { name: "a\u{1b}[2J".to_owned(), ..good.clone() }, "escape in name"),
        (Resource { short: "s".repeat(201), ..good.clone() }, "long short text"),
        (Resource { long: "\u{1f600}".repeat(1500), ..good }, "long body"),
    ] {
        assert!(bad.encode().is_err(), "{why}");
    }
}

#[test]
fn impossible_prices_are_refused() {
    let row = |dimension: &str, amount_nano, per| PriceRow {
        dimension: dimension.to_owned(),
        amount_nano,
        per,
    };
    for rows in [
        vec![row("cpu_ms", 1, 0)],
        vec![row("cpu_ms", -1, 1)],
        vec![row("cpu_ms", 1, 1), row("cpu_ms", 2, 1)],
        vec![row("", 1, 1)],
        (0..17).map(|n| row(&format!("d{n}"), 1, 1)).collect(),
    ] {
        let list = PriceList { rows, ..PriceList::free(Currency::EUR) };
        assert!(list.check().is_err(), "{list:?}");
    }
    assert!(PriceList::free(Currency::EUR).is_free());
    let fixed = PriceList { fixed: Amount::from_nano(-1), ..PriceList::free(Currency::EUR) };
    assert_eq!(fixed.check(), Err(PriceError::Negative { of: "fixed".to_owned() }));
}

proptest! {
    #[test]
    fn no_body_panics_the_reader(body in any::<Vec<u8>>()) {
        let _ = Resource::decode("k", &body);
    }

    #[test]
    fn a_changed_byte_never_panics_the_reader(at in 0usize..400, byte in any::<u8>()) {
        let mut body = resource(details().remove(2)).encode().unwrap();
        let at = at % body.len();
        body[at] = byte;
        let _ = Resource::decode("compute/main", &body);
    }
}
