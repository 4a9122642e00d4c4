//! What a gateway sums up, and of what.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ADDRESS_LEN_MAX, BANDS_MAX, Band, COUNTS_MAX, Count, DIGEST_ADDRESSES_MAX, DIGEST_LEN_MAX,
    DIGEST_LIFE_MS, Names, REGIONS_MAX, RealmDigest, WORD_LEN_MAX,
};
use crate::amount::Currency;
use crate::id::{NodeId, RealmId};
use crate::record::{Detail, Kind, PriceList};
use crate::replica::{Catalog, Entry};
use crate::text::{check_line, check_name};

/// Bytes of a digest that are neither lists nor names: envelope, ids, numbers, and the frame of the set of names.
const FRAME_BYTES: usize = 256;
/// Units that a price is taken for, so that small ones have digits too.
const UNITS: u128 = 1_000_000_000;

/// What a digest is made of besides the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The gateway.
    pub gateway: NodeId,
    /// The digest's number.
    pub number: u64,
    /// Where the gateway is reached.
    pub addresses: &'a [String],
    /// The time, Unix milliseconds.
    pub now_ms: u64,
}

/// What was found so far.
#[derive(Default)]
struct Tally<'a> {
    authors: BTreeSet<NodeId>,
    resources: u64,
    counts: BTreeMap<String, u64>,
    regions: BTreeSet<&'a str>,
    bands: BTreeMap<(&'a str, String), Band>,
    names: Vec<&'a str>,
}

impl RealmDigest {
    /// Sums up what is public in a catalogue. What does not fit is left out, as the bounds say.
    #[must_use]
    pub fn build(catalog: &Catalog, source: Source<'_>) -> Self {
        let mut tally = Tally::default();
        catalog.public(source.now_ms).for_each(|entry| tally.add(&entry));
        tally.finish(catalog.realm(), source)
    }
}

impl<'a> Tally<'a> {
    fn add(&mut self, entry: &Entry<'a>) {
        let resource = entry.resource;
        let kind = resource.detail.kind();
        if matches!(kind, Kind::Revocations | Kind::Area) {
            // Papers and agreements of members, not something to use.
            return;
        }
        self.authors.insert(entry.author);
        self.resources += 1;
        self.count("kind", kind.as_str());
        self.names.push(&resource.name);
        match &resource.detail {
            Detail::Compute(compute) => {
                self.count("arch", &compute.arch);
                let unique = |words: &'a [String]| words.iter().collect::<BTreeSet<_>>();
                unique(&compute.runtimes).into_iter().for_each(|r| self.count("runtime", r));
                unique(&compute.accelerators)
                    .into_iter()
                    .for_each(|a| self.count("accelerator", a));
                self.region(&compute.region);
            }
            Detail::Storage(storage) => {
                self.count("storage", &storage.class);
                self.region(&storage.region);
            }
            Detail::Service(service) => {
                self.count("protocol", &service.protocol);
                self.region(&service.region);
            }
            Detail::Algorithm(algorithm) => self.count("runs-on", &algorithm.runtime),
            Detail::Data(_) | Detail::Workflow(_) | Detail::Disk(_) | Detail::Revocations(_) => {}
            Detail::Area(_) => {}
        }
        if let Some(price) = &resource.price {
            self.price(price);
        }
    }

    fn count(&mut self, class: &str, word: &str) {
        let class = format!("{class}:{word}");
        if check_name("a class", &class, WORD_LEN_MAX).is_ok() {
            *self.counts.entry(class).or_default() += 1;
        }
    }

    fn region(&mut self, region: &'a str) {
        if check_name("a region", region, WORD_LEN_MAX).is_ok() {
            self.regions.insert(region);
        }
    }

    fn price(&mut self, price: &'a PriceList) {
        for row in &price.rows {
            let amount = u128::try_from(row.amount_nano).unwrap_or(0);
            // Digits of what a thousand million units cost; the product is below 2^63 * 2^30.
            let cost = amount * UNITS / u128::from(row.per.max(1));
            let digits = cost.checked_ilog10().map_or(0, |log| log + 1);
            self.band(&row.dimension, price.currency, digits);
        }
    }

    fn band(&mut self, dimension: &'a str, currency: Currency, digits: u32) {
        if check_name("a dimension", dimension, WORD_LEN_MAX).is_err() {
            return;
        }
        let fresh =
            || Band { dimension: dimension.to_owned(), currency, low: digits, high: digits };
        let band = self.bands.entry((dimension, currency.to_string())).or_insert_with(fresh);
        (band.low, band.high) = (band.low.min(digits), band.high.max(digits));
    }

    fn finish(self, realm: RealmId, source: Source<'_>) -> RealmDigest {
        let is_kind = |class: &str| class.starts_with("kind:");
        let mut counts: Vec<Count> =
            self.counts.into_iter().map(|(class, count)| Count { class, count }).collect();
        // Kinds always fit; of the rest the most frequent go before, and of equals the first in the alphabet.
        counts.sort_by(|a, b| {
            let rank = |count: &Count| (!is_kind(&count.class), std::cmp::Reverse(count.count));
            rank(a).cmp(&rank(b)).then_with(|| a.class.cmp(&b.class))
        });
        counts.truncate(COUNTS_MAX);
        counts.sort_by(|a, b| a.class.cmp(&b.class));
        let fits = |address: &&String| check_line("an address", address, ADDRESS_LEN_MAX).is_ok();
        let addresses =
            source.addresses.iter().filter(fits).take(DIGEST_ADDRESSES_MAX).cloned().collect();
        let mut digest = RealmDigest {
            realm,
            gateway: source.gateway,
            number: source.number,
            made_ms: source.now_ms,
            until_ms: source.now_ms.saturating_add(DIGEST_LIFE_MS),
            authors: self.authors.len() as u64,
            resources: self.resources,
            counts,
            regions: self.regions.into_iter().take(REGIONS_MAX).map(str::to_owned).collect(),
            bands: self.bands.into_values().take(BANDS_MAX).collect(),
            addresses,
            names: None,
        };
        digest.shrink();
        let room = DIGEST_LEN_MAX - FRAME_BYTES - digest.lists_len();
        digest.names = Names::build(realm, self.names.into_iter(), room);
        digest
    }
}

impl RealmDigest {
    /// Leaves out the ends of lists until at least a quarter of the digest is left for names: members write these texts, and
    /// a few of the longest in wide letters could fill a digest alone.
    fn shrink(&mut self) {
        while self.lists_len() > DIGEST_LEN_MAX * 3 / 4 - FRAME_BYTES {
            let is_kind = |count: &Count| count.class.starts_with("kind:");
            if self.bands.pop().is_some() || self.regions.pop().is_some() {
                continue;
            }
            match self.counts.iter().rposition(|count| !is_kind(count)) {
                Some(at) => drop(self.counts.remove(at)),
                None if self.addresses.pop().is_some() => {}
                None => return,
            }
        }
    }

    fn lists_len(&self) -> usize {
        let counts = self.counts.iter().map(|count| count.class.len() + 16);
        let regions = self.regions.iter().map(|region| region.len() + 3);
        let bands = self.bands.iter().map(|band| band.dimension.len() + 24);
        let addresses = self.addresses.iter().map(|address| address.len() + 4);
        counts.chain(regions).chain(bands).chain(addresses).sum()
    }
}
