//! Shapes for the description of the API: of types of other crates, which know nothing of it, and of texts that are one of a few words.
//!
//! A field of such a type names its shape by `#[schema(value_type = …)]`. The shapes are types without values: nothing is made of them.

use std::borrow::Cow;

use catalog::record;
use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Shapes by name; after `with` those that a shape names itself, after `as` the name when it is not that of the type.
macro_rules! shapes {
    ($($(#[doc = $about:literal])+ $name:ident $(as $called:literal)? = $shape:expr $(, with $($part:ident),+)?;)+) => {$(
        $(#[doc = $about])+
        pub(crate) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $shape.description(Some(concat!($($about),+).trim())).into()
            }
        }

        impl ToSchema for $name {
            $(fn name() -> Cow<'static, str> {
                $called.into()
            })?

            fn schemas(_shapes: &mut Vec<(String, RefOr<Schema>)>) {
                $($(_shapes.push(($part::name().into_owned(), $part::schema()));)+)?
            }
        }
    )+};
}

/// Texts that are one of a few words.
macro_rules! words {
    ($($(#[doc = $about:literal])+ $name:ident = $($word:literal)|+;)+) => {
        shapes! {$( $(#[doc = $about])+ $name = text().enum_values(Some([$($word),+])); )+}
    };
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// One of these words.
fn any_of<T: ToString>(words: &[T]) -> ObjectBuilder {
    text().enum_values(Some(words.iter().map(ToString::to_string)))
}

fn text_or_nothing() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]))
}

fn integer() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}

fn object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

fn of<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

/// A content that a task takes or made.
fn content() -> ObjectBuilder {
    object()
        .property("digest", of::<Digest>())
        .property("size", integer().description(Some("Bytes")).minimum(Some(0)))
        .property("name", text().description(Some("Last component of its path")))
        .required("digest")
        .required("size")
        .required("name")
}

/// A value in the form with its kind.
fn value() -> AnyOfBuilder {
    let kinds = object()
        .property("bool", ObjectBuilder::new().schema_type(Type::Boolean))
        .property("int", integer())
        .property("float", ObjectBuilder::new().schema_type(Type::Number))
        .property("text", text())
        .property("list", ArrayBuilder::new().items(of::<TypedValue>()))
        .property("map", object().additional_properties(Some(of::<TypedValue>())))
        .property("file", of::<FileRef>())
        .property("dir", of::<DirRef>());
    AnyOfBuilder::new().item(text().enum_values(Some(["null"]))).item(kinds)
}

/// What is handed in to be done, `what` a document says.
fn work(what: &'static str) -> ObjectBuilder {
    let stage = object().property("file", of::<FileRef>()).property("dir", of::<DirRef>());
    let optional = |about: &'static str| text_or_nothing().description(Some(about));
    object()
        .property("source", text().description(Some(what)))
        .property("assets", object().additional_properties(Some(stage)))
        .property(
            "binding",
            optional("The binding document; the one step of a service is called `replica`"),
        )
        .property("strategy", optional("`sovereignty`, `performance`, `cost` or weights"))
        .required("source")
        .required("assets")
}

fn submission() -> ObjectBuilder {
    let area = "A collaborative area under whose rules it is done: its name, or its id";
    work("The workflow document")
        .property("params", object().additional_properties(Some(of::<TypedValue>())))
        .property("area", text().description(Some(area)))
        .required("params")
}

/// An object whose members are all there.
fn all_of(members: impl IntoIterator<Item = (&'static str, RefOr<Schema>)>) -> ObjectBuilder {
    members
        .into_iter()
        .fold(object(), |object, (name, shape)| object.property(name, shape).required(name))
}

/// Anything, of which `about` tells.
fn anything(about: &'static str) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some(about)).into()
}

fn last_word() -> ObjectBuilder {
    all_of([
        ("run", of::<RunId>().into()),
        ("node", text_or_nothing().description(Some("Where it ran")).into()),
        (
            "end",
            anything(
                "`done`, `cancelled`, `{refused: {detail}}`, or `{failed: {class, exit_code, detail}}`",
            ),
        ),
    ])
}

fn service_event() -> ObjectBuilder {
    all_of([
        ("seq", integer().description(Some("Its number, from 0")).into()),
        ("at_ms", of::<UnixMs>().into()),
        ("body", object().description(Some("`event` tells the kind")).into()),
    ])
}

fn class_count() -> ObjectBuilder {
    all_of([
        ("class", text().description(Some("As `kind:data` or `arch:aarch64`")).into()),
        ("count", integer().description(Some("How many")).into()),
    ])
}

fn price_band() -> ObjectBuilder {
    let low = "Decimal digits of the lowest price, in nano-units for a thousand million units";
    all_of([
        ("dimension", text().description(Some("What is metered")).into()),
        ("currency", of::<Currency>().into()),
        ("low", integer().description(Some(low)).into()),
        ("high", integer().description(Some("The same of the highest")).into()),
    ])
}

fn access() -> OneOfBuilder {
    let orgs = ArrayBuilder::new().items(of::<OrgId>());
    OneOfBuilder::new()
        .item(text().enum_values(Some(["owner", "realm"])))
        .item(object().property("orgs", orgs).required("orgs"))
}

fn service_content() -> ObjectBuilder {
    let name = "What the service is called, when not as its document says";
    work("The service document").property("name", text_or_nothing().description(Some(name)))
}

/// What a resource says of itself, as far as each kind says it.
fn description() -> ObjectBuilder {
    let about = |what: &str| text().description(Some(what.to_owned()));
    let detail = object().property("kind", any_of(record::Kind::ALL)).required("kind");
    object()
        .property("key", about("Names it among its author's resources"))
        .property("name", about("For people"))
        .property("short", about("In a line"))
        .property("long", about("At length"))
        .property("logo", about("Address or digest of a picture"))
        .property("licence", about("An SPDX expression where there is one"))
        .property("terms", about("Terms of use"))
        .property("price", object().description(Some("What its use costs")))
        .property("detail", detail)
        .required("key")
        .required("name")
        .required("detail")
}

shapes! {
    /// A node: a libp2p PeerId, `12D3KooW…`
    NodeId = text();
    /// An organisation: `did:key:z6Mk…`
    OrgId = text();
    /// `realm:` and 32 hex digits
    RealmId = text();
    /// `run-` and 32 hex digits
    RunId = text();
    /// `blake3:` and 64 hex digits
    Digest = text();
    /// `sha256:` and 64 hex digits
    Sha256 = text();
    /// Money in nano-units (1e-9) of the currency
    Amount = integer();
    /// Three letters of ISO 4217
    Currency = text();
    /// Milliseconds since 1970-01-01T00:00:00Z
    UnixMs = integer();
    /// An OpenAPI 3.1 document
    OpenApi = object();
    /// What is asked of other organisations
    PriceList = object();
    /// A file
    FileRef = content(), with Digest;
    /// A directory, by the digest of its manifest
    DirRef = content(), with Digest;
    /// Plain text for nothing (`"null"`), or an object with one member that tells the kind
    TypedValue as "Value" = value(), with FileRef, DirRef, Digest;
    /// A workflow that is to run
    Submission = submission(), with FileRef, DirRef, TypedValue, Digest;
    /// A service that is to run
    ServiceContent = service_content(), with FileRef, DirRef, Digest;
    /// What a member shares in an area
    ShareKind = any_of(record::ShareKind::ALL);
    /// The format of a disk image
    DiskFormat = any_of(record::DiskFormat::ALL);
    /// Who may connect to a service besides its owner
    Access = access(), with OrgId;
    /// A replica that ended by itself and is not replaced
    LastWord = last_word(), with RunId;
    /// Something that happened to a service
    ServiceEvent = service_event(), with UnixMs;
    /// How many resources there are of a class
    ClassCount = class_count();
    /// Within which magnitudes prices are
    PriceBand = price_band(), with Currency;
    /// The rule book of an area
    RuleBook = object();
    /// A resource, as its author describes it
    Description = description();
}

words! {
    /// What an organisation is to an area
    AreaStanding = "invited" | "asking" | "member" | "left" | "expelled";
    /// How a copy stands
    CopyState = "asked" | "coming" | "kept" | "leaving";
    /// How what is kept for another node stands
    KeptState = "coming" | "kept";
    /// Who may see a disk image
    DiskVisibility = "private" | "partner" | "public";
    /// How a service stands
    ServiceState = "running" | "rolling" | "degraded" | "stopped" | "idle" | "removing";
    /// How a replica of a service stands
    ReplicaState = "waiting" | "placed" | "starting" | "healthy" | "unhealthy" | "unreachable" | "draining" | "ending";
    /// Who asks
    Caller = "owner" | "person";
    /// By what somebody was let in
    Entrance = "home_token" | "session" | "token";
    /// How the login of a device stands
    DeviceProgress = "pending" | "done";
    /// Of what kind a parameter of a workflow is
    ParamKind = "bool" | "int" | "float" | "text" | "file" | "dir" | "list";
    /// What a check of channels comes to
    Verdict = "valid" | "invalid" | "equivocation" | "valid_with_tail";
    /// What an organisation is to this node
    Trust = "own" | "partner" | "peer" | "blocked";
    /// What an organisation is to this node, or that it waits to be let in
    OrgStance = "own" | "partner" | "peer" | "blocked" | "asking";
    /// By which way a peer is connected
    PeerPath = "direct" | "relayed" | "none";
    /// How others reach a node
    Standing = "public" | "private" | "nat" | "symmetric-nat" | "firewalled" | "outbound-only" | "unknown";
    /// How a node came to an address
    AddressSource = "listening" | "announced" | "observed" | "mapped" | "relay";
    /// What a node opened or built anew
    Renewed = "listeners" | "everything";
    /// The key of its organisation that a node holds
    SignsWith = "root" | "issuer" | "nothing";
    /// What was installed
    InstalledKind = "revocations" | "papers";
    /// How a run stands
    RunState = "running" | "cancelling" | "failing" | "succeeded" | "failed" | "cancelled";
    /// How a step of a run stands
    StepState = "waiting" | "skipped" | "open" | "done";
    /// The side of a channel that this node is
    ChannelSide = "provider" | "consumer";
    /// How a channel stands
    ChannelState = "opening" | "open" | "fencing" | "frozen";
    /// How the bill of an attempt stands
    LaneState = "proposed" | "active" | "closed" | "refused";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Whether a value has all members that have to be there, and no others than those that may be.
    fn holds<T: ToSchema>(value: impl serde::Serialize) {
        let shape = serde_json::to_value(T::schema()).unwrap();
        let value = serde_json::to_value(value).unwrap();
        let members: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        let known: BTreeSet<&String> = shape["properties"].as_object().unwrap().keys().collect();
        assert!(members.is_subset(&known), "{}: {members:?} are not in {known:?}", T::name());
        for name in shape["required"].as_array().unwrap() {
            assert!(members.iter().any(|member| *member == name), "{}: {name}", T::name());
        }
    }

    fn says<T: ToSchema>(values: impl serde::Serialize) {
        let shape = serde_json::to_value(T::schema()).unwrap();
        assert_eq!(shape["enum"], serde_json::to_value(values).unwrap(), "{}", T::name());
    }

    #[test]
    fn shapes_of_other_crates_are_those_of_their_types() {
        use accounting::Verdict as Found;
        use catalog::area::Standing as InArea;
        use scheduler::copies::{CopyState as Copied, KeptState as Keeping};
        let digest = catalog::Digest::of(b"a");
        let file = scheduler::value::FileRef { digest, size: 1, name: "a".to_owned() };
        holds::<FileRef>(file);
        let dir = scheduler::value::DirRef { digest, size: 1, name: "a".to_owned() };
        holds::<DirRef>(dir);
        holds::<ClassCount>(catalog::index::Count { class: "kind:data".to_owned(), count: 1 });
        let run = scheduler::task::RunId::from_bytes([1; 16]);
        let end = scheduler::service::End::Done;
        holds::<LastWord>(scheduler::service::LastWord { run, node: None, end });
        says::<ShareKind>(record::ShareKind::ALL);
        says::<DiskFormat>(record::DiskFormat::ALL);
        says::<CopyState>([Copied::Asked, Copied::Coming, Copied::Kept, Copied::Leaving]);
        says::<KeptState>([Keeping::Coming, Keeping::Kept]);
        let (asked, out) =
            ([InArea::Invited, InArea::Asking, InArea::Member], [InArea::Left, InArea::Expelled]);
        says::<AreaStanding>([&asked[..], &out[..]].concat());
        says::<Verdict>([Found::Valid, Found::Invalid, Found::Equivocation, Found::ValidWithTail]);
    }
}
