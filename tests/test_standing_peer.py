#!/usr/bin/env python3
"""Tests of standing_peer.py: one node is driven by hand, with a timer that only moves when told to, as in test_peer.py."""

import struct
import unittest

import peer
import standing_peer
from test_peer import SLAVE_NODE, SlaveTest, announce, claim, field, frame, request

JOIN, LEAVE, ANNOUNCE, CLAIM, REFUSAL = 5, 6, 7, 8, 9


def join(*fields, priority=0, merit=3, master=0, master_incarnation=0, **header):
    return frame(JOIN, 120, (">i", 40, priority), (">B", 46, merit), (">Q", 48, master), (">Q", 56, master_incarnation), *fields,
                 **header)


def refusal(master=0, **header):
    return frame(REFUSAL, 48, (">Q", 40, master), **header)


class StandingTest(SlaveTest):
    def setUp(self):
        super().setUp()
        self.slave = standing_peer.StandingPeer(self.socket, [self.master.address], self.events.append, node=SLAVE_NODE,
                                                timer=lambda: self.now, priority=5)

    def assert_dropped(self, reason, data, sender=None):
        """Whatever else it tells of."""
        self.assertEqual(self.send(data, sender)[-1].get("reason"), reason)

    def at(self, now):
        """Goes on to that time, and runs the timers."""
        self.now = now
        self.slave.run_timers()

    def said(self, kind):
        """The next frame of that type that it sends."""
        return self.master.receive(kind)[0]

    def said_nothing_of(self, *kinds):
        """What it has sent so far holds nothing of these types."""
        self.master.socket.setblocking(False)
        try:
            while True:
                self.assertNotIn(self.master.receive()[0][3], kinds)
        except BlockingIOError:
            pass
        finally:
            self.master.socket.settimeout(10)


class Claiming(StandingTest):
    def test_at_a_cold_start(self):
        self.at(0)
        self.assertEqual(self.said(JOIN)[40:47], struct.pack(">iHB", 5, 0, standing_peer.PLAUSIBLE))
        self.at(0.39)
        self.said_nothing_of(CLAIM)
        for now in (0.4, 0.441):
            self.at(now)
            data = self.said(CLAIM)
            self.assertEqual((field(data, ">Q", 16), data[40:48]), (1, struct.pack(">iBxH", 5, standing_peer.PLAUSIBLE, 0)))
        self.at(0.481)
        data = self.said(ANNOUNCE)
        self.assertEqual((len(data), field(data, ">Q", 16), field(data, ">Q", 24)), (120, 1, SLAVE_NODE))

    def test_better_ones_are_waited_for(self):
        self.send(join(priority=6, sender=8, incarnation=88))
        self.send(join(priority=5, sender=8 + 1, incarnation=88, merit=1))
        self.at(0.54)
        self.said_nothing_of(CLAIM)
        self.at(0.56)
        self.said(CLAIM)

    def test_the_second_successor_after_a_silence(self):
        self.ask(term=3)
        self.send(announce((">Q", 56, 8), (">Q", 64, SLAVE_NODE), term=3, heartbeat=20))
        self.at(0.84)
        self.said_nothing_of(CLAIM)
        self.at(0.86)
        self.assertEqual(field(self.said(CLAIM), ">Q", 16), 4)

    def test_whoever_is_named_by_a_leave_is_elected_by_it(self):
        self.ask(term=3)
        self.send(frame(LEAVE, 48, (">Q", 40, SLAVE_NODE), term=3))
        self.at(0)
        self.assertEqual(field(self.said(ANNOUNCE), ">Q", 16), 4)
        self.said_nothing_of(CLAIM)

    def test_a_refused_candidate_waits_longer_each_time_and_learns_the_term(self):
        self.at(0.4)
        for pause in (0.15, 0.3, 0.6, 1.2, 2.0, 2.0):
            self.said(CLAIM)
            self.send(refusal(master=7, term=6))
            self.at(self.now + pause - 0.01)
            self.said_nothing_of(CLAIM)
            self.at(self.now + 0.02)
        self.assertEqual(field(self.said(CLAIM), ">Q", 16), 7)
        self.assert_dropped("out_of_range", refusal(term=7 + 65_536))

    def test_who_was_stopped_has_not_won(self):
        self.at(0.4)
        self.said(CLAIM)
        self.at(0.57)
        self.assertIsNone(self.slave.mastership)


class Refusing(StandingTest):
    def test_a_lesser_one_is_refused_and_outclaimed(self):
        self.assert_dropped("vain_claim", claim(priority=4, merit=2, term=1, sender=8, incarnation=88))
        self.assertEqual(field(self.said(REFUSAL), ">Q", 40), 0)
        self.assertEqual(field(self.said(CLAIM), ">Q", 16), 1)

    def test_a_better_one_is_made_room_for_three_times(self):
        self.at(0.4)
        self.said(CLAIM)
        for now in (0.41, 0.42, 0.43):
            self.now = now
            self.send(claim(priority=6, term=1, sender=8, incarnation=88))
        self.assertEqual(self.slave._claims_at(), 0.43 + 0.38)
        self.now = 0.44
        self.send(claim(priority=6, term=1, sender=8, incarnation=88))
        self.assertEqual(self.slave._claims_at(), 0.43 + 0.38)


class Presiding(StandingTest):
    def setUp(self):
        super().setUp()
        self.at(0.4)
        self.at(0.441)
        self.at(0.481)
        self.said(ANNOUNCE)

    def test_a_claim_is_refused_and_a_preferred_member_is_given_way_to(self):
        self.assert_dropped("vain_claim", claim(priority=6, term=2, sender=8, incarnation=88))
        self.assertEqual(field(self.said(REFUSAL), ">Q", 40), SLAVE_NODE)
        self.send(join(sender=8, incarnation=88, priority=6))
        t1 = field(self.said(1), ">q", 40)
        self.send(frame(2, 120, (">q", 40, t1), (">q", 48, 10), (">q", 56, 10), (">q", 88, 2**63 - 1), sender=8, incarnation=88))
        self.send(claim((">H", 46, 1), priority=6, term=2, sender=8, incarnation=88))
        self.assertEqual(field(self.said(LEAVE), ">Q", 40), 8)
        self.assertIsNone(self.slave.mastership)

    def test_a_term_that_was_not_known_is_outbid(self):
        self.send(join(term=9, master=8, master_incarnation=88, sender=10))
        self.assertEqual(field(self.said(ANNOUNCE), ">Q", 16), 10)
        self.assert_dropped("out_of_range", join(term=11 + 65_536, master=8, master_incarnation=88, sender=10))

    def test_of_two_masters_without_members_the_worse_steps_down(self):
        self.assert_dropped("rival", announce(term=1, sender=8, incarnation=88, merit=3))
        self.assertEqual(field(self.said(ANNOUNCE), ">Q", 16), 2, "its priority is higher: it takes the term above")
        self.assert_dropped("rival", announce((">H", 54, 1), term=2, sender=8, incarnation=88))
        self.assertEqual(field(self.said(LEAVE), ">Q", 40), 8)
        self.assertIsNone(self.slave.mastership)

    def test_with_members_only_when_the_better_is_seen_to_hear_it(self):
        self.slave.mastership.inherited_members = 3
        better = dict(term=5, sender=8, incarnation=88)
        self.assert_dropped("wrong_role", request(**better))
        self.assert_dropped("rival", announce((">H", 54, 1), **better))
        self.assertIsNotNone(self.slave.mastership)
        self.assertEqual(field(self.said(JOIN), ">Q", 48), SLAVE_NODE)
        self.send(request(**better))
        self.assertEqual(field(self.said(LEAVE), ">Q", 40), 8)
        self.assertEqual(field(self.said(2), ">Q", 16), 5)

    def test_who_was_stopped_steps_down_before_anything_else(self):
        self.at(0.481 + 0.44)
        self.assertIsNone(self.slave.mastership)
        self.said_nothing_of(LEAVE, ANNOUNCE)


if __name__ == "__main__":
    unittest.main()
