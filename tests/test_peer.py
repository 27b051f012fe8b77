#!/usr/bin/env python3
"""Tests of peer.py against a tiny fake master on loopback.

The master's frames are laid out here by the offsets in PROTOCOL.md, not by peer.py's own encoder. Most tests drive the
slave one datagram at a time in this thread, with a timer that only moves when told to; the last ones run the program.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time
import unittest
from unittest import mock

import peer

PATIENCE = 10  # seconds before a test gives up on something that should come at once
PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer.py")
MASTER_NODE, MASTER_INCARNATION, SLAVE_NODE = 7, 77, 9
RESPONSE_FIELDS = [("t1", ">q", 40), ("t2", ">q", 48), ("t3", ">q", 56), ("ahead", ">q", 64), ("slew", ">q", 72),
                   ("rate", ">q", 80), ("error_bound", ">q", 88), ("adjustment", ">I", 96),
                   ("applied_round", ">I", 100), ("previous_t1", ">q", 104), ("t3_late", ">I", 112),
                   ("response_flags", ">H", 116)]


def field(data, form, offset):
    return struct.unpack_from(form, data, offset)[0]


def frame(kind, length, *fields, round_=0, term=1, sender=MASTER_NODE, incarnation=MASTER_INCARNATION, domain=0):
    """A frame of `length` bytes; `fields` are (format, offset, value) and may overwrite the header."""
    data = bytearray(length)
    header = [(">H", 0, 0x424B), (">B", 2, 1), (">B", 3, kind), (">H", 6, length), (">I", 8, domain),
              (">I", 12, round_), (">Q", 16, term), (">Q", 24, sender), (">Q", 32, incarnation)]
    for form, offset, value in header + list(fields):
        struct.pack_into(form, data, offset, value)
    return bytes(data)


def request(*fields, t1=1000, **header):
    return frame(1, 120, (">q", 40, t1), *fields, **header)


def announce(*fields, interval=peer.SECOND, heartbeat=10, merit=2, **header):
    return frame(7, 120, (">q", 40, interval), (">B", 52, merit), (">B", 53, heartbeat), *fields, **header)


def claim(*fields, priority=0, merit=3, **header):
    return frame(8, 48, (">i", 40, priority), (">B", 44, merit), *fields, **header)


def entry(node, incarnation, reference, correction=0, rate=0, error_bound=0, rate_error=0, adjustment=0):
    return struct.pack(">QQqqqqII", node, incarnation, reference, correction, rate, error_bound, rate_error, adjustment)


def correction(round_, *entries, **header):
    data = frame(3, 64 + 56 * len(entries), (">H", 40, len(entries)), round_=round_, **header)
    return data[:64] + b"".join(entries)


class FakeMaster:
    """The master's socket and what it sends and receives on it."""

    def __init__(self, test):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE)
        self.address = self.socket.getsockname()
        test.addCleanup(self.socket.close)

    def receive(self, kind=None):
        """The next frame and where it came from; of `kind`, if given."""
        while True:
            data, source = self.socket.recvfrom(2048)
            if kind in (None, data[3]):
                return data, source


class SlaveTest(unittest.TestCase):
    """Drives one slave in this thread."""

    def setUp(self):
        self.now, self.events = 0.0, []
        self.master = FakeMaster(self)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.addCleanup(self.socket.close)
        self.slave = peer.Slave(self.socket, [self.master.address], self.events.append, node=SLAVE_NODE,
                                limit=peer.SECOND, timer=lambda: self.now)

    def send(self, data, sender=None):
        """Has the slave handle one datagram; gives the events that it made."""
        seen = len(self.events)
        (sender or self.master).socket.sendto(data, self.socket.getsockname())
        self.slave.receive(PATIENCE)
        return self.events[seen:]

    def assert_answered(self, kind, length):
        data, source = self.master.receive()
        self.assertEqual((data[:4], len(data), field(data, ">H", 6)), (b"BK\x01" + bytes([kind]), length, length))
        self.assertEqual(source, self.socket.getsockname())
        self.assertEqual(field(data, ">Q", 24), SLAVE_NODE)
        self.assertEqual(field(data, ">Q", 32), self.slave.incarnation)
        return data

    def assert_silent(self):
        self.master.socket.setblocking(False)
        with self.assertRaises(BlockingIOError):
            self.master.socket.recv(2048)
        self.master.socket.settimeout(PATIENCE)

    def assert_dropped(self, reason, data, sender=None):
        self.assertEqual([event.get("reason") for event in self.send(data, sender)], [reason])

    def ask(self, **header):
        self.send(request(**header))
        data = self.assert_answered(2, 120)
        return {name: field(data, form, offset) for name, form, offset in RESPONSE_FIELDS}

    def entry(self, **values):
        defaults = {"reference": time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), "adjustment": self.slave.applied}
        return entry(SLAVE_NODE, self.slave.incarnation, **{**defaults, **values})

    def correct(self, round_, **values):
        """Sends a correction; gives its event and (round, adjustment, outcome) of the acknowledgement."""
        event = self.send(correction(round_, self.entry(**values)))[0]
        data = self.assert_answered(4, 48)
        return event, (field(data, ">I", 12), field(data, ">I", 40), data[44])


class Joining(SlaveTest):
    def test_layout(self):
        self.slave.run_timers()
        data = self.assert_answered(5, 120)
        self.assertEqual(data[4:6] + data[8:24] + data[40:], bytes(2 + 16 + 80))

    def test_repeats_with_doubling_delay(self):
        for delay in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
            self.slave.run_timers()
            self.assert_answered(5, 120)
            self.now += delay - 0.01
            self.slave.run_timers()
            self.assert_silent()
            self.now += 0.02

    def test_ends_when_asked(self):
        self.slave.run_timers()
        self.assert_answered(5, 120)
        self.assertEqual([event["event"] for event in self.send(request())], ["following", "joined", "request"])
        self.assert_answered(2, 120)
        self.now = 0.9
        self.slave.run_timers()
        self.assert_silent()

    def test_silence_and_leave_lose_the_master(self):
        self.ask(term=5)
        self.now = 1.0
        self.slave.run_timers()
        data = self.assert_answered(5, 120)
        self.assertEqual([field(data, ">Q", offset) for offset in (16, 48, 56)], [5, MASTER_NODE, MASTER_INCARNATION])
        self.ask(term=5)
        self.now = 1.5
        self.assertEqual(self.send(frame(6, 48, term=5)), [{"event": "lost", "reason": "leave"}])
        self.slave.run_timers()
        self.assert_answered(5, 120)

    def test_a_slower_heartbeat_is_waited_for(self):
        self.ask()
        self.correct(1)
        self.send(announce(heartbeat=100))
        self.now = 3.9
        self.slave.run_timers()
        self.assert_silent()
        self.now = 4.0
        self.slave.run_timers()
        self.assert_answered(5, 120)

    def test_announces_of_a_master_that_does_not_ask(self):
        self.ask()
        self.correct(1)
        for self.now in (0.5, 1.0, 1.4):
            self.send(announce(interval=peer.SECOND // 2))
            self.assert_silent()
        self.now = 1.5
        self.send(announce(interval=peer.SECOND // 2))
        self.assert_answered(5, 120)
        self.now = 1.59
        self.send(announce(interval=peer.SECOND // 2))
        self.assert_silent()


class Following(SlaveTest):
    def test_higher_terms(self):
        self.ask(term=3)
        self.send(correction(4, self.entry(), term=3))
        self.assert_answered(4, 48)
        self.assertEqual(self.ask(term=3)["applied_round"], 4)
        self.assert_dropped("rival", announce(term=4, sender=8, incarnation=88))
        self.now += 0.31
        self.send(announce(term=4, sender=8, incarnation=88))
        self.slave.run_timers()
        self.assertEqual(field(self.assert_answered(5, 120), ">Q", 48), 8)
        self.assert_dropped("stale_term", request(term=3))
        self.assert_dropped("stale_term", request(term=4))
        response = self.ask(term=4, sender=8, incarnation=88)
        self.assertEqual((response["applied_round"], response["adjustment"]), (0, 1))

    def test_only_requests_and_announces_are_followed(self):
        self.ask(term=3)
        self.assert_dropped("stranger", correction(1, self.entry(), term=4))
        self.assert_dropped("stranger", frame(6, 48, term=4))
        self.ask(term=3)

    def test_stale_announces_are_told_of_the_term(self):
        self.ask(term=3)
        for term, incarnation in ((2, MASTER_INCARNATION), (3, 78)):
            self.now += 0.5
            self.assert_dropped("stale_term", announce(term=term, incarnation=incarnation))
            self.assertEqual(field(self.assert_answered(5, 120), ">Q", 16), 3)

    def test_term_zero_is_never_followed(self):
        self.assert_dropped("stale_term", request(term=0))


class Refusing(SlaveTest):
    """What a node that does not stand says to those who want to be master."""

    def refusal(self, reason, *fields, **header):
        self.assert_dropped(reason, claim(*fields, sender=8, incarnation=88, **header))
        data = self.assert_answered(9, 48)
        return field(data, ">Q", 16), field(data, ">Q", 40)

    def test_while_the_master_is_heard(self):
        self.ask(term=3)
        self.assertEqual(self.refusal("vain_claim", term=4), (3, MASTER_NODE))
        self.assert_dropped("vain_claim", claim(term=4, sender=8, incarnation=88))
        self.assert_silent()
        self.now = 0.31
        self.assertEqual(self.send(claim(term=4, sender=8, incarnation=88)), [])
        self.assert_silent()
        self.assertEqual(self.refusal("stale_term", term=3), (3, 0))

    def test_only_those_who_are_called(self):
        self.ask()
        others = [(">Q", 56 + 8 * place, 100 + place) for place in range(8)]
        self.send(announce(*others))
        self.assert_dropped("vain_claim", claim(term=2, sender=8, incarnation=88))
        self.assert_silent()
        self.send(announce(*others[1:], (">Q", 56, SLAVE_NODE)))
        self.assertEqual(self.refusal("vain_claim", term=2), (1, MASTER_NODE))

    def test_the_masters_own_claim_and_a_handover_are_nobodys_business(self):
        self.ask()
        self.assertEqual(self.send(claim(term=2)), [])
        self.assert_dropped("wrong_role", claim((">H", 46, 1), term=2, sender=8, incarnation=88))
        self.assert_silent()


class Answering(SlaveTest):
    def test_response(self):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        self.send(request(t1=123456789, round_=6, term=2))
        data = self.assert_answered(2, 120)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        self.assertEqual((field(data, ">I", 12), field(data, ">Q", 16)), (6, 2))
        response = {name: field(data, form, offset) for name, form, offset in RESPONSE_FIELDS}
        self.assertTrue(before <= response["t2"] <= response["t3"] <= after)
        self.assertLess(abs(response["t3"] + response["ahead"] - time.time_ns()), peer.SECOND)
        rest = [response[name] for name, _, _ in RESPONSE_FIELDS if name not in ("t2", "t3", "ahead")]
        self.assertEqual(rest, [123456789, 0, 0, 2**63 - 1, 0, 0, 0, 2**32 - 1, 0])
        self.assertEqual(data[118:], bytes(2))

    def test_reserved_bits_are_ignored(self):
        self.send(request((">H", 4, 0xFFFE), (">Q", 48, 2**64 - 1)))
        self.assert_answered(2, 120)


class Correcting(SlaveTest):
    def setUp(self):
        super().setUp()
        self.first = self.ask()

    def test_step_then_slew(self):
        event, acknowledgement = self.correct(1, correction=200_000_000, rate=5_000_000, error_bound=1000)
        self.assertEqual(acknowledgement, (1, 1, 1))
        self.assertEqual([event[key] for key in ("round", "correction_ns", "rate_ppt", "error_bound_ns", "outcome")],
                         [1, 200_000_000, 5_000_000, 1000, "stepped"])
        response = self.ask()
        self.assertEqual([response[name] for name in ("slew", "rate", "error_bound", "adjustment", "applied_round",
                                                      "response_flags")], [0, 5_000_000, 1000, 1, 1, 2])
        self.assertAlmostEqual(response["ahead"] - self.first["ahead"], 200_000_000, delta=1_000_000)

        event, acknowledgement = self.correct(3, correction=-peer.SECOND, error_bound=1000)
        self.assertEqual((acknowledgement, event["outcome"]), ((3, 2, 2), "slewed"))
        again = self.ask()
        self.assertAlmostEqual(again["slew"], -peer.SECOND, delta=10_000_000)
        self.assertAlmostEqual(again["ahead"], response["ahead"], delta=10_000_000)
        self.assertEqual(again["error_bound"], 1000 - again["slew"])

    def test_event_tells_the_disciplined_clock(self):
        event, _ = self.correct(1, correction=300_000_000)
        self.assertAlmostEqual(event["disciplined_minus_system_ns"], 300_000_000, delta=50_000_000)

    def test_bound_not_known(self):
        event, _ = self.correct(1, error_bound=2**63 - 1)
        self.assertIsNone(event["error_bound_ns"])
        self.assertEqual(self.ask()["error_bound"], 2**63 - 1)

    def test_duplicate_is_acknowledged_again(self):
        data = correction(2, self.entry(correction=1000))
        self.send(data)
        acknowledgement = self.assert_answered(4, 48)
        self.assert_dropped("duplicate_correction", data)
        self.assertEqual(self.assert_answered(4, 48), acknowledgement)
        self.assertEqual(self.ask()["adjustment"], 1)

    def test_refusal_changes_nothing(self):
        before = self.ask()
        data = correction(1, self.entry(correction=peer.SECOND + 1))
        for _ in range(2):
            events = self.send(data)
            self.assertEqual([events[0]["outcome"], events[1]["reason"]], ["refused", "too_large"])
            acknowledgement = self.assert_answered(4, 48)
            self.assertEqual((field(acknowledgement, ">I", 40), acknowledgement[44]), (0, 3))
        after = self.ask()
        for name in ("ahead", "adjustment", "applied_round", "error_bound"):
            self.assertEqual(after[name], before[name])
        self.assertEqual(self.correct(1)[1], (1, 1, 1))

    def test_fences(self):
        self.correct(5)
        before = self.ask()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        own = self.slave.incarnation
        far = 5 * peer.SECOND
        for reason, data in (
                ("stale_round", correction(4, self.entry())),
                ("stale_round", correction(0, self.entry())),
                ("stale_adjustment", correction(6, self.entry(adjustment=0))),
                ("late_correction", correction(6, self.entry(reference=now + far))),
                ("late_correction", correction(6, self.entry(reference=now - far))),
                ("stale_incarnation", correction(6, entry(SLAVE_NODE, own + 1, now, adjustment=1))),
                ("stale_term", correction(6, self.entry(), term=0)),
                ("stale_term", correction(6, self.entry(), incarnation=78)),
                ("stranger", correction(6, self.entry(), term=2)),
                ("wrong_role", frame(4, 48, (">B", 44, 1)))):
            with self.subTest(reason):
                self.assert_dropped(reason, data)
                self.assert_silent()
        self.assertEqual(self.send(correction(6, entry(SLAVE_NODE + 1, own, now))), [])
        self.assertEqual(self.ask()["ahead"], before["ahead"])

    def test_own_entry_among_others(self):
        others = [entry(100 + n, 1, 0) for n in range(23)]
        self.assertEqual(self.send(correction(1, *others, self.entry()))[0]["outcome"], "stepped")


class Dropping(SlaveTest):
    def test_invalid_frames(self):
        good_entry = self.entry()
        for reason, data in (
                ("other_domain", request(domain=1)),
                ("other_domain", request((">B", 2, 2), domain=1)),
                ("too_short", request()[:39]),
                ("too_short", b""),
                ("magic", request((">H", 0, 0x424C))),
                ("version", request((">B", 2, 2))),
                ("type", frame(0, 120)),
                ("type", frame(10, 120)),
                ("length", request()[:119]),
                ("length", request() + b"\0"),
                ("length", request((">H", 6, 119))),
                ("length", frame(1, 121)),
                ("length", frame(1, 40)),
                ("length", request((">H", 4, 1))),
                ("length", correction(1, good_entry, good_entry)[:104]),
                ("length", frame(3, 104, (">H", 40, 2))),
                ("count", correction(1)),
                ("count", correction(1, *[good_entry] * 25)),
                ("authenticated", frame(1, 160, (">H", 4, 1))),
                ("out_of_range", request(t1=-1)),
                ("out_of_range", request(t1=2**62)),
                ("out_of_range", request(term=2**48 + 1)),
                ("out_of_range", request(sender=0)),
                ("out_of_range", request(incarnation=0)),
                ("out_of_range", announce(interval=0)),
                ("out_of_range", announce(heartbeat=9)),
                ("out_of_range", announce(heartbeat=101)),
                ("out_of_range", announce(merit=0)),
                ("out_of_range", claim(merit=0)),
                ("out_of_range", claim(term=2**64 - 1)),
                ("out_of_range", request(term=65_537)),
                ("out_of_range", correction(1, good_entry, self.entry(correction=-2**62))),
                ("out_of_range", correction(1, good_entry, self.entry(rate=10**11 + 1))),
                ("out_of_range", correction(1, good_entry, self.entry(error_bound=2**62))),
                ("out_of_range", frame(4, 48)),
                ("own_frame", request(sender=SLAVE_NODE, incarnation=self.slave.incarnation)),
                ("duplicate_node_id", request(sender=SLAVE_NODE, incarnation=self.slave.incarnation + 1)),
                ("unsolicited", frame(9, 48)),
                ("stranger", correction(1, good_entry))):
            with self.subTest(reason):
                self.assert_dropped(reason, data)
                self.assert_silent()

    def test_not_a_peer(self):
        self.assert_dropped("not_a_peer", request(), FakeMaster(self))


class Clocks(unittest.TestCase):
    def apply(self, clock, local, step, **values):
        clock.apply(peer.ENTRY.record._make(peer.ENTRY.struct.unpack(entry(1, 1, **values))), local, step)

    def test_drift(self):
        with mock.patch("time.clock_gettime_ns", side_effect=[10 * peer.SECOND, 12 * peer.SECOND]):
            self.assertEqual(peer.LocalClock(100 * 10**6).now(), 12 * peer.SECOND + 200_000)

    def test_target_is_a_line_through_the_reference(self):
        clock = peer.DisciplinedClock(1000, 5000)
        self.apply(clock, 1500, True, reference=2000, correction=100, rate=10**11)
        self.assertEqual([clock.read(local) for local in (2000, 3000, 12000)], [6100, 7200, 17100])

    def test_slew(self):
        clock = peer.DisciplinedClock(0, 0)
        self.apply(clock, 0, False, reference=0, correction=-1_000_000)
        moments = (0, peer.SECOND, 2 * peer.SECOND, 3 * peer.SECOND)
        self.assertEqual([clock.slew(local) for local in moments], [-1_000_000, -500_000, 0, 0])
        self.assertEqual([clock.read(local) - local for local in moments], [0, -500_000, -1_000_000, -1_000_000])

    def test_slew_is_replaced_without_a_jump(self):
        clock = peer.DisciplinedClock(0, 0)
        self.apply(clock, 0, False, reference=0, correction=1_000_000)
        self.apply(clock, peer.SECOND, False, reference=0, correction=1_000_000, rate=1_000_000)
        self.assertEqual(clock.read(peer.SECOND), peer.SECOND + 500_000)
        self.assertEqual(clock.slew(peer.SECOND), 1_501_000)

    def test_error_bound(self):
        clock = peer.DisciplinedClock(0, 0)
        self.assertEqual(clock.error_bound(0), peer.NOT_KNOWN)
        self.apply(clock, 0, False, reference=0, correction=-600_000, error_bound=50, rate_error=1_500_000_001)
        self.assertEqual(clock.error_bound(peer.SECOND), 50 + 1_500_001 + 11 + 100_000)


class Program(unittest.TestCase):
    def start(self, master, *arguments):
        program = subprocess.Popen([sys.executable, PEER, "--master", "%s:%d" % master.address, *arguments],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(program.communicate)
        self.addCleanup(program.kill)
        return program

    def test_is_brought_to_the_masters_time(self):
        """The master's disciplined clock is the system's; it corrects the slave's target by all of its offset."""
        master = FakeMaster(self)
        program = self.start(master, "--clock-offset", "2.5", "--drift", "50", "--node-id", str(SLAVE_NODE))
        data, slave = master.receive(5)
        incarnation = field(data, ">Q", 32)
        for round_ in (1, 2, 3):
            t1 = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            system = time.time_ns()
            master.socket.sendto(request(t1=t1, round_=round_), slave)
            data, _ = master.receive(2)
            middle = system + (time.time_ns() - system) // 2
            response = {name: field(data, form, offset) for name, form, offset in RESPONSE_FIELDS}
            self.assertEqual((response["t1"], response["adjustment"]), (t1, round_ - 1))
            offset = response["t3"] + response["ahead"] + response["slew"] - middle
            master.socket.sendto(correction(round_, entry(
                SLAVE_NODE, incarnation, response["t3"], -offset, -50 * 10**6, 1000, 1000, round_ - 1)), slave)
            data, _ = master.receive(4)
            self.assertEqual((field(data, ">I", 12), field(data, ">I", 40)), (round_, round_))
        data, _ = master.receive()
        self.assertEqual((data[3], len(data), field(data, ">Q", 16)), (6, 48, 1))
        output, errors = program.communicate(timeout=PATIENCE)
        self.assertEqual((program.returncode, errors), (0, ""))
        events = [json.loads(line) for line in output.splitlines()]
        self.assertEqual([event["event"] for event in events],
                         ["following", "joined"] + ["request", "correction"] * 3 + ["left"])
        corrections = [event for event in events if event["event"] == "correction"]
        self.assertEqual([event["outcome"] for event in corrections], ["stepped", "slewed", "slewed"])
        self.assertAlmostEqual(corrections[0]["correction_ns"], -2.5e9, delta=50e6)
        self.assertLess(abs(corrections[-1]["disciplined_minus_system_ns"]), 50e6)

    def test_times_out(self):
        program = self.start(FakeMaster(self), "--timeout", "0.2")
        output, errors = program.communicate(timeout=PATIENCE)
        self.assertEqual((program.returncode, output, errors),
                         (1, "", "peer: 0 of 3 corrections applied within 0.2 s\n"))


if __name__ == "__main__":
    unittest.main()
