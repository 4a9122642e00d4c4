#!/usr/bin/env python3
"""A second verifier of exported ledger bundles: verify.py FILE [--json]

Written from the format's description (the head of `accounting/src/bundle.rs`) with two common libraries, `cbor2` and `cryptography`,
and none of OpenCloud's code: what both verifiers say of a bundle does not hang on one implementation. The checks bear the
description's names (F1 to F3, C1 to C3, E1 to E3, rules 1 to 6, Q1 and Q2).

Exit code: 0 valid, 1 invalid, 2 equivocation, 3 valid with an unacknowledged tail, 64 wrong use or unreadable file.
"""
import hashlib
import json
import sys
import unicodedata

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

U32, U64, I64 = 2**32 - 1, 2**64 - 1, 2**63 - 1
ENTRY_MAX, QUOTE_MAX, ISSUER_MAX, CERT_MAX, DEPTH_MAX, FINDINGS_MAX = 16384, 4096, 256, 3600, 16, 1000
MANIFEST, CHANNEL, QUOTE, PROVIDER_LOG, CONSUMER_LOG, EVIDENCE, SEAL = 0, 1, 2, 3, 4, 5, 9
PROVIDER, CONSUMER = 0, 1
SIDES = ("provider", "consumer")
OPEN, AGREEMENT, RECEIPT, ACK, FENCE, CLOSE = 1, 2, 3, 4, 13, 15
FENCES_MAX = 1000
DIMENSIONS = ("cpu", "vcpu_alloc", "mem", "storage", "net_in", "net_out", "gpu", "fuel", "io", "energy", "requests",
              "set_up")
ACK_CODES = {1: "declined", 2: "terms", 3: "usage", 4: "time"}
REASONS = {1: "completed", 2: "failed", 3: "provider_fault", 4: "cancelled", 5: "no_ack", 6: "lost_lease", 7: "superseded"}
NO_HASH = bytes(32)
# Points of small order (their y, sign bit cleared): a key or nonce among them would let one signature fit many messages.
SMALL_ORDER = {bytes.fromhex(y) for y in (
    "00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")}


class Bad(Exception):
    """Something in the bundle is not right. `kind` is the word that reports use."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


class WrongChannel(Bad):
    """The id above a channel's entries is not that of its Open, which is as it was signed."""


def sha256(data):
    return hashlib.sha256(data).digest()


# ---- CBOR: the deterministic encoding only ----

def item_end(data, at, depth=0):
    """Where the CBOR item at `at` ends. Definite lengths, integers, strings, arrays, maps and simple values without payload."""
    if depth > DEPTH_MAX or at >= len(data):
        raise ValueError("too deep or cut off")
    major, info = data[at] >> 5, data[at] & 31
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
    if info > 27 or major == 6 or (major == 7 and info not in (20, 21, 22)) or at + 1 + size > len(data):
        raise ValueError("not plain CBOR")
    count = int.from_bytes(data[at + 1:at + 1 + size], "big") if size else info
    at += 1 + size
    if major in (2, 3):
        at += count
        if at > len(data):
            raise ValueError("cut off")
    elif major in (4, 5):
        for _ in range(count * (major - 3)):
            at = item_end(data, at, depth + 1)
    return at


def decode(data, longest):
    """A payload: one item, whose encoding is `data` again, with unsigned keys in every map."""
    if len(data) > longest:
        raise ValueError(f"{len(data)} bytes, at most {longest} are allowed")
    if item_end(data, 0) != len(data):
        raise ValueError("bytes are left over")
    value = cbor2.loads(data)
    check_keys(value)
    if cbor2.dumps(value, canonical=True) != data:
        raise ValueError("not the deterministic encoding")
    return value


def check_keys(value):
    for key in value if isinstance(value, dict) else ():
        uint(U64)(key)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_keys(item)


# ---- fields: each checker returns the value or raises ValueError ----

def uint(high, low=0):
    def check(value):
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{value!r} is no number from {low} to {high}")
        return value
    return check


def blob(size):
    def check(value):
        if type(value) is not bytes or (size is not None and len(value) != size):
            raise ValueError(f"expected {size or 'some'} bytes")
        return value
    return check


def text(longest):
    def check(value):
        if type(value) is not str or len(value.encode()) > longest:
            raise ValueError("no text, or too long")
        return value
    return check


def name(longest):
    def check(value):
        text(4 * longest)(value)
        turns = any("\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" or unicodedata.category(c) == "Cc" for c in value)
        if not value.strip() or len(value) > longest or turns:
            raise ValueError("a name that is empty, too long or does not print")
        return value
    return check


def currency(value):
    if type(value) is not str or len(value) != 3 or not all("A" <= c <= "Z" for c in value):
        raise ValueError("no currency")
    return value


def list_of(check, most=U64, least=0):
    def check_list(value):
        if type(value) is not list or not least <= len(value) <= most:
            raise ValueError("no list, or of a wrong length")
        return [check(item) for item in value]
    return check_list


def ascending(check, key, most=U64, least=0):
    def check_list(value):
        items = list_of(check, most, least)(value)
        if any(a[key] >= b[key] for a, b in zip(items, items[1:])):
            raise ValueError("the list does not ascend")
        return items
    return check_list


def fields(*checks, optional=()):
    """A map whose keys are 1, 2, 3…, each checked; the keys in `optional` may be missing."""
    def check(value):
        if type(value) is not dict or set(value) - set(range(1, len(checks) + 1)):
            raise ValueError("no map, or one with unknown keys")
        if any(key not in value and key not in optional for key in range(1, len(checks) + 1)):
            raise ValueError("a key is missing")
        return {key: checks[key - 1](item) for key, item in value.items()}
    return check


def counters(value):
    counts = list_of(uint(U64), len(DIMENSIONS))(value)
    if counts and counts[-1] == 0:
        raise ValueError("counters end with a zero")
    return counts + [0] * (len(DIMENSIONS) - len(counts))


u32, u64, key32, id16 = uint(U32), uint(U64), blob(32), blob(16)
amount, one, nine, dimension = uint(I64, -I64 - 1), uint(1, 1), uint(9, 9), uint(len(DIMENSIONS) - 1)


def reserved(value):
    raise ValueError(f"{value!r} at a key that this version does not use")


def short_cert(value):
    if len(blob(None)(value)) > 4096:
        raise ValueError("a certificate of more than 4096 bytes")
    return value


WORK = fields(id16, u32, u32, u32)
BODIES = {
    OPEN: fields(key32, key32, short_cert, short_cert, currency, nine, id16, uint(1)),
    AGREEMENT: fields(u64, key32, WORK, key32, fields(u64, u64, u64, uint(U64, 1), optional=(4,)), amount, u64, one, uint(2)),
    RECEIPT: fields(u64, u64, reserved, u64, counters, amount, uint(7, 1), optional=(3, 7)),
    ACK: fields(amount, ascending(fields(u64, u64, uint(4, 1)), 1, 256, 1), optional=(2,)),
    FENCE: fields(id16, u32, u64, key32),
    CLOSE: fields(u64, uint(7, 1), key32, u64, amount),
}
HEADER = fields(u64, key32, uint(1), u32, uint(U64, 1), key32, u64, key32, u64, lambda body: body)
# No negative amount or price, every `per` and the volume at least 1: the bounds of C3.
money = uint(I64)
PRICES = ascending(fields(dimension, uint(2), money, uint(U64, 1)), 1)
METERS = ascending(fields(dimension, text(64)), 1)
OFFER = fields(id16, key32, key32, key32, currency, nine, PRICES, money, money, uint(86_400_000), METERS, uint(3_600_000, 1000),
               uint(86_400_000), money, money, uint(31_622_400), u64, uint(U64, 1), id16, key32, id16)
CERT = fields(key32, name(64), name(64), key32, u32, list_of(name(32), 8), list_of(id16, 16), u64, u64, u64, blob(None), list_of(blob(None), 3),
              optional={11, 12})
ISSUER = fields(key32, key32, u64, u64, u64)
SUCCESSION = fields(key32, key32, key32, u32, u64)
BUNDLE_HEAD = fields(one, u64, key32, u64)


# ---- envelopes ----

class Envelope:
    def __init__(self, data, typ, longest):
        parts = decode(data, longest)
        if type(parts) is not list or len(parts) != 4 or parts[1] != {}:
            raise ValueError("not a COSE_Sign1 with an empty unprotected header")
        self.protected, self.payload, self.signature = blob(None)(parts[0]), blob(None)(parts[2]), blob(None)(parts[3])
        header = decode(self.protected, 256)
        if type(header) is not dict or set(header) != {1, 4, 16} or header[1] != -19 or header[16] != typ:
            raise ValueError(f"not signed as {typ}")
        self.kid, self.hash = blob(8)(header[4]), sha256(data)

    def verify(self, key):
        weak = {bytes(p[:31]) + bytes([p[31] & 0x7F]) for p in (key, self.signature[:32]) if len(p) == 32} & SMALL_ORDER
        if self.kid != sha256(key)[:8] or len(self.signature) != 64 or weak:
            raise ValueError("the signature does not verify")
        message = cbor2.dumps(["Signature1", self.protected, b"", self.payload])
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, message)
        except InvalidSignature:
            raise ValueError("the signature does not verify") from None


class Entry(Envelope):
    """An entry of a log, taken apart; its signature is not checked yet."""

    def __init__(self, data):
        super().__init__(data, "oc-entry", ENTRY_MAX)
        head = HEADER(decode(self.payload, ENTRY_MAX))
        (self.type, self.channel, self.writer, self.incarnation, self.seq, self.prev, self.peer_seq, self.peer_head, self.wall_ms,
         body) = (head[key] for key in range(1, 11))
        if self.type not in BODIES:
            raise ValueError(f"record type {self.type} is not of this version")
        self.body = BODIES[self.type](body)
        del head[2]
        self.opens = sha256(cbor2.dumps({**head, 10: body}, canonical=True))

    def place(self):
        return self.writer, self.incarnation, self.seq


def read_cert(data, node):
    """C2."""
    envelope = Envelope(data, "oc-cert", CERT_MAX)
    cert = CERT(decode(envelope.payload, CERT_MAX))
    if not 0 < cert[9] - cert[8] <= 30 * 24 * 3600 * 1000:
        raise ValueError("a certificate of more than 30 days or none")
    envelope.verify(issuer_key(cert) if 11 in cert else cert[1])
    if cert[4] != node:
        raise ValueError("the certificate is another node's")
    check_successions(cert)
    return cert


def check_successions(cert):
    """C2: keys that the node had before name the one after each, the newest first."""
    new, generation, seen = cert[4], cert[5], {cert[4]}
    if cert.get(12) == []:
        raise ValueError("an empty list of successions")
    for data in cert.get(12, []):
        envelope = Envelope(data, "oc-succession", 256)
        word = SUCCESSION(decode(envelope.payload, 256))
        envelope.verify(word[1])
        if word[2] != new or word[3] != cert[1] or word[4] != generation or generation < 2 or word[1] in seen:
            raise ValueError("the successions do not lead to the node's key")
        new, generation = word[1], generation - 1
        seen.add(new)


def issuer_key(cert):
    """C2: the key that the organisation's root named to sign certificates within its own time."""
    envelope = Envelope(cert[11], "oc-issuer", ISSUER_MAX)
    issuer = ISSUER(decode(envelope.payload, ISSUER_MAX))
    if not 0 < issuer[4] - issuer[3] <= 90 * 24 * 3600 * 1000:
        raise ValueError("an issuer of more than 90 days or none")
    envelope.verify(issuer[1])
    if issuer[1] != cert[1] or not issuer[3] <= cert[8] < cert[9] <= issuer[4]:
        raise ValueError("the issuer is another organisation's, or was not in force all the time")
    return issuer[2]


def read_quote(data, provider=None):
    """C3; without a provider it is by the one that it names."""
    envelope = Envelope(data, "oc-quote", QUOTE_MAX)
    quote = OFFER(decode(envelope.payload, QUOTE_MAX))
    provider = provider or quote[2]
    if quote[2] != provider or quote[12] > quote[13]:
        raise ValueError("another provider's quote, or an interval above the timeout")
    envelope.verify(provider)
    return envelope.hash, quote


# ---- one channel ----

class Lane:
    def __init__(self, terms, seq):
        self.terms, self.proposed_seq, self.answer, self.refused = terms, seq, None, False
        self.lane_seq = self.acked_lane_seq = self.elapsed_ms = self.claimed = self.earned = 0
        self.counters, self.last_receipt, self.is_final = [0] * len(DIMENSIONS), NO_HASH, False
        self.reason, self.end_acked, self.exception, self.pending = None, False, None, []

    def is_unsettled(self):
        return self.answer is None or self.exception is not None or bool(self.pending)

    def state(self):
        if self.refused:
            return "refused"
        if self.reason is not None:
            return "closed" if self.end_acked else "closing"
        return "proposed" if self.answer is None else "closing" if self.is_final else "active"

    def report(self):
        work = self.terms[3]
        return {"lane": self.terms[1], "run": work[1].hex(), "step": work[2], "index": work[3], "attempt": work[4],
                "spec": "blake3:" + self.terms[4].hex(), "state": self.state(), "receipts": self.lane_seq, "elapsed_ms": self.elapsed_ms,
                "counters": {d: n for d, n in zip(DIMENSIONS, self.counters) if n}, "claimed_nano": self.claimed,
                "earned_nano": self.earned, "reason": REASONS.get(self.reason), "exception": ACK_CODES.get(self.exception)}


def rule(holds, message):
    if not holds:
        raise Bad("rule", message)


def rated(quote, counts, most, elapsed_ms=None):
    """The amount of a receipt; with `elapsed_ms` that of a close."""
    total, step = quote[8], quote[10]
    for row in quote[7]:
        count = counts[row[1]]
        if elapsed_ms is not None and row[2] == 0 and step > 1 and elapsed_ms % step:
            count = min(U64, count * (-(-elapsed_ms // step) * step) // elapsed_ms)
        total += count * row[3] // row[4]
    return min(most, total if elapsed_ms is None else max(quote[9], total))


def cap(terms, index, elapsed_ms):
    """The largest count of a dimension after so long, by the caps of the agreement."""
    cpu_milli, memory, disk = (terms[5][key] for key in (1, 2, 3))
    if index == 11:
        return min(U64, (elapsed_ms + 1000) * 1100)
    devices = terms[5].get(4, 0)
    grants = {0: (cpu_milli, 1), 1: (cpu_milli, 1), 2: (-(-memory // 1024), 1000), 3: (-(-disk // 1024), 1000),
              6: (min(U64, devices * 1000), 1)}
    if index not in grants:
        return U64
    grant, divisor = grants[index]
    return min(U64, grant * (min(elapsed_ms, terms[7]) + 1000) * 11 // (10 * divisor))


class Channel:
    def __init__(self, first, channel_id):
        """C1 and C2, but for the signature, which E1 checks with the others."""
        self.id, self.open = channel_id, first.body
        rule(first.type == OPEN and first.writer == PROVIDER and self.open[8] == PROVIDER, "not the provider's open")
        self.nodes = (self.open[1], self.open[2])
        try:
            self.certs = [read_cert(self.open[3 + side], self.nodes[side]) for side in (PROVIDER, CONSUMER)]
        except Exception as error:
            raise Bad("rule", f"a certificate is not right: {error}") from None
        rule(self.nodes[0] != self.nodes[1], "one node on both sides")
        rule(first.opens == first.channel, "the channel's id is not the hash of its open")
        if first.channel != channel_id:
            first.verify(self.nodes[PROVIDER])
            raise WrongChannel("rule", "the channel's id is not that of its open")
        self.quotes, self.used, self.lanes = {}, {}, {}
        self.hashes, self.linked = ([], []), [0, 0]
        # Per log: the incarnation of its next entry, where the other log's fence that began it stands, and tokens of its own fences.
        self.incarnation, self.fenced_at, self.tokens = [0, 0], [0, 0], (set(), set())
        self.acked_seq = self.claimed = self.earned = self.receipts = 0

    def take(self, entry, side):
        """E2, E3 and the rule of the type; changes nothing unless all hold."""
        own, peer = self.hashes[side], self.hashes[1 - side]
        rule(entry.writer == side, "an entry in the other side's log")
        rule(entry.channel == self.id, "an entry of another channel")
        rule(entry.incarnation == self.incarnation[side], "another incarnation than the newest fence began")
        rule(entry.seq == len(own) + 1, f"seq {entry.seq} where {len(own) + 1} is due")
        rule(entry.prev == (own[-1] if own else NO_HASH), "prev is not the hash of the previous entry")
        rule(self.linked[side] <= entry.peer_seq, "the peer link goes back")
        rule(self.fenced_at[side] <= entry.peer_seq, "the peer link goes to before the fence that began the incarnation")
        rule(entry.peer_seq <= len(peer), "the peer link names an entry that does not exist")
        rule(entry.peer_head == (peer[entry.peer_seq - 1] if entry.peer_seq else NO_HASH), "peer_head is not that entry's hash")
        rule((entry.type == OPEN) == (entry.seq == 1), "an open stands at seq 1, and only there")
        rule(entry.type in (OPEN, FENCE) or (entry.type == ACK) == (side == CONSUMER), "the other side writes entries of this type")
        {OPEN: self.take_open, AGREEMENT: self.take_agreement, RECEIPT: self.take_receipt, ACK: self.take_ack,
         FENCE: self.take_fence, CLOSE: self.take_close}[entry.type](entry, entry.body)
        own.append(entry.hash)
        self.linked[side] = entry.peer_seq

    def take_open(self, entry, body):
        rule(body == self.open and entry.peer_seq == entry.writer, "the two opens differ, or the consumer's came first")
        self.acked_seq = max(self.acked_seq, entry.peer_seq)

    def take_agreement(self, entry, body):
        rule(entry.peer_seq >= 1, "an agreement before the consumer's open")
        rule(body[1] > max(self.lanes, default=0), "lane numbers do not ascend")
        rule(body[6] >= 0, "a negative maximum")
        quote = self.quotes.get(body[2])
        rule(quote is not None, "the quote is not in the bundle")
        expected = (self.nodes[0], self.certs[0][1], self.nodes[1], self.open[5], body[4])
        rule((quote[2], quote[3], quote[4], quote[5], quote[20]) == expected, "the quote is for something else")
        rule(self.used.get(body[2], 0) < quote[18], "the quote's volume is used up")
        rule(entry.wall_ms <= quote[17], "the quote had expired")
        self.used[body[2]] = self.used.get(body[2], 0) + 1
        self.lanes[body[1]] = Lane(body, entry.seq)

    def take_fence(self, entry, body):
        side, other = entry.writer, 1 - entry.writer
        rule(entry.peer_seq >= 1, "a fence before the other side's open")
        rule((body[3], body[4]) == (entry.peer_seq, entry.peer_head), "a fence at another entry than its peer link")
        rule(len(self.hashes[other]) == body[3], "the fenced log goes on in its old incarnation")
        rule(body[2] == min(self.incarnation[other] + 1, U32), "a fence that does not begin the next incarnation")
        rule(body[1] not in self.tokens[side] and len(self.tokens[side]) < FENCES_MAX, "a second fence for one request, or too many")
        self.tokens[side].add(body[1])
        self.incarnation[other], self.fenced_at[other] = body[2], entry.seq

    def running(self, number):
        lane = self.lanes.get(number)
        rule(lane is not None, f"there is no lane {number}")
        rule(lane.reason is None, f"lane {number} is closed")
        return lane

    def claim(self, lane, seq, lane_seq, value):
        total = self.claimed - lane.claimed + value
        rule(-I64 - 1 <= total <= I64, "the sum of the claims leaves 64 bits")
        self.claimed, lane.claimed = total, value
        lane.pending.append((seq, lane_seq, value))

    def take_receipt(self, entry, body):
        lane = self.running(body[1])
        rule(lane.answer is not None and not lane.refused and lane.answer <= entry.peer_seq, "a receipt before the consumer agreed")
        rule(not lane.is_final, "a receipt after the final one")
        rule(body[2] == lane.lane_seq + 1, "lane_seq has a gap")
        elapsed_ms, counts = lane.elapsed_ms + body[4], body[5]
        rule(elapsed_ms <= U64, "the periods leave 64 bits")
        for index, (now, before) in enumerate(zip(counts, lane.counters)):
            rule(now >= before, f"the counter {DIMENSIONS[index]} falls")
            rule(now <= cap(lane.terms, index, elapsed_ms), f"the counter {DIMENSIONS[index]} is above its cap")
        rule(body[6] == rated(self.quotes[lane.terms[2]], counts, lane.terms[6]), "the amount is not that of the counters")
        self.claim(lane, entry.seq, body[2], body[6])
        self.receipts += 1
        lane.lane_seq, lane.elapsed_ms, lane.counters = body[2], elapsed_ms, counts
        lane.last_receipt, lane.is_final = entry.hash, bool(body.get(7, 0) & 1)

    def take_close(self, entry, body):
        lane = self.running(body[1])
        rule((body[3], body[4]) == (lane.last_receipt, lane.lane_seq), "the close names another receipt than the newest")
        due = 0
        if body[2] != 3 and lane.lane_seq:
            due = rated(self.quotes[lane.terms[2]], lane.counters, lane.terms[6], lane.elapsed_ms)
        rule(body[5] == due, "the final amount is not that of the counters")
        self.claim(lane, entry.seq, None, due)
        lane.reason = body[2]

    def take_ack(self, entry, body):
        covered = entry.peer_seq
        excepted = {item[1]: item for item in body.get(2, ())}
        for number, item in excepted.items():
            self.check_exception(self.lanes.get(number), item[2], covered)
        unsettled = [number for number in sorted(self.lanes) if self.lanes[number].is_unsettled()]
        effects, total = [], self.earned
        for number in unsettled + [number for number in excepted if number not in unsettled]:
            lane, item = self.lanes[number], excepted.get(number)
            if lane.proposed_seq > covered:
                continue
            refuses = lane.answer is None and item is not None
            taken = 0
            for seq, lane_seq, _ in lane.pending:
                within = refuses or item is None or (lane_seq is not None and lane_seq <= item[2])
                if seq > covered or not within:
                    break
                taken += 1
            earned = lane.pending[taken - 1][2] if taken else lane.earned
            total += earned - lane.earned
            rule(-I64 - 1 <= total <= I64, "the sum of what is earned leaves 64 bits")
            effects.append((lane, item, refuses, taken, earned))
        rule(total == body[1], "accepted_total is not the sum over the lanes")
        for lane, item, refuses, taken, earned in effects:
            if lane.answer is None:
                lane.answer, lane.refused = entry.seq, refuses
            for _, lane_seq, _ in lane.pending[:taken]:
                if lane_seq is None:
                    lane.end_acked = True
                else:
                    lane.acked_lane_seq = lane_seq
            del lane.pending[:taken]
            lane.earned, lane.exception = earned, item[3] if item is not None and not refuses else None
        self.earned, self.acked_seq = total, covered

    @staticmethod
    def check_exception(lane, last_ok, covered):
        rule(lane is not None and lane.proposed_seq <= covered, "an exception for an unknown lane")
        rule(not lane.refused and not lane.end_acked, "an exception for a lane that is settled for good")
        rule(lane.answer is not None or last_ok == 0, "an exception that refuses a lane accepts receipts of it")
        later = any(lane_seq == last_ok and seq <= covered for seq, lane_seq, _ in lane.pending)
        rule(last_ok == lane.acked_lane_seq or (last_ok > lane.acked_lane_seq and later), "an exception with a wrong last_ok_lane_seq")

    def report(self):
        def party(side):
            cert, log = self.certs[side], self.hashes[side]
            return {"node": base58(b"\x00\x24\x08\x01\x12\x20" + cert[4]), "name": cert[3],
                    "org": "did:key:z" + base58(b"\xed\x01" + cert[1]), "org_name": cert[2],
                    "head": {"seq": len(log), "hash": (log[-1] if log else NO_HASH).hex()}}
        lanes = [self.lanes[number] for number in sorted(self.lanes)]
        return {"channel": self.id.hex(), "provider": party(PROVIDER), "consumer": party(CONSUMER), "currency": self.open[5],
                "receipts": self.receipts, "claimed_nano": self.claimed, "earned_nano": self.earned,
                "has_tail": self.acked_seq < len(self.hashes[PROVIDER]) or any(lane.is_unsettled() for lane in lanes),
                "lanes": [lane.report() for lane in lanes]}


def base58(data):
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        digits = alphabet[rest] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


# ---- the bundle ----

# How likely a problem is there only because of another.
REMOTENESS = {"no_open": 1, "rule": 1, "channel_count": 2, "seal": 3}


class Report:
    def __init__(self):
        self.manifest, self.channels, self.findings, self.omitted, self.equivocation = None, [], [], 0, False

    def find(self, item, kind, message, channel=None, side=None, seq=None):
        self.equivocation |= kind == "equivocation"
        if len(self.findings) >= FINDINGS_MAX:
            self.omitted += 1
            return
        self.findings.append({"item": item, "channel": channel and channel.hex(), "writer": None if side is None else SIDES[side],
                              "seq": seq, "problem": {"kind": kind, "message": str(message)}})

    def verdict(self):
        # An item that cannot be read or is not what was signed is the cause of much else, also in items before it.
        self.findings.sort(key=lambda finding: (REMOTENESS.get(finding["problem"]["kind"], 0), finding["item"]))
        if self.equivocation:
            return "equivocation"
        if self.findings:
            return "invalid"
        return "valid_with_tail" if any(channel["has_tail"] for channel in self.channels) else "valid"


class Section:
    """The items of one channel, each with its index in the bundle."""

    def __init__(self, item, channel_id):
        self.item, self.id, self.quotes, self.logs, self.evidence = item, channel_id, [], ([], []), []

    def check(self, report):
        channel = self.channel(report)
        for item, data in self.quotes:
            try:
                digest, quote = read_quote(data, channel and channel.nodes[PROVIDER])
                if channel:
                    channel.quotes.setdefault(digest, quote)
            except Exception as error:
                report.find(item, "quote", error, self.id)
        if channel:
            self.merge(channel, report)
            self.find_equivocations(channel, report)
            report.channels.append(channel.report())

    def channel(self, report):
        if not self.logs[PROVIDER]:
            return report.find(self.item, "no_open", "the provider's open is missing", self.id)
        item, data = self.logs[PROVIDER][0]
        try:
            return Channel(Entry(data), self.id)
        except Exception as error:
            # Below an Open as it was signed, it is the id above it that was changed.
            item = self.item if isinstance(error, WrongChannel) else item
            return report.find(item, getattr(error, "kind", "form"), error, self.id, PROVIDER, 1)

    def merge(self, channel, report):
        """Both logs in step: an entry not before the one its peer link names. A log ends at its first wrong entry."""
        index, waiting, ended, faulty = [0, 0], [None, None], [False, False], [False, False]

        def fault(side, kind, message):
            ended[side] = faulty[side] = True
            report.find(self.logs[side][index[side]][0], kind, message, self.id, side, index[side] + 1)

        def apply(side):
            entry, waiting[side] = waiting[side], None
            try:
                channel.take(entry, side)
                index[side] += 1
            except Bad as bad:
                fault(side, bad.kind, bad)

        moved = True
        while moved or not all(ended[side] or waiting[side] for side in (PROVIDER, CONSUMER)):
            moved = False
            for side in (PROVIDER, CONSUMER):
                if waiting[side] is None and not ended[side]:
                    if index[side] == len(self.logs[side]):
                        ended[side] = True
                    else:
                        try:
                            entry = Entry(self.logs[side][index[side]][1])
                            entry.verify(channel.nodes[side])
                            waiting[side] = entry
                        except Exception as error:
                            fault(side, "form", error)
                if waiting[side] and waiting[side].peer_seq <= len(channel.hashes[1 - side]):
                    moved = True
                    apply(side)
        for side in (PROVIDER, CONSUMER):
            # Beyond a log that ended in good order the link names nothing.
            if waiting[side] and not faulty[1 - side]:
                apply(side)

    def find_equivocations(self, channel, report):
        """Q1 and Q2."""
        seen = {}
        entries = [(pair, False) for log in self.logs for pair in log] + [(pair, True) for pair in self.evidence]
        for (item, data), is_evidence in entries:
            try:
                entry = Entry(data)
            except Exception:
                entry = None
            if entry is None or entry.channel != self.id:
                if is_evidence:
                    report.find(item, "evidence", "no entry of this channel", self.id)
                continue
            others = seen.setdefault(entry.place(), [])
            clash = next((other for other in others if other.hash != entry.hash and self.signed(other, channel)
                          and self.signed(entry, channel)), None)
            if clash is not None:
                message = f"entries {clash.hash.hex()} and {entry.hash.hex()} are signed for the same place"
                report.find(item, "equivocation", message, self.id, entry.writer, entry.seq)
            elif is_evidence:
                report.find(item, "evidence", "the evidence contradicts no entry", self.id)
            others.append(entry)

    @staticmethod
    def signed(entry, channel):
        try:
            entry.verify(channel.nodes[entry.writer])
        except ValueError:
            return False
        return True


def split(data):
    """F1: the items before the first that cannot be read, and whether that is all."""
    items, at = [], 0
    while at < len(data):
        try:
            end = item_end(data, at)
            kind, value = decode(data[at:end], len(data))
            if type(kind) is not int or kind not in (0, 1, 2, 3, 4, 5, 9) or (type(value) is not bytes and kind != MANIFEST):
                raise ValueError("no item of a bundle")
        except Exception:
            return items, False
        items.append((kind, value, at))
        at = end
    return items, True


def verify(data):
    report = Report()
    items, is_whole = split(data)
    if not is_whole:
        report.find(len(items), "framing", "not an item of a bundle: nothing from here on can be read")
    try:
        if not items or items[0][0] != MANIFEST:
            raise ValueError("the bundle does not begin with a manifest")
        head = BUNDLE_HEAD(items[0][1])
        report.manifest = {"exported_ms": head[2], "by": base58(b"\x00\x24\x08\x01\x12\x20" + head[3])}
        found = sum(kind == CHANNEL for kind, _, _ in items)
        if head[4] != found:
            report.find(0, "channel_count", f"the manifest states {head[4]} channels, there are {found}")
    except Exception as error:
        report.find(0, "manifest", error)
    if not items or items[-1][0] != SEAL or items[-1][1] != sha256(data[:items[-1][2]]):
        report.find(max(len(items) - 1, 0), "seal", "the seal is missing or does not fit: the file was cut or changed")
    seen = set()
    for section in sections(items, report):
        if section.id in seen:
            report.find(section.item, "channel_twice", "the channel stands in the bundle twice", section.id)
        seen.add(section.id)
        section.check(report)
    return report


def sections(items, report):
    """F3."""
    found, before = [], MANIFEST
    for index, (kind, value, _) in enumerate(items):
        placed = {MANIFEST: index == 0, SEAL: index + 1 == len(items), CHANNEL: True}.get(kind, MANIFEST != before <= kind)
        if not placed:
            report.find(index, "order", "the item stands at the wrong place")
        before = kind
        if kind == CHANNEL and len(value) != 32:
            report.find(index, "channel_id", "a channel's id has 32 bytes")
        elif kind == CHANNEL:
            found.append(Section(index, value))
        elif found and kind in (QUOTE, PROVIDER_LOG, CONSUMER_LOG, EVIDENCE):
            section = found[-1]
            {QUOTE: section.quotes, PROVIDER_LOG: section.logs[0], CONSUMER_LOG: section.logs[1],
             EVIDENCE: section.evidence}[kind].append((index, value))
    return found


def units(nano):
    sign, (whole, part) = "-" if nano < 0 else "", divmod(abs(nano), 10**9)
    return f"{sign}{whole}.{(f'{part:09}'.rstrip('0')).ljust(2, '0')}"


def main(args):
    files = [arg for arg in args if arg != "--json"]
    if len(files) != 1 or files[0].startswith("-"):
        print("usage: verify.py FILE [--json]", file=sys.stderr)
        return 64
    try:
        with open(files[0], "rb") as file:
            data = file.read()
    except OSError as error:
        print(f"verify.py: {files[0]}: {error.strerror}", file=sys.stderr)
        return 64
    report = verify(data)
    verdict = report.verdict()
    if "--json" in args:
        print(json.dumps({"verdict": verdict, "manifest": report.manifest, "channels": report.channels, "findings": report.findings,
                          "findings_omitted": report.omitted}, indent=1))
    else:
        for c in report.channels:
            print(f"{c['provider']['org_name']}/{c['provider']['name']} -> {c['consumer']['org_name']}/{c['consumer']['name']}: "
                  f"{c['receipts']} receipts in {len(c['lanes'])} lanes, claimed {units(c['claimed_nano'])} {c['currency']}, "
                  f"earned {units(c['earned_nano'])} {c['currency']}")
        for f in report.findings:
            place = f", {f['writer']} log entry {f['seq']}" if f["writer"] else ""
            print(f"item {f['item']}{place}: {f['problem']['message']}")
        print(verdict.replace("_", " "))
    return {"valid": 0, "invalid": 1, "equivocation": 2, "valid_with_tail": 3}[verdict]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
