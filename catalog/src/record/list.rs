//! An organisation's revocation list, as one of its nodes spreads it.

use crate::cbor::{Field, Item};
use crate::cert::{CertError, REVOCATIONS_LEN_MAX, Revocations};
use crate::id::{OrgId, from_hex, to_hex};
use crate::wire::wire_map;

/// The exact bytes of a signed [`Revocations`]. In JSON they are hex digits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignedList(pub Vec<u8>);

/// The text is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a revocation list is written in hex digits, at most {} of them", 2 * REVOCATIONS_LEN_MAX)]
pub struct ListForm;

impl TryFrom<String> for SignedList {
    type Error = ListForm;
    fn try_from(text: String) -> Result<Self, ListForm> {
        if text.len() > 2 * REVOCATIONS_LEN_MAX || !text.is_ascii() {
            return Err(ListForm);
        }
        let bytes = (0..text.len()).step_by(2).map(|at| {
            let pair = text.get(at..at + 2)?;
            from_hex::<1>(pair).map(|[byte]| byte)
        });
        bytes.collect::<Option<_>>().map(Self).ok_or(ListForm)
    }
}

impl From<SignedList> for String {
    fn from(list: SignedList) -> Self {
        to_hex(&list.0)
    }
}

impl Field for SignedList {
    const EXPECTED: &'static str = "a signed list";
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        Vec::read(item).map(Self)
    }
}

/// A revocation list. Whoever publishes it need not be trusted: the organisation's root signs it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationsDetail {
    /// Whose.
    pub of: OrgId,
    /// Its number.
    pub serial: u64,
    /// How many keys and serials are on it.
    pub count: u64,
    /// The list itself.
    pub list: SignedList,
}

wire_map!(RevocationsDetail, "the detail of a revocation list", {
    1 must of,
    2 must serial,
    3 must count,
    4 must list,
});

impl RevocationsDetail {
    /// Of a signed list.
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn of(bytes: &[u8]) -> Result<Self, CertError> {
        let list = Revocations::verify(bytes)?;
        let count = (list.keys.len() + list.revoked.len()) as u64;
        let signed = SignedList(bytes.to_vec());
        Ok(Self { of: list.org, serial: list.serial, count, list: signed })
    }

    /// Checks that what is said of the list is what its organisation signed.
    pub(super) fn check(&self) -> Result<(), CertError> {
        if Self::of(&self.list.0)? == *self {
            Ok(())
        } else {
            Err(CertError::OtherKey { what: "what the record says of the revocation list" })
        }
    }
}
