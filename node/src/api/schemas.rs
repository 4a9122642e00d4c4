//! The shapes of what goes in and out, as JSON Schema.

mod areas;
mod people;
mod policies;
mod quotas;

use serde_json::{Map, Value, json};

/// A reference to another shape.
fn of(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn int(description: &str) -> Value {
    json!({"type": "integer", "description": description})
}

fn maybe(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// An object whose members all stand in `properties`.
fn object(properties: Value, optional: &[&str]) -> Value {
    let required: Vec<&String> = properties
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .filter(|key| !optional.contains(&key.as_str()))
        .collect();
    json!({"type": "object", "required": required, "properties": properties})
}

/// Every shape by name.
pub(super) fn schemas() -> Value {
    let mut all = Map::new();
    let parts = [ids(), mesh(), catalogue(), values(), images(), runs(), services(), ledger()];
    for part in parts.into_iter().chain([
        disks(),
        data(),
        steered(),
        trust(),
        realms(),
        policies::policies(),
        workspaces(),
        areas::areas(),
        people::people(),
        quotas::quotas(),
    ]) {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

fn ids() -> Value {
    json!({
        "NodeId": text("A node: a libp2p PeerId, `12D3KooW…`"),
        "OrgId": text("An organisation: `did:key:z6Mk…`"),
        "RealmId": text("`realm:` and 32 hex digits"),
        "RunId": text("`run-` and 32 hex digits"),
        "Digest": text("`blake3:` and 64 hex digits"),
        "Amount": int("Money in nano-units (1e-9) of the currency"),
        "UnixMs": int("Milliseconds since 1970-01-01T00:00:00Z"),
        "OpenApi": json!({"type": "object", "description": "An OpenAPI 3.1 document"}),
    })
}

fn mesh() -> Value {
    let status = object(
        json!({
            "id": of("NodeId"),
            "name": text("The node's stable name"),
            "org": of("OrgId"),
            "org_name": text("The organisation's name"),
            "papers": of("Papers"),
            "realm": of("RealmId"),
            "addresses": list(text("A multiaddr where peers reach it")),
            "peers": int("Peers connected"),
            "resources": int("Resources in the catalogue"),
            "light": maybe(text("Of a light node the kinds of which it keeps the records of others, with commas between")),
            "active_runs": int("Runs that have not ended"),
            "active_attempts": int("Attempts it works on"),
            "cpu_free_milli": int("Free thousandths of a core"),
            "cpu_total_milli": int("All of them"),
            "memory_free_bytes": int("Free memory for tasks"),
            "memory_total_bytes": int("All of it"),
            "disk_free_bytes": int("Free disk for tasks"),
            "disk_total_bytes": int("All of it"),
            "price": maybe(json!({"type": "object", "description": "What it asks of other organisations"})),
            "version": text("The version of the program"),
            "reach": maybe(of("Reach")),
        }),
        &["light"],
    );
    let peer = object(
        json!({
            "id": of("NodeId"),
            "name": text("Its stable name"),
            "org": of("OrgId"),
            "org_name": text("The organisation's name"),
            "generation": int("Which of its keys the id is, from 1"),
            "former_until_ms": maybe(of("UnixMs")),
            "trust": json!({"enum": ["own", "partner", "peer", "blocked"]}),
            "connected": json!({"type": "boolean"}),
            "addresses": list(text("A multiaddr, by its own record")),
            "last_error": maybe(text("Why it was not reached the last time that this node tried")),
            "neighbour": json!({"type": "boolean", "description": "Whether it is one of the nodes of other organisations whose connections have a place that nobody else takes"}),
            "path": json!({"enum": ["direct", "relayed", "none"]}),
            "relay": maybe(of("NodeId")),
            "rtt_us": maybe(int("The last round trip, in microseconds")),
            "relayed_bytes": int("Bytes that this node, as a relay, carried from and to it today"),
            "why": maybe(text("What stands in the way, when it is not connected")),
            "hint": maybe(text("What can be done about it")),
        }),
        &[],
    );
    json!({
        "Status": status,
        "Reach": reach(),
        "Peer": peer,
        "Peers": list(of("Peer")),
        "Invite": object(
            json!({
                "valid_ms": maybe(int("How long the ticket can be used; one hour when absent")),
                "ask": json!({"type": "boolean", "description": "Whether the owner decides about whoever comes with it"}),
            }),
            &["valid_ms", "ask"],
        ),
        "Invited": object(json!({"ticket": text("A bearer secret, to hand over"), "expires_ms": of("UnixMs")}), &[]),
        "Join": object(json!({"ticket": text("As another node's owner got it")}), &[]),
        "Joined": object(json!({"realm": of("RealmId"), "org": of("OrgId")}), &[]),
    })
}

/// How others reach a node.
fn reach() -> Value {
    let address = object(
        json!({
            "address": text("A multiaddr"),
            "source": json!({"enum": ["listening", "announced", "observed", "mapped", "relay"]}),
            "reached_by": list(of("NodeId")),
            "missed_by": list(of("NodeId")),
            "tested_s_ago": maybe(int("Seconds since a peer last tested it")),
        }),
        &[],
    );
    let relay = object(
        json!({
            "id": of("NodeId"),
            "reserved": json!({"type": "boolean", "description": "Whether it leads to this node now"}),
            "why": maybe(text("What stands in the way")),
        }),
        &[],
    );
    let relaying = object(
        json!({
            "reservations": int("Peers that are reachable through this node"),
            "circuits": int("Circuits open now"),
            "bytes": int("Bytes carried since it started"),
        }),
        &[],
    );
    let renewal = object(
        json!({
            "what": json!({"enum": ["listeners", "everything"], "description": "What it opened or built anew"}),
            "s_ago": int("Seconds since then"),
            "alone_s": int("For how long nobody had been connected by then"),
            "rebuilds": int("How often it built everything anew since it was started"),
        }),
        &[],
    );
    object(
        json!({
            "standing": json!({"enum": ["public", "private", "nat", "symmetric-nat", "firewalled", "outbound-only", "unknown"]}),
            "why": text("The same in a sentence, with the way out"),
            "addresses": list(address),
            "relays": list(relay),
            "relaying": maybe(relaying),
            "renewal": maybe(renewal),
        }),
        &[],
    )
}

fn trust() -> Value {
    let former = json!({
        "node": of("NodeId"),
        "accepted_until_ms": of("UnixMs"),
        "is_kept": json!({"type": "boolean", "description": "Whether its secret is still here"}),
        "unsettled": int("Lanes and entries of its channels that are not settled yet"),
    });
    let papers = json!({
        "generation": int("Which of the node's keys it uses, from 1"),
        "until_ms": of("UnixMs"),
        "signs_with": json!({"enum": ["root", "issuer", "nothing"], "description": "The key of its organisation that the node holds"}),
        "issuer_until_ms": maybe(of("UnixMs")),
        "revoked": int("Keys and serials that the organisation has taken back"),
        "former": list(object(former, &[])),
        "warning": maybe(text("What the owner should see to")),
    });
    let rotating = json!({
        "running": int("Tasks that run here, or elsewhere for this node: the change waits for them"),
        "at_latest_ms": of("UnixMs"),
    });
    let installed = json!({
        "kind": json!({"enum": ["revocations", "papers"]}),
        "org": of("OrgId"),
        "is_new": json!({"type": "boolean", "description": "Whether it is newer than what was known"}),
    });
    let yes = |description: &str| json!({"type": "boolean", "description": description});
    let rights = |optional: &[&str]| {
        object(
            json!({
                "stance": json!({"enum": ["peer", "partner", "blocked"]}),
                "ask": yes("Whether it may ask for quotes and have work done here"),
                "fetch": yes("Whether it may fetch what is published here"),
                "see": yes("Whether it may see the restricted records that name it"),
                "relay": yes("Whether this node, as a relay, carries from and to its nodes"),
                "tasks_max": int("Tasks that it may have here at once; 0 for no limit"),
                "nodes_max": int("Nodes of it that may be connected at once; 0 for the usual limit"),
            }),
            optional,
        )
    };
    let org = json!({
        "org": of("OrgId"),
        "org_name": maybe(text("Its name")),
        "fingerprint": text("The short form of its key, to compare"),
        "stance": json!({"enum": ["own", "partner", "peer", "blocked", "asking"]}),
        "ask": yes("Whether it may ask for quotes and have work done here"),
        "fetch": yes("Whether it may fetch what is published here"),
        "see": yes("Whether it may see the restricted records that name it"),
        "relay": yes("Whether this node, as a relay, carries from and to its nodes"),
        "tasks_max": maybe(int("Tasks that it may have here at once")),
        "nodes_max": int("Nodes of it that may be connected at once"),
        "tasks": int("Tasks that it has here now"),
        "connected": int("Nodes of it that are connected now"),
    });
    let all = ["stance", "ask", "fetch", "see", "relay", "tasks_max", "nodes_max"];
    json!({
        "Org": object(org, &[]),
        "Orgs": list(of("Org")),
        "Relate": object(json!({"org": of("OrgId"), "change": rights(&all)}), &[]),
        "Decide": object(json!({"org": of("OrgId"), "is_admitted": yes("Whether it may come in")}), &[]),
        "Papers": object(papers, &[]),
        "Install": object(json!({"text": text("The file's text, as `opencloud org` wrote it")}), &[]),
        "Installed": object(installed, &[]),
        "Rotate": object(json!({"drain_ms": int("How long to wait for running tasks, in milliseconds")}), &[]),
        "NameOrg": object(json!({"name": text("What the organisation is to be called"), "drain_ms": int("How long to wait for running tasks, in milliseconds")}), &["drain_ms"]),
        "Rotating": object(rotating, &[]),
    })
}

/// What a realm's gateway says of it.
fn realm_digest() -> Value {
    json!({
        "realm": of("RealmId"),
        "gateway": of("NodeId"),
        "org": of("OrgId"),
        "org_name": text("The organisation of the gateway, to ask for an invitation"),
        "number": int("Grows with every digest of the gateway"),
        "made_ms": of("UnixMs"),
        "until_ms": of("UnixMs"),
        "authors": int("Nodes that publish something there"),
        "resources": int("Public resources there"),
        "counts": list(object(json!({"class": text("As `kind:data` or `arch:aarch64`"), "count": int("How many")}), &[])),
        "regions": list(text("Where they are")),
        "bands": list(object(
            json!({
                "dimension": text("What is metered"),
                "currency": text("Three letters"),
                "low": int("Decimal digits of the lowest price, in nano-units for a thousand million units"),
                "high": int("The same of the highest"),
            }),
            &[],
        )),
        "addresses": list(text("A multiaddr of the gateway")),
        "names": maybe(int("Public names that one can look for; absent when they did not fit")),
    })
}

/// Other realms.
fn realms() -> Value {
    let digest = realm_digest();
    let mut held = digest.clone();
    if let Some(held) = held.as_object_mut() {
        held.insert("bytes".to_owned(), int("Bytes of it"));
        held.insert("hops".to_owned(), int("Links between here and there"));
        held.insert("taken_ms".to_owned(), of("UnixMs"));
    }
    let gateway = json!({
        "id": of("NodeId"),
        "connected": json!({"type": "boolean"}),
        "addresses": list(text("A multiaddr")),
        "last_error": maybe(text("Why it was not reached the last time")),
    });
    let link = json!({
        "realm": of("RealmId"),
        "org": maybe(of("OrgId")),
        "org_name": maybe(text("The organisation that it was linked with")),
        "since_ms": maybe(of("UnixMs")),
        "gateways": list(object(gateway, &[])),
    });
    let realm = json!({
        "realm": of("RealmId"),
        "founder": maybe(of("OrgId")),
        "no_gateway": maybe(text("Why this node is no gateway of its realm; absent when it is one")),
        "gateways": list(of("NodeId")),
        "speakers": list(of("OrgId")),
        "published": maybe(of("RealmDigest")),
        "links": list(of("RealmLink")),
        "digests": list(object(held, &[])),
    });
    let told = json!({
        "resources": list(json!({"allOf": [of("Resource"), object(json!({"realm": of("RealmId")}), &[])]})),
        "realms": list(of("RealmDigest")),
        "silent": list(of("RealmId")),
        "silent_gateways": list(of("NodeId")),
        "ruled_out": int("Realms whose digest says that there is nothing"),
        "is_all": json!({"type": "boolean", "description": "Whether each realm that answered told of everything"}),
    });
    json!({
        "RealmDigest": object(digest, &[]),
        "RealmLink": object(link, &[]),
        "Realm": object(realm, &[]),
        "FoundElsewhere": object(told, &[]),
        "LinkTicket": object(json!({"ticket": text("As `POST /realm/invites` of another realm's gateway gave it")}), &[]),
        "Unlink": object(json!({"realm": of("RealmId")}), &[]),
        "LetSpeak": object(json!({"org": of("OrgId")}), &[]),
    })
}

fn catalogue() -> Value {
    let description = object(
        json!({
            "key": text("Names it among its author's resources"),
            "name": text("For people"),
            "short": text("In a line"),
            "long": text("At length"),
            "logo": text("Address or digest of a picture"),
            "licence": text("An SPDX expression where there is one"),
            "terms": text("Terms of use"),
            "price": json!({"type": "object", "description": "What its use costs"}),
            "detail": json!({
                "type": "object",
                "required": ["kind"],
                "properties": {"kind": {"enum": ["data", "algorithm", "compute", "storage", "workflow", "service", "disk", "revocations"]}},
            }),
        }),
        &["short", "long", "logo", "licence", "terms", "price"],
    );
    let resource = object(
        json!({
            "id": text("`AUTHOR/KEY`"),
            "author": of("NodeId"),
            "org": of("OrgId"),
            "org_name": text("The organisation's name"),
            "node_name": text("The node's name"),
            "resource": of("Description"),
        }),
        &[],
    );
    json!({
        "Description": description,
        "Resource": resource,
        "Resources": list(of("Resource")),
        "OwnResources": list(object(
            json!({
                "resource": of("Description"),
                "public": json!({"type": "boolean", "description": "Whether everybody sees it who is not shown something else"}),
                "orgs": list(of("OrgId")),
                "variant": json!({"type": "boolean", "description": "Whether it is made for these organisations, in place of what others see under its key"}),
            }),
            &[],
        )),
        "Published": object(json!({"key": text("Its key among the resources of this node")}), &[]),
    })
}

fn values() -> Value {
    let reference = |what: &str| {
        object(
            json!({"digest": of("Digest"), "size": int("Bytes"), "name": text("Last component of its path")}),
            &[],
        )
        .as_object()
        .map(|shape| {
            let mut shape = shape.clone();
            shape.insert("description".to_owned(), what.into());
            Value::Object(shape)
        })
    };
    let tagged = json!({
        "description": "Plain text for nothing (`\"null\"`), or an object with one member that tells the kind",
        "anyOf": [
            {"const": "null"},
            {"type": "object", "properties": {
                "bool": {"type": "boolean"},
                "int": {"type": "integer"},
                "float": {"type": "number"},
                "text": {"type": "string"},
                "list": list(of("Value")),
                "map": {"type": "object", "additionalProperties": of("Value")},
                "file": of("FileRef"),
                "dir": of("DirRef"),
            }},
        ],
    });
    json!({
        "FileRef": reference("A file"),
        "DirRef": reference("A directory, by the digest of its manifest"),
        "Value": tagged,
        "Added": object(json!({"digest": of("Digest"), "size": int("Bytes")}), &[]),
    })
}

fn images() -> Value {
    let image = object(
        json!({
            "name": text("`REPOSITORY:TAG`, or `REPOSITORY@DIGEST`"),
            "digest": text("The manifest's digest, as clients of registries show it: `sha256:` and 64 hex digits"),
            "media_type": text("The manifest's kind"),
            "size": int("Bytes of everything it consists of"),
            "directory": maybe(of("DirRef")),
            "tags": list(text("One of its tags")),
            "since_ms": of("UnixMs"),
        }),
        &[],
    );
    json!({
        "Image": image,
        "Images": list(of("Image")),
        "ImageTag": object(
            json!({"name": text("The image, as `Image` names it"), "tag": text("What it is to be called, too")}),
            &[],
        ),
        "ImagePull": object(
            json!({"name": text("`REPOSITORY[:TAG]` or `REPOSITORY@DIGEST`, with the organisation and `/` in front where several use the name")}),
            &[],
        ),
        "ImagePublish": object(
            json!({"name": text("The image: `REPOSITORY:TAG`"), "private": json!({"type": "boolean", "description": "For the own organisation alone"})}),
            &["private"],
        ),
        "Tagged": object(json!({"name": text("`REPOSITORY:TAG`")}), &[]),
    })
}

fn disks() -> Value {
    let format = json!({"enum": ["raw", "qcow2", "vhd", "vhdx", "vdi", "vmdk"]});
    let properties = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let visibility = json!({"enum": ["private", "partner", "public"]});
    let (digest, orgs) = (of("Digest"), list(of("OrgId")));
    let arch = text("Machine architecture, such as `x86_64`; empty when that is not said");
    let memory = int("Least memory in bytes; 0 when that is not said");
    let sign = json!({"type": "boolean", "description": "Whether this organisation signs it"});
    let raw = json!({"anyOf": [format, {"type": "null"}], "description": "`raw` vouches for a raw disk without a boot sector"});
    let signer = object(
        json!({"org": of("OrgId"), "org_name": maybe(text("Its name, when it is known here")), "signed_ms": of("UnixMs")}),
        &[],
    );
    let sha256 = text("`sha256:` and 64 hex digits");
    let disk = json!({
        "name": text("Its name"), "node": of("NodeId"), "owner": of("OrgId"),
        "owner_name": text("The organisation's name"),
        "state": json!({"enum": ["ready", "lost", "remote"]}), "visibility": maybe(visibility.clone()), "orgs": orgs,
        "format": format, "digest": digest, "sha256": sha256,
        "size": int("Bytes of the file"), "virtual_bytes": int("Bytes of the disk"),
        "arch": arch, "min_memory_bytes": memory, "properties": properties,
        "signer": maybe(signer), "signature": maybe(text("The signed statement in hex digits")),
        "added_ms": maybe(of("UnixMs")), "changed_ms": maybe(of("UnixMs")),
    });
    let add = json!({
        "name": text("Its name"), "digest": digest, "format": raw, "arch": arch, "min_memory_bytes": memory,
        "properties": properties, "visibility": visibility, "orgs": orgs, "sign": sign,
    });
    let change = json!({
        "arch": arch, "min_memory_bytes": memory, "visibility": visibility, "orgs": orgs, "sign": sign,
        "properties": json!({
            "type": "object", "additionalProperties": maybe(json!({"type": "string"})), "description": "null takes one away",
        }),
    });
    let convert = json!({
        "name": text("Of which, as `showDisk` takes it"), "to": format, "new_name": text("What the new one is called"),
        "compress": json!({"type": "boolean", "description": "Whether clusters are packed; of a qcow2 only"}),
        "visibility": visibility, "orgs": orgs, "sign": sign,
    });
    let facts = json!({
        "format": format, "size": int("Bytes of the file"), "virtual_bytes": int("Bytes of the disk"),
        "cluster_bytes": maybe(int("Bytes of a cluster")), "snapshots": maybe(int("Internal snapshots")),
        "is_dirty": maybe(json!({"type": "boolean"})),
        "headers_only": maybe(text("Why no more than its headers was looked at")),
    });
    let said = ["arch", "min_memory_bytes", "properties", "visibility", "orgs", "sign"];
    let quota =
        object(json!({"images": int("How many"), "bytes": int("Bytes of all together")}), &[]);
    json!({
        "Disk": object(disk, &[]),
        "Disks": list(of("Disk")),
        "NewDisk": object(add, &[&said[..], &["format"]].concat()),
        "DiskChange": object(change, &said),
        "DiskConversion": object(convert, &[&said[..], &["compress"]].concat()),
        "DiskCopy": object(
            json!({"name": text("Of which, as `showDisk` takes it"), "new_name": text("Its name here; the same when absent")}),
            &["new_name"],
        ),
        "DiskContent": object(json!({"digest": digest, "format": raw}), &["format"]),
        "DiskFacts": object(facts, &[]),
        "DiskNamed": object(json!({"name": text("Which, as `showDisk` takes it")}), &[]),
        "DiskQuota": quota,
        "DiskUsage": object(
            json!({"images": int("Images"), "bytes": int("Bytes of their files"), "quota": of("DiskQuota")}),
            &[],
        ),
    })
}

fn data() -> Value {
    let directory = json!({"type": "boolean", "description": "Whether it is a directory"});
    let size = int("Bytes of the file, or of all files of the directory");
    let view = json!({
        "digest": of("Digest"), "name": text("For people"), "size": size, "directory": directory,
        "pinned": json!({"type": "boolean", "description": "Whether it stays until it is unpinned"}),
        "public": json!({"type": "boolean", "description": "Whether every member of the realm may fetch it from here"}),
        "only_for": maybe(list(of("OrgId"))),
        "here": json!({"type": "boolean", "description": "Whether it is on this node; of a directory, its manifest"}),
    });
    let transfer = json!({
        "digest": of("Digest"), "state": json!({"enum": ["fetching", "done", "failed", "serving"]}),
        "peers": list(of("NodeId")), "found": list(of("NodeId")),
        "bytes": int("Bytes that are there, or were sent"),
        "total": maybe(int("Bytes in all, when they are known")),
        "fetched": int("Bytes that this fetch brought, without those of an earlier one"),
        "began_ms": maybe(of("UnixMs")), "ended_ms": maybe(of("UnixMs")),
    });
    let port = json!({
        "name": text("What peers call it"), "port": int("Its number on 127.0.0.1"),
        "trusted": maybe(text("Open to whom by trust: `own`, `partners` or `realm`")),
        "orgs": list(of("OrgId")), "opened": int("Tunnels that were opened to it since the start"),
        "received": int("Bytes that came by them"), "sent": int("Bytes that went"),
    });
    let copy = json!({
        "node": of("NodeId"), "org": of("OrgId"), "org_name": maybe(text("Its name, when it is known")),
        "state": json!({"enum": ["asked", "coming", "kept", "leaving"]}),
        "counts": json!({"type": "boolean", "description": "Whether it is proven, and its keeper not away for too long"}),
        "proven_ms": maybe(of("UnixMs")), "away_ms": maybe(of("UnixMs")),
    });
    let refused = json!({"node": of("NodeId"), "why": text("Why"), "until_ms": of("UnixMs")});
    let patience =
        int("How long a keeper may be away before another one is asked, in milliseconds");
    let orgs = json!({"type": "array", "items": of("OrgId"), "description": "Among whom; any when none is named"});
    let wish = json!({
        "digest": of("Digest"), "name": text("For people"), "wished": int("How many copies are wished"),
        "counting": int("How many there are"), "among": orgs, "patience_ms": patience,
        "copies": list(object(copy, &[])), "refused": list(object(refused, &[])),
    });
    let keep = json!({
        "digest": of("Digest"), "name": text("For people"), "size": size, "directory": directory, "owner": of("NodeId"),
        "owner_name": maybe(text("The name of its organisation, when it is known")),
        "state": json!({"enum": ["coming", "kept"]}),
    });
    let kept = json!({
        "bytes_max": int("Bytes that may be kept"), "bytes": int("Bytes that are promised"),
        "contents": list(object(keep, &[])),
    });
    let to_copy = json!({"copies": int("How many, besides the one here; 0 ends it"), "among": orgs, "patience_ms": patience});
    json!({
        "Copies": list(object(wish, &[])),
        "CopiesWish": object(to_copy, &["among", "patience_ms"]),
        "Kept": object(kept, &[]),
        "Ports": list(object(port, &[])),
        "DataList": list(object(view, &[])),
        "DataPin": object(json!({"name": text("For people"), "directory": directory}), &["name", "directory"]),
        "DataPinned": object(json!({"size": size}), &[]),
        "Transfers": list(object(transfer, &[])),
    })
}

fn steered() -> Value {
    let task = json!({
        "step": text("The step's name"),
        "index": int("The map index; 0 when absent"),
        "attempt": maybe(int("The attempt, which has to be the one that runs; that one when absent")),
    });
    json!({
        "TaskName": object(task, &["index", "attempt"]),
        "Steered": object(json!({"attempt": int("Which attempt was suspended or resumed")}), &[]),
    })
}

const STATES: [&str; 6] = ["running", "cancelling", "failing", "succeeded", "failed", "cancelled"];

fn runs() -> Value {
    let stage =
        json!({"type": "object", "properties": {"file": of("FileRef"), "dir": of("DirRef")}});
    let submission = object(
        json!({
            "source": text("The workflow document"),
            "params": json!({"type": "object", "additionalProperties": of("Value")}),
            "assets": json!({"type": "object", "additionalProperties": stage}),
            "binding": maybe(text("The binding document")),
            "strategy": maybe(text("`sovereignty`, `performance`, `cost` or weights")),
            "area": text("A collaborative area under whose rules it is done: its name, or its id"),
        }),
        &["binding", "strategy", "area"],
    );
    let facts = json!({
        "id": of("RunId"),
        "workflow": text("The workflow's name"),
        "by": text("The name of the person who submitted it; absent of the owner's"),
        "area": text("The id of the collaborative area under whose rules it is done; absent of a run of no area"),
        "state": json!({"enum": STATES}),
        "committed": int("Tasks committed"),
        "total": int("Tasks known so far"),
        "submitted_ms": of("UnixMs"),
        "ended_ms": maybe(of("UnixMs")),
    });
    let step = json!({
        "step": text("Its name"),
        "state": json!({"enum": ["waiting", "skipped", "open", "done"]}),
        "committed": int("Tasks committed"),
        "tasks": int("Tasks known"),
    });
    let mut run = facts.clone();
    run["detail"] = maybe(text("Why it failed"));
    run["steps"] = list(object(step, &[]));
    run["tasks"] = list(task());
    run["outputs"] = json!({"type": "object", "additionalProperties": of("Value")});
    let cost =
        json!({"currency": text("ISO 4217"), "claimed": of("Amount"), "earned": of("Amount")});
    run["costs"] = list(object(cost, &[]));
    let explained = json!({
        "step": text("The step's name"),
        "index": int("The map index"),
        "state": text("Where it stands"),
        "reasons": list(text("One sentence")),
    });
    let planned = json!({
        "step": text("The step's name"),
        "after": list(text("A step before it")),
        "tasks": maybe(int("How many tasks, when known before the run")),
        "estimate_ms": int("How long each task is taken to run: the question's figure, not a forecast"),
        "counts_inputs": json!({"type": "boolean", "description": "Whether the inputs are known, so that their transfer is counted"}),
        "candidates": list(text("A node that could take it, best first, or why one fell out")),
        "is_placeable": json!({"type": "boolean"}),
    });
    json!({
        "Document": object(json!({"source": text("The workflow document, YAML or JSON")}), &[]),
        "Checked": checked(),
        "Submission": submission,
        "Submitted": object(json!({"id": of("RunId")}), &[]),
        "RunSummary": object(facts, &["by", "area"]),
        "Runs": list(of("RunSummary")),
        "Run": object(run, &["by", "area"]),
        "Explanation": list(object(explained, &[])),
        "Plan": list(object(planned, &["tasks"])),
    })
}

/// What was found in a document.
fn checked() -> Value {
    let place = json!({
        "line": int("From 1"), "column": int("From 1"), "path": text("Keys that lead there, such as `steps.slope.in.dem`"),
        "problem": text("What is wrong"), "hint": maybe(text("What to do about it")),
    });
    let param = json!({
        "name": text("Its name"), "type": json!({"enum": ["bool", "int", "float", "text", "file", "dir", "list"]}),
        "description": maybe(text("For people")),
        "required": json!({"type": "boolean", "description": "Whether a run has to be given it"}),
    });
    let step = json!({
        "id": text("Its name"), "runtime": text("What runs it"),
        "mapped": json!({"type": "boolean", "description": "Whether it is many tasks"}),
        "after": list(text("A step that ends before it begins")),
    });
    let asset =
        json!({"path": text("As the document names it"), "directory": json!({"type": "boolean"})});
    object(
        json!({
            "valid": json!({"type": "boolean"}),
            "name": maybe(text("The workflow's name")),
            "problems": list(object(place, &[])),
            "params": list(object(param, &[])),
            "steps": list(object(step, &[])),
            "assets": list(object(asset, &[])),
            "blobs": list(object(json!({"digest": of("Digest"), "directory": json!({"type": "boolean"})}), &[])),
        }),
        &[],
    )
}

fn services() -> Value {
    let stage =
        json!({"type": "object", "properties": {"file": of("FileRef"), "dir": of("DirRef")}});
    let content = object(
        json!({
            "source": text("The service document"),
            "assets": json!({"type": "object", "additionalProperties": stage}),
            "binding": maybe(text("The binding document; the one step is called `replica`")),
            "strategy": maybe(text("`sovereignty`, `performance`, `cost` or weights")),
            "name": maybe(text("What the service is called, when not as its document says")),
        }),
        &["binding", "strategy", "name"],
    );
    let facts = json!({
        "name": text("Its name"),
        "description": maybe(text("What it is for")),
        "state": json!({"enum": ["running", "rolling", "degraded", "stopped", "idle", "removing"]}),
        "revision": int("The revision that is wanted"),
        "replicas": int("Replicas that are wanted"),
        "available": int("Replicas to which users are sent"),
        "runtime": text("What runs it"),
        "ports": json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        "deployed_ms": of("UnixMs"),
    });
    let mut service = facts.clone();
    service["access"] = json!({"description": "Who may connect besides the owner: `owner`, `realm`, or `{orgs: […]}`"});
    service["stable"] = maybe(int("The last revision that was seen to work"));
    service["term_ms"] = int("Length of each agreement");
    service["trouble"] = maybe(text("What is wrong"));
    service["finished"] =
        int("Replicas that ended by themselves and are not replaced, by the restart policy");
    service["last_word"] = maybe(object(
        json!({
            "run": of("RunId"),
            "node": maybe(text("Where it ran")),
            "end": {"description": "`done`, or `{failed: {class, exit_code, detail}}`"},
        }),
        &[],
    ));
    service["revisions"] = list(object(
        json!({"number": int("From 1"), "deployed_ms": of("UnixMs"), "digest": of("Digest")}),
        &[],
    ));
    service["replicas_now"] = list(replica());
    service["events"] = list(object(
        json!({
            "seq": int("Its number, from 0"),
            "at_ms": of("UnixMs"),
            "body": {"type": "object", "description": "`event` tells the kind"},
        }),
        &[],
    ));
    let cost =
        json!({"currency": text("ISO 4217"), "claimed": of("Amount"), "earned": of("Amount")});
    service["costs"] = list(object(cost, &[]));
    let deployed = json!({
        "name": text("The service"),
        "revision": int("The revision that is wanted now"),
        "is_new": json!({"type": "boolean", "description": "The same content deployed again is not"}),
    });
    json!({
        "ServiceContent": content,
        "Deployed": object(deployed, &[]),
        "Replicas": object(json!({"replicas": int("How many there should be")}), &[]),
        "Revision": object(json!({"revision": maybe(int("The one before when absent"))}), &["revision"]),
        "ServiceSummary": object(facts, &[]),
        "Services": list(of("ServiceSummary")),
        "Service": object(service, &[]),
    })
}

fn replica() -> Value {
    let states = [
        "waiting",
        "placed",
        "starting",
        "healthy",
        "unhealthy",
        "unreachable",
        "draining",
        "ending",
    ];
    object(
        json!({
            "run": of("RunId"),
            "revision": int("Its revision"),
            "state": json!({"enum": states}),
            "attempt": maybe(int("Number of the attempt under agreement")),
            "node": maybe(of("NodeId")),
            "org": maybe(of("OrgId")),
            "org_name": maybe(text("The organisation's name")),
            "started_ms": of("UnixMs"),
            "agreed_ms": maybe(of("UnixMs")),
            "reasons": list(text("Why it ends or waits")),
        }),
        &[],
    )
}

fn task() -> Value {
    object(
        json!({
            "step": text("The step's name"),
            "index": int("The map index"),
            "attempt": int("Number of the attempt; 0 before the first"),
            "org": maybe(of("OrgId")),
            "org_name": maybe(text("The organisation's name")),
            "node": maybe(of("NodeId")),
            "state": text("`pending`, `negotiating`, `compiling`, `running`, `suspended`, `committed`, or how it failed"),
            "started_ms": maybe(of("UnixMs")),
            "ended_ms": maybe(of("UnixMs")),
            "detail": maybe(text("What went wrong, or what is being compiled")),
        }),
        &[],
    )
}

fn ledger() -> Value {
    let lane = object(
        json!({
            "lane": int("Its number"),
            "attempt": text("`run/step.index#number`"),
            "state": json!({"enum": ["proposed", "active", "closed", "refused"]}),
            "claimed": of("Amount"),
            "earned": of("Amount"),
            "used": json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            "costs": json!({"type": "object", "description": "What each of them comes to at the agreed prices, without what is fixed or rounded", "additionalProperties": of("Amount")}),
            "agreed_ms": maybe(of("UnixMs")),
        }),
        &[],
    );
    let channel = object(
        json!({
            "channel": of("Digest"),
            "provider": of("NodeId"),
            "provider_org": maybe(text("Its organisation's name")),
            "consumer": of("NodeId"),
            "consumer_org": maybe(text("Its organisation's name")),
            "side": json!({"enum": ["provider", "consumer"]}),
            "state": json!({"enum": ["opening", "open", "fencing", "frozen"]}),
            "reason": maybe(text("Why nothing can be done with it")),
            "currency": text("Three letters of ISO 4217"),
            "claimed": of("Amount"),
            "earned": of("Amount"),
            "lanes": list(lane),
        }),
        &[],
    );
    let verification = json!({
        "verdict": json!({"enum": ["valid", "invalid", "equivocation", "valid_with_tail"]}),
        "channels": int("Channels that were read"),
        "receipts": int("Receipts in them"),
        "findings": list(text("What is wrong, and with which item")),
        "findings_omitted": int("How many more there are"),
    });
    json!({"Ledger": list(channel), "Verification": object(verification, &[])})
}

fn workspaces() -> Value {
    let named = |what: &str| json!({"type": "object", "description": what, "additionalProperties": {"type": "string"}});
    let about = || text("What it is for, in a line");
    let notes = || text("Anything, for people");
    let searches = || named("Filters by name");
    let workflows = || named("Workflow documents by name, right or not yet");
    let (version, changed) = (int("Which version it is, from 1"), of("UnixMs"));
    let content = json!({
        "about": about(), "notes": notes(), "searches": searches(), "workflows": workflows(),
        "resources": list(text("`AUTHOR/KEY`")),
    });
    let optional = ["about", "notes", "searches", "workflows", "resources"];
    let put = json!({
        "version": int("The version that was read; 0 to make a new one"),
        "workspace": object(content, &optional),
    });
    let summary = json!({
        "name": text("Its name"), "about": about(), "version": version, "changed_ms": changed,
        "resources": int("How many resources it has"), "searches": int("How many searches"),
        "workflows": int("How many drafts of workflows"),
    });
    let chosen = json!({
        "id": text("`AUTHOR/KEY`"), "name": maybe(text("Its name, when the catalogue has it")),
        "kind": maybe(text("Its kind, likewise")),
        "org_name": maybe(text("Its organisation's name, likewise")),
    });
    let view = json!({
        "name": text("Its name"), "version": version, "changed_ms": changed, "about": about(),
        "notes": notes(), "resources": list(object(chosen, &[])), "searches": searches(),
        "workflows": workflows(),
    });
    json!({
        "PutWorkspace": object(put, &["version"]),
        "Workspace": object(view, &[]),
        "Workspaces": list(object(summary, &[])),
    })
}
