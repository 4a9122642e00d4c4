//! Placement: hard constraints, strategies and explanations.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Gen;
use scheduler::device::Counts;
use scheduler::place::{
    Candidate, INPUTS_COUNTED_MAX, Plan, Price, Rejection, Request, Rule, RuleBreak, Strategy,
    Trust, plan,
};
use scheduler::task::{Needs, RuntimeKind};

const NOW_MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

// ---- what each candidate and request of the examples starts from

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn org(n: u8) -> OrgId {
    OrgId::from_bytes([n; 32])
}

fn candidate(n: u8) -> Candidate {
    Candidate {
        node: node(n),
        org: org(n),
        org_name: format!("org-{n}"),
        node_name: format!("node-{n}"),
        trust: Trust::Peer,
        arch: "x86_64".to_owned(),
        runtimes: vec![RuntimeKind::Wasi],
        services: vec![RuntimeKind::Wasi],
        network: false,
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        disk_bytes: 64 << 30,
        devices: Counts::new(),
        region: "eu-fr".to_owned(),
        connected: true,
        inflight_cpu_milli: 0,
        rtt_us: 1000,
        speed_milli: 1000,
        price: None,
        failures: 0,
        refused_until_ms: 0,
        holds: BTreeSet::new(),
    }
}

fn request(strategy: Strategy) -> Request {
    Request {
        runtime: RuntimeKind::Wasi,
        is_service: false,
        needs: Needs::default(),
        inputs: Vec::new(),
        estimate_ms: 10_000,
        strategy,
        rule: Rule::default(),
        exclude: BTreeSet::new(),
    }
}

fn some_gpus(n: u32) -> Counts {
    [("gpu".to_owned(), n)].into_iter().filter(|(_, n)| *n > 0).collect()
}

fn price(currency: &str, cpu_nano_per_s: i64) -> Option<Price> {
    Some(Price {
        currency: currency.parse().expect("three letters"),
        cpu_nano_per_s,
        memory_nano_per_gib_s: 0,
        net_nano_per_gib: 0,
        device_nano_per_s: 0,
        fixed: Amount::ZERO,
    })
}

fn order(plan: &Plan) -> Vec<NodeId> {
    plan.ranked.iter().map(|scored| scored.node).collect()
}

/// Plans for candidates 1, 2, … as changed by `change`, and gives the order of their numbers.
fn ranks(strategy: Strategy, n: u8, change: impl Fn(u8, &mut Candidate)) -> Vec<u8> {
    let candidates: Vec<Candidate> = (1..=n)
        .map(|n| {
            let mut candidate = candidate(n);
            change(n, &mut candidate);
            candidate
        })
        .collect();
    let plan = plan(&candidates, &request(strategy), NOW_MS);
    plan.ranked.iter().map(|scored| scored.node.as_bytes()[0]).collect()
}

// ---- hard constraints, one by one

#[test]
fn each_hard_constraint_rejects_with_its_reason() {
    let check = |change: &dyn Fn(&mut Candidate, &mut Request), expected: &str| {
        let (mut candidate, mut request) = (candidate(1), request(Strategy::Performance));
        change(&mut candidate, &mut request);
        let plan = plan(&[candidate], &request, NOW_MS);
        let reasons: Vec<String> = plan.rejected.iter().map(|(_, why)| why.to_string()).collect();
        assert_eq!(reasons, [expected]);
        assert_eq!(plan.ranked, []);
    };
    let cap = |text: &str| Some((text.parse().unwrap(), Currency::EUR));
    check(&|c, _| c.trust = Trust::Blocked, "its organisation is blocked here");
    check(&|_, r| r.rule.forbid_orgs = vec!["org-1".into()], "the rule forbids its organisation");
    check(&|_, r| r.rule.orgs = vec!["org-2".into()], "the rule does not list its organisation");
    check(&|_, r| r.rule.nodes = vec!["node-2".into()], "the rule does not list the node");
    check(
        &|_, r| r.rule.regions = vec!["us".into(), "e".into(), "eu-fr-paris".into()],
        "it is in region `eu-fr`, which the rule does not list",
    );
    check(&|c, _| c.runtimes.clear(), "it has no `wasi` runtime");
    check(
        &|_, r| r.needs.arch = Some("aarch64".into()),
        "it is `x86_64`, the task needs `aarch64`",
    );
    check(
        &|_, r| r.needs.cpu_milli = 4001,
        "it has 4000 thousandths of a core, the task needs 4001",
    );
    check(&|c, _| c.memory_bytes = 5, "it has 5 bytes of memory, the task needs 1073741824");
    check(&|c, _| c.disk_bytes = 5, "it has 5 bytes of disk, the task needs 1073741824");
    check(
        &|c, r| (c.price, r.rule.max_price) = (price("USD", 1), cap("1.00")),
        "it asks for USD, the price cap is in EUR",
    );
    check(
        &|c, r| (c.price, r.rule.max_price) = (price("EUR", 1_000_000_000), cap("9.99")),
        "it would cost about 10.00 EUR, at most 9.99 EUR is allowed",
    );
    check(&|_, r| r.exclude.extend([node(1)]), "it was tried for this task already");
    check(&|c, _| c.connected = false, "it is not connected");
    check(
        &|c, _| c.refused_until_ms = NOW_MS + 1500,
        "it said it is full; to be asked again in 1500 ms",
    );
}

#[test]
fn a_rule_names_orgs_and_nodes_by_id_or_name_and_regions_by_their_beginning() {
    let mut request = request(Strategy::Performance);
    request.rule = Rule {
        orgs: vec![org(1).to_string(), "org-2".into()],
        forbid_orgs: vec![org(3).to_string()],
        nodes: vec![node(1).to_string(), "node-2".into()],
        regions: vec!["eu".into()],
        max_price: Some((Amount::ZERO, Currency::EUR)),
    };
    let plan = plan(&[candidate(1), candidate(2), candidate(3)], &request, NOW_MS);
    assert_eq!(order(&plan), [node(1), node(2)]);
    assert_eq!(plan.rejected, [(node(3), Rejection::Rule(RuleBreak::OrgForbidden))]);
}

#[test]
fn an_org_that_takes_the_id_of_another_as_its_name_gains_nothing() {
    let mut request = request(Strategy::Performance);
    request.rule.orgs = vec![org(1).to_string()];
    let mut liar = candidate(2);
    liar.org_name = org(1).to_string();
    let plan = plan(&[liar], &request, NOW_MS);
    assert_eq!(plan.rejected, [(node(2), Rejection::Rule(RuleBreak::OrgNotListed))]);
}

#[test]
fn a_quote_is_held_to_the_cap_as_the_estimate_was() {
    let max = Amount::from_nano(10);
    let rule = Rule { max_price: Some((max, Currency::EUR)), ..Rule::default() };
    let usd: Currency = "USD".parse().unwrap();
    assert_eq!(rule.check_quote(max, Currency::EUR), Ok(()));
    assert_eq!(rule.check_quote(Amount::ZERO, usd), Ok(()));
    assert!(matches!(
        rule.check_quote(Amount::from_nano(11), Currency::EUR),
        Err(Rejection::Price { .. })
    ));
    assert!(matches!(rule.check_quote(Amount::from_nano(1), usd), Err(Rejection::Currency { .. })));
    assert_eq!(Rule::default().check_quote(Amount::MAX, usd), Ok(()));
}

#[test]
fn a_plan_with_only_passing_rejections_is_worth_waiting_for() {
    let mut full = candidate(1);
    full.refused_until_ms = NOW_MS + 5;
    let mut fuller = candidate(2);
    fuller.refused_until_ms = NOW_MS + 9;
    let waiting = plan(&[full, fuller], &request(Strategy::Cost), NOW_MS);
    assert!(waiting.is_worth_waiting());
    assert_eq!(waiting.retry_at_ms(), Some(NOW_MS + 5));
    let mut blocked = candidate(1);
    (blocked.trust, blocked.refused_until_ms) = (Trust::Blocked, NOW_MS + 5);
    let hopeless = plan(&[blocked], &request(Strategy::Cost), NOW_MS);
    assert!(!hopeless.is_worth_waiting());
    assert_eq!(hopeless.retry_at_ms(), None);
}

// ---- strategies

#[test]
fn performance_goes_where_the_task_ends_first() {
    let faster = |n: u8, c: &mut Candidate| c.speed_milli = u32::from(n) * 1000;
    assert_eq!(ranks(Strategy::Performance, 3, faster), [3, 2, 1]);
    let nearer = |n: u8, c: &mut Candidate| c.rtt_us = 50_000 / u64::from(n);
    assert_eq!(ranks(Strategy::Performance, 3, nearer), [3, 2, 1]);
    let failing = |n: u8, c: &mut Candidate| c.failures = 3 - u32::from(n);
    assert_eq!(ranks(Strategy::Performance, 3, failing), [3, 2, 1]);
}

#[test]
fn equal_candidates_are_ranked_by_node_id() {
    assert_eq!(ranks(Strategy::Performance, 4, |_, _| {}), [1, 2, 3, 4]);
}

#[test]
fn data_attracts_work_until_the_wait_is_longer_than_the_transfer() {
    let blob = Digest::of(b"dem");
    let mut request = request(Strategy::Performance);
    request.inputs = vec![(blob, 50_000_000), (blob, 50_000_000)];
    let (mut holder, idle) = (candidate(9), candidate(1));
    holder.holds.insert(blob);
    let best = |holder: &Candidate| {
        plan(&[idle.clone(), holder.clone()], &request, NOW_MS).ranked.swap_remove(0)
    };
    // 50 MB take 4 s; a full node of four cores keeps one core's task waiting for a quarter of 10 s and looks slower by 1.25 s.
    assert_eq!(best(&holder).node, holder.node);
    holder.inflight_cpu_milli = 4000;
    assert_eq!(best(&holder).node, holder.node);
    holder.inflight_cpu_milli = 8000;
    assert_eq!(best(&holder).node, idle.node);
    assert_eq!(best(&holder).finish_us, 4_000_000 + 4000 + 10_000_000);
}

#[test]
fn tasks_spread_over_nodes_by_their_share_of_load() {
    let (mut small, mut large) = (candidate(1), candidate(2));
    large.cpu_milli = 12_000;
    let mut placed = [0, 0];
    for _ in 0..16 {
        let plan = plan(&[small.clone(), large.clone()], &request(Strategy::Performance), NOW_MS);
        let (idx, chosen) =
            if plan.ranked[0].node == small.node { (0, &mut small) } else { (1, &mut large) };
        chosen.inflight_cpu_milli += 1000;
        placed[idx] += 1;
    }
    assert_eq!(placed, [4, 12]);
}

#[test]
fn more_inputs_than_are_looked_up_count_as_to_be_transferred() {
    let inputs: Vec<(Digest, u64)> = (0..INPUTS_COUNTED_MAX as u64 + 10)
        .map(|n| (Digest::of(&n.to_be_bytes()), MIB + u64::from(n >= 10)))
        .collect();
    let mut request = request(Strategy::Performance);
    request.inputs.clone_from(&inputs);
    let mut holder = candidate(1);
    holder.holds = inputs.iter().map(|(digest, _)| *digest).collect();
    let plan = plan(&[holder], &request, NOW_MS);
    let transfer = plan.ranked[0].terms.iter().find(|term| term.name == "transfer").unwrap();
    assert_eq!(transfer.value, i64::try_from(10 * MIB * 1_000_000 / 12_500_000).unwrap());
}

#[test]
fn sovereignty_ranks_own_then_partners_then_peers_however_slow() {
    let slow = |n: u8, c: &mut Candidate| {
        c.trust = [Trust::Peer, Trust::Partner, Trust::Own][usize::from(n) - 1];
        c.speed_milli = if n == 3 { 0 } else { 1000 };
        c.inflight_cpu_milli = u64::MAX / 4 * u64::from(n);
    };
    assert_eq!(ranks(Strategy::Sovereignty, 3, slow), [3, 2, 1]);
    assert_eq!(ranks(Strategy::Performance, 3, slow), [1, 2, 3]);
}

#[test]
fn cost_takes_the_cheapest_and_breaks_ties_by_speed() {
    let prices = |n: u8, c: &mut Candidate| {
        c.price = price("EUR", [30, 10, 20, 20][usize::from(n) - 1]);
        c.rtt_us = if n == 4 { 1 } else { 1000 };
    };
    assert_eq!(ranks(Strategy::Cost, 4, prices), [2, 4, 3, 1]);
}

#[test]
fn cost_ranks_a_currency_it_cannot_compare_last() {
    let prices = |n: u8, c: &mut Candidate| {
        c.price = match n {
            1 => price("USD", 1),
            5 => price("USD", 0),
            n => price("EUR", 1_000_000 * i64::from(n)),
        };
    };
    assert_eq!(ranks(Strategy::Cost, 5, prices), [5, 2, 3, 4, 1]);
}

#[test]
fn a_price_counts_all_its_parts_rounded_up() {
    let mut dear = Candidate { devices: some_gpus(2), ..candidate(1) };
    dear.price = Some(Price {
        currency: Currency::EUR,
        cpu_nano_per_s: 7,
        memory_nano_per_gib_s: 3,
        net_nano_per_gib: 1,
        device_nano_per_s: 11,
        fixed: Amount::from_nano(100),
    });
    let mut request = request(Strategy::Cost);
    request.needs.cpu_milli = 500;
    request.needs.memory_bytes = 2 << 30;
    request.needs.devices = some_gpus(2);
    request.inputs = vec![(Digest::of(b"x"), 1)];
    let plan = plan(&[dear], &request, NOW_MS);
    // 7 * 0.5 * 10 s + 3 * 2 GiB * 10 s + a little more than nothing + 2 devices * 11 * 10 s + 100
    let sum = 35 + 60 + 1 + 220 + 100;
    assert_eq!(plan.ranked[0].price, Some((Amount::from_nano(sum), Currency::EUR)));
}

#[test]
fn a_promise_of_money_does_not_rank_below_nothing() {
    let prices = |n: u8, c: &mut Candidate| {
        c.price = price("EUR", if n == 2 { i64::MIN } else { 0 });
    };
    assert_eq!(ranks(Strategy::Cost, 2, prices), [1, 2]);
}

#[test]
fn weights_trade_trust_time_and_money() {
    let trade = |n: u8, c: &mut Candidate| match n {
        1 => (c.trust, c.price) = (Trust::Own, price("EUR", 1_000_000)),
        2 => c.speed_milli = 4000,
        _ => c.speed_milli = 500,
    };
    let ranks = |text: &str| ranks(text.parse().unwrap(), 3, trade);
    assert_eq!(ranks("sovereignty=1"), [1, 2, 3]);
    assert_eq!(ranks("performance=1"), [2, 1, 3]);
    assert_eq!(ranks("cost=1"), [2, 3, 1]);
    // Two steps of trust are worth 120 s, ten thousandths of a euro 10 s.
    assert_eq!(ranks("sovereignty=1,performance=1,cost=1"), [1, 2, 3]);
}

// ---- explanations

#[test]
fn a_plan_explains_itself_line_by_line() {
    let blob = Digest::of(b"dem");
    let mut request = request(Strategy::Cost);
    request.inputs = vec![(blob, 25_000_000)];
    let mut paid = candidate(1);
    (paid.price, paid.trust) = (price("EUR", 120_000), Trust::Partner);
    let mut own = candidate(2);
    (own.trust, own.rtt_us) = (Trust::Own, 0);
    own.holds.insert(blob);
    let mut away = candidate(3);
    away.connected = false;
    let names = BTreeMap::from([(node(1), "paris".to_owned()), (node(3), "edge".to_owned())]);
    let plan = plan(&[paid, own, away], &request, NOW_MS);
    assert_eq!(
        plan.explain(&names),
        [
            format!(
                "1. {}: own, done in 10.000 s (run 10.000 s), asks no money",
                node(2).short()
            ),
            "2. paris: partner, done in 12.004 s (transfer 2.000 s, round trips 0.004 s, run 10.000 s), \
             costs about 0.0012 EUR"
                .to_owned(),
            "-  edge: no, it is not connected".to_owned(),
        ]
    );
}

// ---- laws

fn arb_price() -> impl Gen<Value = Option<Price>> {
    let money = || prop_oneof![Just(0), 0..2_000_000_i64, any::<i64>()];
    let currency =
        prop_oneof![3 => Just(Currency::EUR), 1 => Just("USD".parse().expect("three letters"))];
    let price = (currency, money(), money(), money(), (money(), money())).prop_map(
        |(currency, cpu_nano_per_s, memory_nano_per_gib_s, net_nano_per_gib, others)| Price {
            currency,
            cpu_nano_per_s,
            memory_nano_per_gib_s,
            net_nano_per_gib,
            device_nano_per_s: others.0,
            fixed: Amount::from_nano(others.1),
        },
    );
    proptest::option::of(price)
}

fn arb_size(usual: u64) -> impl Gen<Value = u64> {
    prop_oneof![8 => 0..usual, 1 => Just(0), 1 => any::<u64>()]
}

fn arb_candidate() -> impl Gen<Value = Candidate> {
    let who = (
        1..5_u8,
        prop_oneof![
            Just(Trust::Own),
            Just(Trust::Partner),
            Just(Trust::Peer),
            Just(Trust::Blocked)
        ],
        prop_oneof![4 => Just("x86_64"), 1 => Just("aarch64")],
        prop_oneof![5 => Just(vec![RuntimeKind::Wasi]), 1 => Just(Vec::new())],
        prop_oneof![Just("eu"), Just("eu-fr"), Just("us"), Just("")],
        (any::<bool>(), 0..3_u32),
    );
    let size = (arb_size(8000), arb_size(4 << 30), arb_size(4 << 30));
    let state = (
        proptest::bool::weighted(0.9),
        arb_size(8000),
        arb_size(100_000),
        prop_oneof![3 => 500..2000_u32, 1 => any::<u32>()],
        arb_price(),
        prop_oneof![3 => 0..3_u32, 1 => any::<u32>()],
        prop_oneof![4 => Just(0), 1 => 0..2 * NOW_MS],
        proptest::collection::btree_set((0..4_u8).prop_map(|n| Digest::of(&[n])), 0..4),
    );
    (who, size, state).prop_map(
        |((n, trust, arch, runtimes, region, (network, gpus)), size, state)| Candidate {
            org: org(n),
            org_name: format!("org-{n}"),
            trust,
            arch: arch.to_owned(),
            runtimes,
            network,
            devices: some_gpus(gpus),
            region: region.to_owned(),
            cpu_milli: size.0,
            memory_bytes: size.1,
            disk_bytes: size.2,
            connected: state.0,
            inflight_cpu_milli: state.1,
            rtt_us: state.2,
            speed_milli: state.3,
            price: state.4,
            failures: state.5,
            refused_until_ms: state.6,
            holds: state.7,
            ..candidate(0)
        },
    )
}

/// Up to 12 candidates with ids of their own.
fn arb_candidates() -> impl Gen<Value = Vec<Candidate>> {
    proptest::collection::vec(arb_candidate(), 0..12).prop_map(|mut candidates| {
        for (n, candidate) in (1..).zip(&mut candidates) {
            candidate.node = node(n);
            candidate.node_name = format!("node-{n}");
        }
        candidates
    })
}

fn arb_strategy() -> impl Gen<Value = Strategy> {
    prop_oneof![
        Just(Strategy::Sovereignty),
        Just(Strategy::Performance),
        Just(Strategy::Cost),
        any::<[u32; 3]>().prop_map(|[sovereignty, performance, cost]| Strategy::Weights {
            sovereignty,
            performance,
            cost
        }),
        (0..5_u32, 0..5_u32, 0..5_u32).prop_map(|(sovereignty, performance, cost)| {
            Strategy::Weights { sovereignty, performance, cost }
        }),
    ]
}

fn arb_rule() -> impl Gen<Value = Rule> {
    let some = |names: &'static [&'static str]| {
        prop_oneof![
            3 => Just(Vec::new()),
            1 => proptest::sample::subsequence(names, 0..=names.len())
                .prop_map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        ]
    };
    let cap = proptest::option::weighted(0.3, 0..100_000_000_i64);
    (
        some(&["org-1", "org-2", "org-3"]),
        some(&["org-4"]),
        some(&["node-1", "node-2", "node-3"]),
        some(&["eu", "us"]),
        cap,
    )
        .prop_map(|(orgs, forbid_orgs, nodes, regions, cap)| Rule {
            orgs,
            forbid_orgs,
            nodes,
            regions,
            max_price: cap.map(|nano| (Amount::from_nano(nano), Currency::EUR)),
        })
}

fn arb_request() -> impl Gen<Value = Request> {
    (
        (arb_size(4000), arb_size(2 << 30), arb_size(2 << 30)),
        (
            proptest::option::weighted(0.2, Just("x86_64".to_owned())),
            proptest::bool::weighted(0.2),
            prop_oneof![6 => Just(0), 1 => 1..4_u32],
        ),
        proptest::collection::vec((0..4_u8, arb_size(1 << 30)), 0..5),
        arb_size(100_000),
        arb_strategy(),
        arb_rule(),
        proptest::collection::btree_set((1..13_u8).prop_map(node), 0..2),
    )
        .prop_map(
            |(size, (arch, network, gpus), inputs, estimate_ms, strategy, rule, exclude)| Request {
                runtime: RuntimeKind::Wasi,
                is_service: false,
                needs: Needs {
                    cpu_milli: size.0,
                    memory_bytes: size.1,
                    disk_bytes: size.2,
                    arch,
                    network,
                    devices: some_gpus(gpus),
                },
                inputs: inputs.into_iter().map(|(n, size)| (Digest::of(&[n]), size)).collect(),
                estimate_ms,
                strategy,
                rule,
                exclude,
            },
        )
}

/// The hard constraints, written a second time and apart from the planner.
fn may_run(c: &Candidate, r: &Request) -> bool {
    let listed = |list: &[String], name: &str| list.is_empty() || list.iter().any(|l| l == name);
    let within = |wide: &String| c.region == *wide || c.region.starts_with(&format!("{wide}-"));
    c.trust != Trust::Blocked
        && listed(&r.rule.orgs, &c.org_name)
        && !r.rule.forbid_orgs.contains(&c.org_name)
        && listed(&r.rule.nodes, &c.node_name)
        && (r.rule.regions.is_empty() || r.rule.regions.iter().any(within))
        && c.runtimes.contains(&r.runtime)
        && r.needs.arch.as_ref().is_none_or(|arch| *arch == c.arch)
        && (c.network || !r.needs.network)
        && r.needs.devices.iter().all(|(name, n)| c.devices.get(name).is_some_and(|have| have >= n))
        && r.needs.cpu_milli <= c.cpu_milli
        && r.needs.memory_bytes <= c.memory_bytes
        && r.needs.disk_bytes <= c.disk_bytes
        && c.connected
        && c.refused_until_ms <= NOW_MS
        && !r.exclude.contains(&c.node)
}

/// A small request that most candidates can take, so that rankings have several entries.
fn easy(strategy: Strategy) -> Request {
    let needs = Needs { cpu_milli: 1, memory_bytes: 1, disk_bytes: 1, ..Needs::default() };
    let inputs = vec![(Digest::of(&[0]), 100 * MIB), (Digest::of(&[1]), 10 * MIB)];
    Request { needs, inputs, ..request(strategy) }
}

proptest! {
    #[test]
    fn no_hard_constraint_is_ever_violated_and_nobody_is_forgotten(
        candidates in arb_candidates(), request in arb_request()
    ) {
        let plan = plan(&candidates, &request, NOW_MS);
        for scored in &plan.ranked {
            let candidate = candidates.iter().find(|c| c.node == scored.node).unwrap();
            prop_assert!(may_run(candidate, &request));
            if let (Some((price, currency)), Some((max, wanted))) = (scored.price, request.rule.max_price) {
                prop_assert!(price == Amount::ZERO || (currency == wanted && price <= max));
            }
        }
        for (rejected, reason) in &plan.rejected {
            let candidate = candidates.iter().find(|c| c.node == *rejected).unwrap();
            let by_price = matches!(reason, Rejection::Price { .. } | Rejection::Currency { .. });
            prop_assert!(by_price || !may_run(candidate, &request), "{reason}");
        }
        let mut seen: Vec<NodeId> = order(&plan);
        seen.extend(plan.rejected.iter().map(|(node, _)| *node));
        seen.sort_unstable();
        let all: Vec<NodeId> = candidates.iter().map(|c| c.node).collect();
        prop_assert_eq!(&seen, &all);
        prop_assert_eq!(plan.explain(&BTreeMap::new()).len(), all.len());
    }

    #[test]
    fn scores_are_the_sum_of_their_terms_in_ascending_order(
        candidates in arb_candidates(), strategy in arb_strategy()
    ) {
        let plan = plan(&candidates, &easy(strategy), NOW_MS);
        for scored in &plan.ranked {
            let sum: i128 = scored.terms.iter().map(|t| i128::from(t.value) * i128::from(t.weight)).sum();
            prop_assert_eq!(sum, i128::from(scored.score));
            prop_assert!(scored.terms.iter().all(|term| term.value >= 0));
        }
        prop_assert!(plan.ranked.is_sorted_by_key(|s| (s.score, s.finish_us, s.node)));
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(
        (one, other) in arb_candidates().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle())),
        request in arb_request()
    ) {
        prop_assert_eq!(plan(&one, &request, NOW_MS), plan(&other, &request, NOW_MS));
    }

    #[test]
    fn more_load_never_improves_a_rank(
        mut candidates in arb_candidates(), pick in any::<proptest::sample::Index>(), more in 1..100_000_u64
    ) {
        if candidates.is_empty() {
            return Ok(());
        }
        let idx = pick.index(candidates.len());
        let chosen = candidates[idx].node;
        let rank = |candidates: &[Candidate]| {
            order(&plan(candidates, &easy(Strategy::Performance), NOW_MS)).iter().position(|n| *n == chosen)
        };
        let before = rank(&candidates);
        candidates[idx].inflight_cpu_milli = candidates[idx].inflight_cpu_milli.saturating_add(more);
        prop_assert!(rank(&candidates) >= before);
    }

    #[test]
    fn sovereignty_never_ranks_less_trusted_before_more_trusted(candidates in arb_candidates()) {
        let plan = plan(&candidates, &easy(Strategy::Sovereignty), NOW_MS);
        prop_assert!(plan.ranked.is_sorted_by_key(|scored| scored.trust));
    }

    #[test]
    fn cost_picks_the_cheapest(candidates in arb_candidates(), cap in 0..i64::MAX) {
        let mut request = easy(Strategy::Cost);
        request.rule.max_price = Some((Amount::from_nano(cap), Currency::EUR));
        let plan = plan(&candidates, &request, NOW_MS);
        let nano = |price: Option<(Amount, Currency)>| price.map_or(0, |(price, _)| price.nano());
        let dear = scheduler::place::PRICE_TERM_MAX;
        prop_assert!(plan.ranked.is_sorted_by_key(|scored| nano(scored.price).min(dear)));
    }
}

#[test]
fn a_thousand_candidates_are_planned_in_about_a_millisecond() {
    let inputs: Vec<(Digest, u64)> =
        (0..8_u64).map(|n| (Digest::of(&n.to_be_bytes()), n * MIB)).collect();
    let candidates: Vec<Candidate> = (0..1000_u32)
        .map(|n| {
            let mut c = candidate(0);
            c.node = NodeId::from_bytes(*Digest::of(&n.to_be_bytes()).as_bytes());
            c.rtt_us = u64::from(n % 97) * 1000;
            c.price = price("EUR", i64::from(n % 13) * 1000);
            c.holds = inputs.iter().skip(n as usize % 8).map(|(digest, _)| *digest).collect();
            c
        })
        .collect();
    let mut request = request(Strategy::Performance);
    request.inputs = inputs;
    request.rule.regions = vec!["eu".to_owned()];
    // The fastest of several, since other work shares the machine.
    let fastest = (0..20)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(plan(&candidates, &request, NOW_MS).ranked.len(), 1000);
            start.elapsed()
        })
        .min()
        .unwrap();
    println!("fastest plan of 1000 candidates: {fastest:?}");
    assert!(fastest < Duration::from_millis(5), "{fastest:?}");
}

#[test]
fn a_service_goes_only_where_services_are_run() {
    let plain = Candidate { services: Vec::new(), ..candidate(1) };
    let pool = [plain, candidate(2)];
    let task = plan(&pool, &request(Strategy::Performance), NOW_MS);
    assert_eq!(task.ranked.len(), 2);
    let service = Request { is_service: true, ..request(Strategy::Performance) };
    let found = plan(&pool, &service, NOW_MS);
    assert_eq!(found.ranked.iter().map(|s| s.node).collect::<Vec<_>>(), [node(2)]);
    let why = Rejection::Service { runtime: RuntimeKind::Wasi };
    assert_eq!(why.to_string(), "it runs no services with `wasi`");
    assert_eq!(found.rejected, [(node(1), why)]);
}

#[test]
fn a_task_with_devices_goes_only_where_enough_of_them_are_opened_to_it() {
    let pool: Vec<Candidate> =
        (0..4).map(|n| Candidate { devices: some_gpus(n.into()), ..candidate(n) }).collect();
    let plain = plan(&pool, &request(Strategy::Performance), NOW_MS);
    assert_eq!(plain.ranked.len(), 4);
    let needs = Needs { devices: some_gpus(2), ..Needs::default() };
    let found = plan(&pool, &Request { needs, ..request(Strategy::Performance) }, NOW_MS);
    assert_eq!(order(&found), [node(2), node(3)]);
    let told: Vec<String> = found.rejected.iter().map(|(_, why)| why.to_string()).collect();
    assert_eq!(
        told,
        [
            "it opens no device `gpu` to this organisation",
            "it opens 1 of device `gpu`, the task needs 2"
        ]
    );
    assert!(!found.is_worth_waiting());
}
