//! A provider's answer to "what would it cost": a signed priced quote with a lease, or a signed no with its reason.

use catalog::amount::Amount;
use catalog::cbor::{self, CborError, Field, Item, ListItem, MapReader, MapWriter};
use catalog::envelope::{self, EnvelopeError, Typ};
use catalog::rules::is_rule_name;
use catalog::{Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;

use crate::dimension::{Counters, Dimension};
use crate::price::{PricePlan, PricePlanError};
use crate::rate;

/// Longest quote or refusal in bytes; anything longer is refused before it is decoded.
pub const QUOTE_LEN_MAX: usize = 4096;
/// Longest name of a meter in bytes; a longer one makes a quote invalid.
pub const METER_LEN_MAX: usize = 64;

/// What one dimension is measured with, pinned so that a re-execution can use the same meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// The dimension.
    pub dimension: Dimension,
    /// The meter, like `wasmtime/48/default`; at most [`METER_LEN_MAX`] bytes.
    pub id: String,
}

/// A priced offer of one provider to one consumer for one task.
///
/// Payload of the envelope (`typ` `oc-quote`, key of the provider):
/// `{1: offer id, 2: provider, 3: provider's organisation, 4: consumer, 5: currency, 6: 9, 7: [{1: dimension, 2: basis (0
/// allocated, 1 used, 2 max), 3: amount_nano, 4: per}], 8: fixed, 9: minimum, 10: granularity_ms, 11: [{1: dimension, 2:
/// meter}], 12: interval_ms, 13: ack_timeout_ms, 14: max_unacked, 15: credit_limit, 16: dispute_window_s, 17: valid_until_ms,
/// 18: volume, 19: salt, 20: spec, 21: request}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Unique per provider; random.
    pub offer_id: [u8; 16],
    /// Who offers and signs.
    pub provider: NodeId,
    /// The organisation it speaks for.
    pub provider_org: OrgId,
    /// Who may take the offer.
    pub consumer: NodeId,
    /// Prices and terms.
    pub plan: PricePlan,
    /// Meters of the priced dimensions, in ascending order.
    pub meters: Vec<Meter>,
    /// The lease: an agreement after this Unix time in milliseconds is refused.
    pub valid_until_ms: u64,
    /// How many agreements may be made on it; at least 1.
    pub volume: u64,
    /// Random, so that two equal offers have two hashes.
    pub salt: [u8; 16],
    /// Digest of the task that was asked for.
    pub spec: Digest,
    /// The request it answers, as the consumer named it.
    pub request: [u8; 16],
}

/// Why bytes are not a quote or a refusal of the expected provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The envelope or its signature.
    #[error("quote or refusal: the envelope is not right")]
    Envelope(#[from] EnvelopeError),
    /// The payload.
    #[error("quote or refusal: the payload is not right")]
    Payload(#[from] CborError),
    /// It names another provider than the one it came from.
    #[error("quote or refusal of {found}, expected one of {expected}")]
    Provider {
        /// Who should have made it.
        expected: NodeId,
        /// Whom it names.
        found: NodeId,
    },
    /// Prices or terms out of bounds.
    #[error("quote with an invalid price plan")]
    Plan(#[from] PricePlanError),
    /// A quote for no agreement at all.
    #[error("quote with a volume of 0: it must allow at least one agreement")]
    Volume,
}

impl Quote {
    /// Signs the quote and returns the bytes of its envelope; their SHA-256 ([`envelope::hash`]) is the quote's name.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let map = MapWriter::new()
            .put(1, &self.offer_id)
            .put(2, &self.provider)
            .put(3, &self.provider_org)
            .put(4, &self.consumer);
        let map = self.plan.write(map, &self.meters);
        let payload = map
            .put(17, &self.valid_until_ms)
            .put(18, &self.volume)
            .put(19, &self.salt)
            .put(20, &self.spec)
            .put(21, &self.request)
            .encode();
        envelope::sign(key, Typ::Quote, payload)
    }

    /// Checks form, bounds and signature of a quote that `provider` made.
    ///
    /// # Errors
    /// See [`QuoteError`].
    pub fn open(bytes: &[u8], provider: &NodeId) -> Result<Self, QuoteError> {
        Self::read(bytes, Some(*provider))
    }

    /// As [`Quote::open`]; without a provider it is by the one that it names.
    pub(crate) fn read(bytes: &[u8], provider: Option<NodeId>) -> Result<Self, QuoteError> {
        let opened = envelope::open(bytes, Typ::Quote, QUOTE_LEN_MAX)?;
        let quote = Self::decode(opened.payload())?;
        verify_of(&opened, quote.provider, provider.unwrap_or(quote.provider))?;
        quote.plan.check()?;
        if quote.volume == 0 { Err(QuoteError::Volume) } else { Ok(quote) }
    }

    /// The amount a task with these final counters would cost, with the minimum but without granularity; `None` when it is
    /// larger than the largest amount.
    #[must_use]
    pub fn estimate(&self, expected: &Counters) -> Option<Amount> {
        rate::rate_closed(&self.plan, expected, 0).ok()
    }

    fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let value = cbor::decode(payload, QUOTE_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let (offer_id, provider) = (map.take(1)?, map.take(2)?);
        let (provider_org, consumer) = (map.take(3)?, map.take(4)?);
        let (plan, meters) = PricePlan::read(&mut map)?;
        if !meters.windows(2).all(|pair| pair[0].dimension < pair[1].dimension) {
            return Err(CborError::Field { key: 11, expected: Meter::EXPECTED });
        }
        let quote = Self {
            offer_id,
            provider,
            provider_org,
            consumer,
            plan,
            meters,
            valid_until_ms: map.take(17)?,
            volume: map.take(18)?,
            salt: map.take(19)?,
            spec: map.take(20)?,
            request: map.take(21)?,
        };
        map.finish()?;
        Ok(quote)
    }
}

impl Field for Meter {
    const EXPECTED: &'static str = "meters: one per dimension in ascending order, with short names";
    fn write(&self, out: &mut Vec<u8>) {
        let map = MapWriter::new().put(1, &(self.dimension.index() as u64)).put(2, &self.id);
        map.finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut map = MapReader::new(&item).ok()?;
        let dimension = Dimension::from_index(map.take(1).ok()?)?;
        let id: String = map.take(2).ok()?;
        map.finish().ok()?;
        (id.len() <= METER_LEN_MAX).then_some(Self { dimension, id })
    }
}

impl ListItem for Meter {}

/// Checks that `opened` names and is signed by `expected`.
fn verify_of(
    opened: &envelope::Unverified<'_>,
    named: NodeId,
    expected: NodeId,
) -> Result<(), QuoteError> {
    if named != expected {
        return Err(QuoteError::Provider { expected, found: named });
    }
    let key = expected.verifying_key().map_err(|_| EnvelopeError::BadSignature)?;
    opened.verify(&key)?;
    Ok(())
}

/// Why a provider says no.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// No capacity now.
    Full = 1,
    /// The owner's policy does not allow it.
    Policy = 2,
    /// A runtime, architecture or feature it does not have.
    Unsupported = 3,
    /// The consumer's price cap lies below the plan.
    PriceTooLow = 4,
    /// It does not know the consumer, the realm or the task.
    Unknown = 5,
    /// The consumer's credit is used up.
    Credit = 6,
    /// It is going down.
    ShuttingDown = 7,
    /// It is not in the area that the task names, or does not know the consumer as a member.
    Area = 8,
    /// A rule of an area does not allow it.
    Rule = 9,
}

impl RefusalCode {
    const ALL: [Self; 9] = [
        Self::Full,
        Self::Policy,
        Self::Unsupported,
        Self::PriceTooLow,
        Self::Unknown,
        Self::Credit,
        Self::ShuttingDown,
        Self::Area,
        Self::Rule,
    ];

    /// The word in reports and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Policy => "policy",
            Self::Unsupported => "unsupported",
            Self::PriceTooLow => "price_too_low",
            Self::Unknown => "unknown",
            Self::Credit => "credit",
            Self::ShuttingDown => "shutting_down",
            Self::Area => "area",
            Self::Rule => "rule",
        }
    }
}

/// A provider's signed no: a code, never the text of a policy.
///
/// Payload (`typ` `oc-refusal`): `{1: provider, 2: consumer, 3: request, 4: code, ?5: retry_after_ms, ?6: rule}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who refuses and signs.
    pub provider: NodeId,
    /// Who asked.
    pub consumer: NodeId,
    /// The request it answers.
    pub request: [u8; 16],
    /// Why.
    pub code: RefusalCode,
    /// When asking again may help, in milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// The rule of an area that does not allow it; at most [`catalog::rules::RULE_NAME_LEN_MAX`] bytes, for a longer one makes a refusal invalid.
    pub rule: Option<String>,
}

impl Refusal {
    /// Signs the refusal and returns the bytes of its envelope.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let payload = MapWriter::new()
            .put(1, &self.provider)
            .put(2, &self.consumer)
            .put(3, &self.request)
            .put(4, &(self.code as u64))
            .put_opt(5, self.retry_after_ms.as_ref())
            .put_opt(6, self.rule.as_ref())
            .encode();
        envelope::sign(key, Typ::Refusal, payload)
    }

    /// Checks form and signature of a refusal that `provider` made.
    ///
    /// # Errors
    /// See [`QuoteError`].
    pub fn open(bytes: &[u8], provider: &NodeId) -> Result<Self, QuoteError> {
        let opened = envelope::open(bytes, Typ::Refusal, QUOTE_LEN_MAX)?;
        let value = cbor::decode(opened.payload(), QUOTE_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let (named, consumer, request) = (map.take(1)?, map.take(2)?, map.take(3)?);
        let number: u64 = map.take(4)?;
        let code = RefusalCode::ALL.into_iter().find(|code| *code as u64 == number);
        let refusal = Self {
            provider: named,
            consumer,
            request,
            code: code.ok_or(CborError::Field { key: 4, expected: "a refusal code" })?,
            retry_after_ms: map.take_opt(5)?,
            rule: map.take_opt(6)?,
        };
        map.finish()?;
        if refusal.rule.as_ref().is_some_and(|rule| !is_rule_name(rule)) {
            return Err(CborError::Field { key: 6, expected: "the name of a rule" }.into());
        }
        verify_of(&opened, refusal.provider, *provider)?;
        Ok(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn node(seed: u8) -> NodeId {
        key(seed).verifying_key().into()
    }

    fn quote() -> Quote {
        Quote {
            offer_id: [1; 16],
            provider: node(1),
            provider_org: OrgId::from_bytes([9; 32]),
            consumer: node(2),
            plan: PricePlan::default(),
            meters: vec![Meter { dimension: Dimension::Cpu, id: "thread".to_owned() }],
            valid_until_ms: 5_000,
            volume: 1,
            salt: [3; 16],
            spec: Digest::of(b"task"),
            request: [4; 16],
        }
    }

    #[test]
    fn a_signed_quote_opens_with_its_provider_only() {
        let bytes = quote().sign(&key(1));
        assert_eq!(Quote::open(&bytes, &node(1)), Ok(quote()));
        assert!(matches!(Quote::open(&bytes, &node(2)), Err(QuoteError::Provider { .. })));
        let forged = quote().sign(&key(2));
        assert_eq!(
            Quote::open(&forged, &node(1)),
            Err(QuoteError::Envelope(EnvelopeError::BadSignature))
        );
    }

    #[test]
    fn quotes_outside_the_bounds_are_refused() {
        let mut negative = quote();
        negative.plan.rows[0].amount_nano = -1;
        assert!(matches!(Quote::open(&negative.sign(&key(1)), &node(1)), Err(QuoteError::Plan(_))));
        let empty = Quote { volume: 0, ..quote() };
        assert_eq!(Quote::open(&empty.sign(&key(1)), &node(1)), Err(QuoteError::Volume));
        let mut long = quote();
        long.meters[0].id = "x".repeat(METER_LEN_MAX + 1);
        assert!(matches!(Quote::open(&long.sign(&key(1)), &node(1)), Err(QuoteError::Payload(_))));
    }

    #[test]
    fn an_estimate_is_the_amount_of_the_expected_counters() {
        let counters = Counters::default().with(Dimension::Cpu, 3_600_000_000);
        assert_eq!(quote().estimate(&counters), Some(Amount::from_nano(20_000_000)));
    }

    #[test]
    fn refusals_read_back_and_are_not_quotes() {
        for retry_after_ms in [None, Some(1_000)] {
            for code in RefusalCode::ALL {
                let refusal = Refusal {
                    provider: node(1),
                    consumer: node(2),
                    request: [7; 16],
                    code,
                    retry_after_ms,
                    rule: (code == RefusalCode::Rule).then(|| "residency".to_owned()),
                };
                let bytes = refusal.sign(&key(1));
                let long = Refusal { rule: Some("a".repeat(33)), ..refusal.clone() };
                assert_eq!(Refusal::open(&bytes, &node(1)), Ok(refusal));
                assert!(Refusal::open(&long.sign(&key(1)), &node(1)).is_err());
                assert!(Refusal::open(&bytes, &node(2)).is_err());
                assert!(matches!(
                    Quote::open(&bytes, &node(1)),
                    Err(QuoteError::Envelope(EnvelopeError::WrongType { .. }))
                ));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_openers(bytes in any::<Vec<u8>>()) {
            let _ = (Quote::open(&bytes, &node(1)), Refusal::open(&bytes, &node(1)));
        }
    }
}
