#!/usr/bin/env python3
"""Tests of section 10 in peer_keys.py and peer.py: the codes of RFC 4493, and a slave that is driven one datagram at a time."""

import pathlib
import time
import unittest

import peer
import peer_keys
from test_peer import MASTER_INCARNATION, SLAVE_NODE, SlaveTest, announce, correction, entry, field, frame, request

RFC_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
RFC_MESSAGE = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
                            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710")


class Codes(unittest.TestCase):
    def test_rfc_4493(self):
        cmac = peer_keys.Cmac(RFC_KEY)
        for length, code in ((0, "bb1d6929e95937287fa37d129b756746"), (16, "070a16b46b4d4144f79bdd9dd04a287c"),
                             (40, "dfa66747de9ae63030ca32611497c827"), (64, "51f0bebf7e3b9d92fc49741779363cfe")):
            self.assertEqual(cmac.code(RFC_MESSAGE[:length]).hex(), code)


def sealed_vectors():
    """Key, trailer values and bytes of the authenticated frames in tests/vectors."""
    for path in pathlib.Path(__file__).parent.glob("vectors/sealed_*.txt"):
        head, _, rows = path.read_text().partition("\nhex\n")
        values = dict(line.split(" = ") for line in head.splitlines() if " = " in line)
        digits = [row[19:].replace(" ", "") for row in rows.splitlines()]
        number = {name: int(values[name], 0) for name in ("key_id", "recipient", "sequence", "incarnation")}
        yield path.name, bytes.fromhex(values["key"]), number, bytes.fromhex("".join(digits))


class Vectors(unittest.TestCase):
    def test_both_ways(self):
        names = []
        for name, key, number, data in sealed_vectors():
            names.append(name)
            guard = peer_keys.Guard(number["key_id"], key, number["incarnation"])
            self.assertEqual(guard.check(data), (number["recipient"], number["sequence"]))
            plain = bytearray(data[:-40])
            plain[4:6], plain[6:8] = bytes(2), len(plain).to_bytes(2, "big")
            self.assertEqual(guard.seal(bytes(plain), number["recipient"], number["sequence"]).hex(), data.hex())
        self.assertEqual(sorted(names), ["sealed_correction.txt", "sealed_request.txt"])


class Windows(unittest.TestCase):
    def setUp(self):
        self.window = peer_keys.Window()

    def accepts(self, sequence, arrival=None):
        try:
            self.window.accept(sequence, sequence if arrival is None else arrival)
        except peer.Dropped as drop:
            return drop.reason
        return None

    def test_once(self):
        start = 1000 * peer.SECOND
        for sequence, reason in ((start, None), (start, "replayed"), (start - 1, None), (start - 1, "replayed"),
                                 (start - peer.SECOND, "replayed"), (start + peer.SECOND // 2, None),
                                 (start - peer.SECOND // 2, "replayed")):
            self.assertEqual(self.accepts(sequence, start), reason, sequence - start)

    def test_forgets_the_lowest(self):
        for sequence in range(100, 120):
            self.assertIsNone(self.accepts(sequence))
        self.assertEqual([self.accepts(sequence) for sequence in (99, 103, 104)], ["replayed"] * 3)

    def test_held_back(self):
        self.assertIsNone(self.accepts(peer.SECOND, 7 * peer.SECOND))
        self.assertIsNone(self.accepts(2 * peer.SECOND, 8 * peer.SECOND + 999_000_000))
        self.assertEqual(self.accepts(3 * peer.SECOND, 10 * peer.SECOND + 10_000_000), "held_back")


class Authenticating(SlaveTest):
    """A slave with a key, and a master that seals what it sends."""

    def setUp(self):
        super().setUp()
        self.slave = peer.Slave(self.socket, [self.master.address], self.events.append, node=SLAVE_NODE,
                                limit=peer.SECOND, timer=lambda: self.now, key=(5, RFC_KEY))
        self.seals = peer_keys.Guard(5, RFC_KEY, MASTER_INCARNATION)
        self.sequence = 0

    def sealed(self, data, recipient=None, seals=None):
        recipient = self.slave.incarnation if recipient is None else recipient
        return (seals or self.seals).seal(data, recipient, time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW))

    def assert_sealed(self, kind, length, recipient):
        data = self.assert_answered(kind, length + 40)
        self.assertEqual(field(data, ">H", 4), 1)
        self.assertEqual(field(data, ">I", length), 5)
        self.assertEqual(field(data, ">Q", length + 8), recipient)
        sequence = field(data, ">Q", length + 16)
        self.assertGreater(sequence, self.sequence)
        self.sequence = sequence
        self.assertEqual(data[-16:], peer_keys.Cmac(RFC_KEY).code(data[:-16]))
        return data

    def test_takes_part(self):
        self.slave.run_timers()
        self.assert_sealed(5, 120, 0)
        for _ in range(2):
            self.send(self.sealed(request()))
            answer = self.assert_sealed(2, 120, MASTER_INCARNATION)
        self.assertLess(field(answer, ">I", 112), peer.SECOND)  # when the first one left
        entries = self.entry(correction=1000)
        self.send(self.sealed(correction(1, entries), recipient=0))
        self.assert_sealed(4, 48, MASTER_INCARNATION)
        self.assertEqual(self.slave.applied, 1)

    def test_what_is_not_authentic(self):
        good = self.sealed(request())
        for reason, data in (
                ("unauthenticated", request()),
                ("wrong_code", good[:-1] + bytes([good[-1] ^ 1])),
                ("wrong_code", good[:41] + b"\1" + good[42:]),
                ("wrong_code", self.sealed(request(), seals=peer_keys.Guard(5, bytes(16), 1))),
                ("unknown_key", self.sealed(request(), seals=peer_keys.Guard(6, RFC_KEY, 1))),
                ("length", good + b"\0"),
                ("length", self.sealed(request() + b"\0")),
                ("stale_incarnation", self.sealed(request(), recipient=self.slave.incarnation + 1)),
                ("unproven", self.sealed(request(), recipient=0))):
            with self.subTest(reason):
                self.assert_dropped(reason, data)
                self.assert_silent()
        self.send(good)
        self.assert_sealed(2, 120, MASTER_INCARNATION)

    def test_a_master_has_to_prove_that_it_lives(self):
        self.assert_dropped("unproven", self.sealed(announce(), recipient=0))
        self.assert_sealed(5, 120, MASTER_INCARNATION)
        self.assertEqual(self.events[-1]["event"], "dropped")
        self.send(self.sealed(request()))
        self.assert_sealed(2, 120, MASTER_INCARNATION)
        # From now on its announces are believed, those of a higher term too.
        self.assertEqual(self.send(self.sealed(announce(term=2), recipient=0))[-1]["event"], "following")

    def test_nothing_twice(self):
        ask = self.sealed(request())
        self.send(ask)
        self.assert_sealed(2, 120, MASTER_INCARNATION)
        self.assert_dropped("replayed", ask)
        told = self.sealed(correction(1, self.entry(correction=1000)), recipient=0)
        self.send(told)
        self.assert_sealed(4, 48, MASTER_INCARNATION)
        self.assert_dropped("replayed", told)
        self.assert_silent()
        self.assertEqual(self.slave.applied, 1)


if __name__ == "__main__":
    unittest.main()
