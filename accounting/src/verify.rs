//! The offline check of a bundle: no node, no network, no keys but those inside. The checks are those of [`crate::bundle`].

mod report;
mod section;

use catalog::envelope;

use crate::bundle::{self, Item, Kind};
use section::Section;

pub use report::{
    ChannelReport, Finding, HeadReport, LaneReport, PartyReport, Problem, Report, Verdict,
};

/// Most findings in a report; further ones are counted.
pub const FINDINGS_MAX: usize = 1000;

/// Checks a bundle. Never fails: what is wrong stands in the report.
#[must_use]
pub fn verify(bundle: &[u8]) -> Report {
    let mut report = Report::new();
    let items = match bundle::split(bundle) {
        Ok(items) => items,
        Err(items) => {
            report.find(Finding::at(items.len(), Problem::Framing));
            items
        }
    };
    check_frame(bundle, &items, &mut report);
    let sections = sections(&items, &mut report);
    let mut seen = std::collections::BTreeSet::new();
    for section in &sections {
        if !seen.insert(section.id) {
            report.find(Finding::at(section.item, Problem::ChannelTwice).of(section.id));
        }
        section.check(&mut report);
    }
    report.conclude();
    report
}

/// F2: the first and the last item, and the number of channels.
fn check_frame(bundle: &[u8], items: &[Item<'_>], report: &mut Report) {
    let channels = items.iter().filter(|item| item.kind == Kind::Channel).count() as u64;
    match items.first().filter(|item| item.kind == Kind::Manifest) {
        None => report.find(Finding::at(0, Problem::NoManifest)),
        Some(item) => match bundle::read_manifest(&item.value) {
            Err(source) => report.find(Finding::at(0, Problem::Manifest { source })),
            Ok((manifest, stated)) => {
                report.manifest = Some(manifest);
                if stated != channels {
                    report.find(Finding::at(0, Problem::ChannelCount { stated, found: channels }));
                }
            }
        },
    }
    let last = items.len().saturating_sub(1);
    let sealed = items.last().filter(|item| item.kind == Kind::Seal).is_some_and(|item| {
        let before = bundle.get(..item.at).unwrap_or_default();
        item.bytes() == Some(envelope::hash(before).as_slice())
    });
    if !sealed {
        report.find(Finding::at(last, Problem::Seal));
    }
}

/// F3: groups the items by channel.
fn sections<'a>(items: &[Item<'a>], report: &mut Report) -> Vec<Section<'a>> {
    let mut sections: Vec<Section<'a>> = Vec::new();
    let mut before = Kind::Manifest;
    for (index, item) in items.iter().enumerate() {
        let first = index == 0;
        let last = index.saturating_add(1) == items.len();
        let placed = match item.kind {
            Kind::Manifest => first,
            Kind::Seal => last,
            Kind::Channel => true,
            kind => before != Kind::Manifest && before <= kind,
        };
        if !placed {
            report.find(Finding::at(index, Problem::Order));
        }
        before = item.kind;
        let bytes = item.bytes().unwrap_or_default();
        match (item.kind, sections.last_mut()) {
            (Kind::Channel, _) => match bytes.try_into() {
                Ok(id) => sections.push(Section::new(index, id)),
                Err(_) => report.find(Finding::at(index, Problem::ChannelId)),
            },
            (Kind::Quote, Some(section)) => section.quotes.push((index, bytes)),
            (Kind::Provider, Some(section)) => section.logs[0].push((index, bytes)),
            (Kind::Consumer, Some(section)) => section.logs[1].push((index, bytes)),
            (Kind::Evidence, Some(section)) => section.evidence.push((index, bytes)),
            _ => {}
        }
    }
    sections
}
