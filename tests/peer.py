#!/usr/bin/env python3
"""A berkeleyd slave, written from PROTOCOL.md (version 1) alone. standing_peer.py makes a node of it that can be master.

It joins a master among its peers, answers its requests, applies its corrections and leaves after a given number of them.
Every event is one JSON object on one line of standard output.
"""

import argparse
import ipaddress
import json
import math
import secrets
import socket
import struct
import sys
import time
from collections import namedtuple

from peer_keys import Dropped, Guard

MAGIC = b"BK"
VERSION = 1
REQUEST, RESPONSE, CORRECTION, ACKNOWLEDGEMENT, JOIN, LEAVE, ANNOUNCE, CLAIM, REFUSAL = range(1, 10)
STEPPED, SLEWED, REFUSED = 1, 2, 3
OUTCOMES = {STEPPED: "stepped", SLEWED: "slewed", REFUSED: "refused"}
AUTHENTICATED = 1 << 0  # header.flags
SYNCHRONISED = 1 << 1  # response_flags
TRAILER_SIZE = 40
MAX_ENTRIES = 24
LIMIT = 2**62 - 1
NOT_KNOWN = 2**63 - 1
LATE_NOT_KNOWN = 2**32 - 1  # t3_late: these stamps are taken in user space, and nobody tells when a frame left
PPT = 10**12
SECOND = 10**9
MAX_SLEW_PPT = 500 * 10**6
MAX_REFERENCE_DISTANCE = 4 * SECOND
# Timers, in seconds.
FIRST_JOIN_DELAY, LAST_JOIN_DELAY, JOIN_SPACING, LEAST_SILENCE = 0.1, 1.0, 0.1, 1.0
SILENT_HEARTBEATS = 4
ALIVE_HEARTBEATS, REFUSAL_SPACING, SUCCESSORS = 3, 0.005, 8
SHORTEST_HEARTBEAT = 0.1
TERM_LEAP = 65536
WANDER = 2e-8

RANGES = {
    "any": lambda value: True,
    "term": lambda value: value <= 2**48,
    "identity": lambda value: value != 0,
    "local": lambda value: 0 <= value <= LIMIT,
    "span": lambda value: -LIMIT <= value <= LIMIT,
    "interval": lambda value: 0 < value <= LIMIT,
    "heartbeat": lambda value: 10 <= value <= 100,
    "bound": lambda value: 0 <= value <= LIMIT or value == NOT_KNOWN,
    "rate": lambda value: -(10**11) <= value <= 10**11,
    "outcome": lambda value: value in OUTCOMES,
    "merit": lambda value: value <= 4,
    "merit, not 0": lambda value: 1 <= value <= 4,
}


class Layout:
    """A fixed run of fields: how they are packed, what they are called and which values they may have."""

    def __init__(self, name, form, **kinds):
        self.struct = struct.Struct(form)
        self.size = self.struct.size
        self.record = namedtuple(name, kinds)
        self._checks = [RANGES[kind] for kind in kinds.values()]

    def unpack(self, data, offset=0):
        return self.record._make(self.struct.unpack_from(data, offset))

    def valid(self, record):
        return all(check(value) for check, value in zip(self._checks, record))


HEADER = Layout("Header", ">2sBBHHIIQQQ", magic="any", version="any", type="any", flags="any", length="any",
                domain="any", round="any", term="term", sender="identity", incarnation="identity")
ENTRY = Layout("Entry", ">QQqqqqII", node="any", node_incarnation="any", reference="local", correction="span",
               rate="rate", error_bound="bound", rate_error="any", adjustment="any")
BODIES = {
    REQUEST: Layout("Request", ">q72x", t1="local"),
    RESPONSE: Layout("Response", ">7q2IqIH2x", t1="local", t2="local", t3="local", ahead="span", slew="span",
                     rate="rate", error_bound="bound", adjustment="any", applied_round="any", previous_t1="any",
                     t3_late="any", response_flags="any"),
    CORRECTION: Layout("Correction", ">HH4xqq", count="any", correction_flags="any", previous_t1="any",
                       previous_t4="any"),
    ACKNOWLEDGEMENT: Layout("Acknowledgement", ">IB3x", adjustment="any", outcome="outcome"),
    JOIN: Layout("Join", ">iHBxQQQQI36x", priority="any", join_flags="any", merit="merit", master="any",
                 master_incarnation="any", corrected_term="term", corrected_master="any", rate_error="any"),
    LEAVE: Layout("Leave", ">Q", successor="any"),
    ANNOUNCE: Layout("Announce", ">qiBBH8Q", interval="interval", priority="any", merit="merit, not 0",
                     heartbeat="heartbeat", members="any",
                     **{"successor_%d" % number: "any" for number in range(1, SUCCESSORS + 1)}),
    CLAIM: Layout("Claim", ">iBxH", priority="any", merit="merit, not 0", claim_flags="any"),
    REFUSAL: Layout("Refusal", ">Q", master="any"),
}

Frame = namedtuple("Frame", "header body entries trailer")
Master = namedtuple("Master", "node incarnation address")
HANDOVER = 1 << 0  # claim_flags
FOR_ONE = (REQUEST, RESPONSE, ACKNOWLEDGEMENT, REFUSAL)  # a trailer has to name whom they are for


def encode(kind, domain, round_, term, sender, incarnation, *values):
    """The bytes of a frame without entries and trailer."""
    layout = BODIES[kind]
    header = HEADER.struct.pack(MAGIC, VERSION, kind, 0, HEADER.size + layout.size, domain, round_, term, sender,
                                incarnation)
    return header + layout.struct.pack(*values)


def decode(data, domain, guard=None):
    """The frame in a datagram, checked in the order of section 6; raises Dropped. `guard` holds the keys, if there are any."""
    if len(data) >= 12 and data[:2] == MAGIC and int.from_bytes(data[8:12], "big") != domain:
        raise Dropped("other_domain")
    if len(data) < HEADER.size:
        raise Dropped("too_short")
    header = HEADER.unpack(data)
    if header.magic != MAGIC:
        raise Dropped("magic")
    if header.version != VERSION:
        raise Dropped("version")
    trailer = guard.check(data) if guard else None
    layout = BODIES.get(header.type)
    if layout is None:
        raise Dropped("type")
    first_entry = HEADER.size + layout.size
    if header.length != len(data) or len(data) < first_entry:
        raise Dropped("length")
    body = layout.unpack(data, HEADER.size)
    count = body.count if header.type == CORRECTION else 0
    end = first_entry + count * ENTRY.size
    authenticated = header.flags & AUTHENTICATED
    if len(data) != end + (TRAILER_SIZE if authenticated else 0):
        raise Dropped("length")
    if header.type == CORRECTION and not 1 <= count <= MAX_ENTRIES:
        raise Dropped("count")
    if authenticated and not guard:
        raise Dropped("authenticated")
    entries = [ENTRY.unpack(data, offset) for offset in range(first_entry, end, ENTRY.size)]
    if not (HEADER.valid(header) and layout.valid(body) and all(map(ENTRY.valid, entries))):
        raise Dropped("out_of_range")
    return Frame(header, body, entries, trailer)


class LocalClock:
    """CLOCK_MONOTONIC_RAW, made to run fast by `drift_ppt` from now on."""

    def __init__(self, drift_ppt=0):
        self._drift_ppt = drift_ppt
        self._start = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)

    def now(self):
        raw = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        return raw + (raw - self._start) * self._drift_ppt // PPT

    def with_system(self):
        """(local time, CLOCK_REALTIME) of one moment: the tightest of a few sandwiches."""
        best = None
        for _ in range(5):
            before = time.clock_gettime_ns(time.CLOCK_REALTIME)
            local = self.now()
            after = time.clock_gettime_ns(time.CLOCK_REALTIME)
            if best is None or after - before < best[0]:
                best = (after - before, local, (before + after) // 2)
        return best[1:]


class DisciplinedClock:
    """Section 1's mapping of the local clock. All arguments called `local` are local times."""

    def __init__(self, local, value):
        self.rate = 0
        self._reference, self._target_there = local, value
        self._slew, self._slew_start = 0, local
        self._error_bound, self._rate_error = NOT_KNOWN, 0

    def target(self, local):
        elapsed = local - self._reference
        return self._target_there + elapsed + self.rate * elapsed // PPT

    def slew(self, local):
        """What the clock still has to gain on its target."""
        left = max(0, abs(self._slew) - (local - self._slew_start) * MAX_SLEW_PPT // PPT)
        return left if self._slew > 0 else -left

    def read(self, local):
        return self.target(local) - self.slew(local)

    def error_bound(self, local):
        if self._error_bound == NOT_KNOWN:
            return NOT_KNOWN
        age = abs(local - self._reference)
        grown = -(-self._rate_error * age // PPT) + int(WANDER * math.sqrt((age / SECOND) ** 3 / 3) * SECOND)
        bound = self._error_bound + grown + abs(self.slew(local))
        return bound if bound <= LIMIT else NOT_KNOWN

    def apply(self, entry, local, step):
        """Takes the target of a correction: at once, or slewing from the value that the clock has at `local`."""
        value = self.read(local)
        self._target_there = self.target(entry.reference) + entry.correction
        self._reference, self.rate = entry.reference, entry.rate
        self._slew, self._slew_start = 0 if step else self.target(local) - value, local
        self._error_bound, self._rate_error = entry.error_bound, entry.rate_error


class Slave:
    """The slave's side of the protocol, on a bound UDP socket.

    `peers` are the configured peers, `emit` is called with each event, `timer` tells seconds to the timers, `key` is a number and 16 bytes.
    """

    priority = 0

    def __init__(self, sock, peers, emit, domain=0, node=None, clock_offset=0, drift_ppt=0, limit=2**60,
                 timer=time.monotonic, key=None):
        self._socket, self._peers, self._emit, self._timer = sock, peers, emit, timer
        self._domain, self._limit = domain, limit
        self.node = node or draw_identity()
        self.incarnation = draw_identity()
        self._guard = Guard(*key, self.incarnation) if key else None
        self._is_fresh = True  # the frame that is handled was certainly sent in this life
        self._departure = (0, LATE_NOT_KNOWN)  # t1 of the last response, and how long after its t3 it was sent
        self._local = LocalClock(drift_ppt)
        local, system = self._local.with_system()
        self._clock = DisciplinedClock(local, system + clock_offset)
        self._master, self._term = None, 0
        self.applied = 0
        self._applied_round, self._applied_outcome = 0, None
        self._heard = self._asked = self._last_join = float("-inf")
        self._silence, self._heartbeat = LEAST_SILENCE, SHORTEST_HEARTBEAT
        self._successors, self._members = (), 0
        self._left_to = None  # whom the master named when it left
        self._corrected = (0, 0, 0)  # in which term, by which master, and how far the rate can be wrong
        self._last_refusal = float("-inf")
        self._start_joining()
        self._handlers = {REQUEST: self._on_request, CORRECTION: self._on_correction, LEAVE: self._on_leave,
                          ANNOUNCE: self._on_announce}
        # What needs no master to come from.
        self._anybodys = {CLAIM: self._on_claim, JOIN: self._on_join, REFUSAL: self._on_refusal}

    def run(self, corrections, timeout):
        """Takes part until `corrections` are applied; False if that takes longer than `timeout` seconds."""
        deadline = self._timer() + timeout
        try:
            while self.applied < corrections and self._timer() < deadline:
                self.run_timers()
                self.receive(min(deadline, self._next_timer()) - self._timer())
        finally:
            self._leave()
        return self.applied >= corrections

    def receive(self, timeout):
        """Handles one datagram, waiting at most `timeout` seconds for it."""
        self._socket.settimeout(max(timeout, 0))
        try:
            data, address = self._socket.recvfrom(65536)
        except (socket.timeout, BlockingIOError):
            return
        arrival = self._local.now()
        try:
            self._handle(data, address, arrival)
        except Dropped as drop:
            self._event("dropped", reason=drop.reason, source="%s:%d" % address)

    def run_timers(self):
        """Notices that the master is lost; repeats the join until asked."""
        now = self._timer()
        if not self._joining and now >= self._next_timer():
            self._lose_master("silent")
        if self._joining and now >= self._next_timer():
            if self._is_lost():
                self._join(self._peers)
            else:
                self._join([self._master.address], self._master.incarnation)
            self._next_join = now + self._join_delay
            self._join_delay = min(2 * self._join_delay, LAST_JOIN_DELAY)

    def _next_timer(self):
        if self._joining:
            return max(self._next_join, self._last_join + JOIN_SPACING)
        return self._heard + self._silence

    def _handle(self, data, address, arrival):
        frame = decode(data, self._domain, self._guard)
        header = frame.header
        if header.sender == self.node:
            raise Dropped("own_frame" if header.incarnation == self.incarnation else "duplicate_node_id")
        if address not in self._peers:
            raise Dropped("not_a_peer")
        if self._guard:
            life = header.sender, header.incarnation
            self._is_fresh = self._guard.admit(life, *frame.trailer, header.type in FOR_ONE, arrival)
        anybodys = self._anybodys.get(header.type)
        if anybodys is not None:
            return anybodys(frame, address)
        handler = self._handlers.get(header.type)
        if handler is None:
            raise Dropped("wrong_role")
        self._check_master(header, address)
        self._heard = self._timer()
        handler(frame, arrival)

    def _alive(self):
        """True while the master is heard too well for another one to be right."""
        return self._left_to is None and self._timer() - self._heard < ALIVE_HEARTBEATS * self._heartbeat

    def _on_claim(self, frame, address):
        """Section 9, refusing: what concerns every node, whether it stands or not."""
        header = frame.header
        if frame.body.claim_flags & HANDOVER:
            raise Dropped("wrong_role")
        if self._alive() and header.sender != self._master.node:
            if len(self._successors) < SUCCESSORS or self.node in self._successors:
                self._refuse(address, header, self._master.node)
            raise Dropped("vain_claim")
        if header.term <= self._term:
            self._refuse(address, header, 0)
            raise Dropped("stale_term")

    def _on_join(self, frame, address):
        """That others look for the master, too, means nothing to a slave that does not stand."""

    def _on_refusal(self, frame, address):
        raise Dropped("unsolicited")

    def _refuse(self, address, claimant, master):
        if self._timer() - self._last_refusal >= REFUSAL_SPACING:
            self._last_refusal = self._timer()
            self._send(address, REFUSAL, 0, master, recipient=claimant.incarnation)

    def _check_master(self, header, address):
        """Lets pass what the followed master sent, and follows a new one; raises Dropped for all others."""
        sender = Master(header.sender, header.incarnation, address)
        if header.term > self._term:
            if header.type not in (REQUEST, ANNOUNCE):
                raise Dropped("stranger")
            if header.term > self._term + TERM_LEAP:
                raise Dropped("out_of_range")
            if self._master and sender.node != self._master.node and self._alive():
                raise Dropped("rival")
            if not self._is_fresh:
                self._join_if_due(sender)
                raise Dropped("unproven")
            self._master, self._term = sender, header.term
            self._applied_round = 0
            self._silence, self._heartbeat = LEAST_SILENCE, SHORTEST_HEARTBEAT
            self._successors, self._members = (), 0
            self._asked = self._timer()
            self._start_joining()
            self._event("following", master=sender.node, master_incarnation=sender.incarnation, term=self._term)
        elif header.term < self._term or sender != self._master:
            if header.type == ANNOUNCE and (self._is_lost() or sender.node == self._master.node):
                self._join_if_due(sender)
            raise Dropped("stale_term")
        self._left_to = None

    def _on_request(self, frame, arrival):
        header, t1 = frame.header, frame.body.t1
        clock = self._clock
        t3 = self._local.now()
        self._send(self._master.address, RESPONSE, header.round, t1, arrival, t3, clock.read(t3) - t3, clock.slew(t3),
                   clock.rate, clock.error_bound(t3), self._adjustment(), self._applied_round,
                   *self._departure, SYNCHRONISED if self.applied else 0, recipient=header.incarnation)
        if self._guard:
            # Making a code takes a millisecond here: the next response tells.
            self._departure = (t1, min(self._local.now() - t3, LATE_NOT_KNOWN))
        self._asked = self._timer()
        if self._joining:
            self._joining = False
            self._event("joined", node=self.node, incarnation=self.incarnation, master=header.sender,
                        master_incarnation=header.incarnation, term=header.term)
        self._event("request", round=header.round, term=header.term, t1=t1, t2=arrival, t3=t3)

    def _on_correction(self, frame, arrival):
        for entry in frame.entries:
            if entry.node == self.node:
                try:
                    self._correct(frame.header, entry)
                except Dropped as drop:
                    self._event("dropped", reason=drop.reason, round=frame.header.round)

    def _correct(self, header, entry):
        """Applies, refuses or drops one entry that bears this node's number."""
        if entry.node_incarnation != self.incarnation:
            raise Dropped("stale_incarnation")
        if self._applied_round and header.round == self._applied_round:
            self._acknowledge(header.round, self._applied_outcome)
            raise Dropped("duplicate_correction")
        if header.round <= self._applied_round:
            raise Dropped("stale_round")
        if entry.adjustment != self._adjustment():
            raise Dropped("stale_adjustment")
        local = self._local.now()
        if abs(entry.reference - local) > MAX_REFERENCE_DISTANCE:
            raise Dropped("late_correction")
        if abs(entry.correction) > self._limit:
            outcome = REFUSED
        else:
            outcome = SLEWED if self.applied else STEPPED
            self._clock.apply(entry, local, step=outcome == STEPPED)
            self.applied += 1
            self._applied_round, self._applied_outcome = header.round, outcome
            self._corrected = (self._term, self._master.node, entry.rate_error)
        local, system = self._local.with_system()
        self._acknowledge(header.round, outcome)
        self._event("correction", round=header.round, correction_ns=entry.correction, rate_ppt=entry.rate,
                    error_bound_ns=None if entry.error_bound == NOT_KNOWN else entry.error_bound,
                    outcome=OUTCOMES[outcome], disciplined_minus_system_ns=self._clock.read(local) - system)
        if outcome == REFUSED:
            raise Dropped("too_large")

    def _on_leave(self, frame, arrival):
        self._left_to = frame.body.successor
        self._lose_master("leave")

    def _on_announce(self, frame, arrival):
        body = frame.body
        self._heartbeat = body.heartbeat / 100
        self._silence = max(SILENT_HEARTBEATS * self._heartbeat, LEAST_SILENCE)
        self._members = body.members
        self._successors = tuple(node for node in body[-SUCCESSORS:] if node)
        patience = max(3 * body.interval / SECOND, 1.0)
        if not self._applied_round:
            patience = JOIN_SPACING
        if self._timer() - self._asked >= patience:
            self._join_if_due(self._master)

    def _is_lost(self):
        """True when no master is heard."""
        return self._master is None or self._left_to is not None or self._timer() - self._heard >= self._silence

    def _start_joining(self):
        self._joining, self._next_join, self._join_delay = True, self._timer(), FIRST_JOIN_DELAY

    def _lose_master(self, why):
        """Holdover: the clock goes on, the master stays the one followed in its term, and joins begin again."""
        self._start_joining()
        self._event("lost", reason=why)

    def _join_if_due(self, master):
        if self._timer() - self._last_join >= JOIN_SPACING:
            self._join([master.address], master.incarnation)

    def _join(self, addresses, recipient=0):
        node, incarnation = self._master[:2] if self._master else (0, 0)
        for address in addresses:
            self._send(address, JOIN, 0, self.priority, 0, self._merit(), node, incarnation, *self._corrected,
                       recipient=recipient)
        self._last_join = self._timer()

    def _merit(self):
        """It does not stand."""
        return 0

    def _acknowledge(self, round_, outcome):
        self._send(self._master.address, ACKNOWLEDGEMENT, round_, self._adjustment(), outcome,
                   recipient=self._master.incarnation)

    def _leave(self):
        if self._master:
            self._send(self._master.address, LEAVE, 0, 0, recipient=self._master.incarnation)
            self._event("left")

    def _adjustment(self):
        return self.applied % 2**32

    def _send(self, address, kind, round_, *values, recipient=0):
        """`recipient` is the incarnation that a frame is for; it is told to those who have keys."""
        data = encode(kind, self._domain, round_, self._term, self.node, self.incarnation, *values)
        self._socket.sendto(self._guard.seal(data, recipient, self._local.now()) if self._guard else data, address)

    def _event(self, name, **details):
        self._emit({"event": name, **details})


def draw_identity():
    """A random number from 1 to 2^48 - 1."""
    return 1 + secrets.randbelow(2**48 - 1)


def print_event(event):
    print(json.dumps(event), flush=True)


def socket_address(text):
    """An IPv4 address and port, as the socket module has them."""
    host, _, port = text.rpartition(":")
    return str(ipaddress.IPv4Address(host)), int(port)


def numbered_key(text):
    """A key's number and its bytes."""
    number, _, digits = text.partition(":")
    if len(digits) != 32:
        raise ValueError(text)
    return int(number), bytes.fromhex(digits)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="A berkeleyd slave that leaves after a number of corrections.")
    parser.add_argument("--master", type=socket_address, required=True, metavar="IP:PORT")
    parser.add_argument("--bind", type=socket_address, default=("127.0.0.1", 0), metavar="IP:PORT")
    parser.add_argument("--domain", type=int, default=0, metavar="N")
    parser.add_argument("--node-id", type=int, metavar="N", help="default: random")
    parser.add_argument("--clock-offset", type=float, default=0.0, metavar="SECONDS",
                        help="what the disciplined clock is ahead of the system's at start")
    parser.add_argument("--drift", type=float, default=0.0, metavar="PPM", help="how fast the local clock runs")
    parser.add_argument("--limit", type=float, default=1e9, metavar="SECONDS", help="refuse larger corrections")
    parser.add_argument("--key", type=numbered_key, metavar="ID:HEX", help="authenticate with this key")
    parser.add_argument("--corrections", type=int, default=3, metavar="N")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(options.bind)
            slave = Slave(sock, [options.master], print_event, options.domain, options.node_id,
                          round(options.clock_offset * SECOND), round(options.drift * PPT / 10**6),
                          round(options.limit * SECOND), key=options.key)
            done = slave.run(options.corrections, options.timeout)
    except OSError as error:
        print("peer: %s" % error, file=sys.stderr)
        return 1
    if not done:
        print("peer: %d of %d corrections applied within %g s"
              % (slave.applied, options.corrections, options.timeout), file=sys.stderr)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
