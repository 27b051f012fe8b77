#!/usr/bin/env python3
"""A node that stands for election and can be master, written from PROTOCOL.md (version 1) alone, on top of the slave in peer.py.

It follows a master while there is one, claims when it falls silent, refuses the claims of others, and as master asks, averages and
corrects. After `--rounds` rounds of its own it stops, and hands over. As master it is a simple one: it asks once a round, takes the plain
mean of what is answered in it, and leaves rates as they are.
Every event is one JSON object on one line of standard output.
"""

import argparse
import socket
import sys
from collections import namedtuple

from peer import (ACKNOWLEDGEMENT, ANNOUNCE, CLAIM, CORRECTION, ENTRY, HANDOVER, LEAVE, NOT_KNOWN, PPT, REQUEST, RESPONSE, SECOND,
                  SUCCESSORS, TERM_LEAP, Dropped, Master, Slave, decode, encode, print_event, socket_address)

IMPLAUSIBLE, PLAUSIBLE, ESTABLISHED, APPOINTED = range(1, 5)  # merit
YEAR_2020 = 1_577_836_800 * SECOND
# Patience, in seconds.
STAGGER, LISTENING, IMPLAUSIBLE_PATIENCE, MEMORY = 0.15, 0.4, 1.0, 3.0
WINDOW, CLAIM_PAUSE, ROOM, YIELDS = 0.08, 0.04, 0.38, 3
FIRST_BACKOFF, LAST_BACKOFF, AFTER_MASTERSHIP, DEAF = 0.15, 2.0, 0.5, 5.0
# As master.
INTERVAL, HEARTBEAT, FIRST_ROUND, COLLECTING, TERM_PAUSE = 1.0, 0.1, 0.05, 0.1, 0.1
SLEPT = 3.5 * HEARTBEAT + 0.08
SUPERIOR_PAUSE, SUPERIOR_PATIENCE = 0.1, 1.0
SILENT_ROUNDS = 3
RATE_ERROR_PPT = 10**6

Rank = namedtuple("Rank", "merit priority node")
Superior = namedtuple("Superior", "master asked")


class Candidature:
    """A claim of a term."""

    def __init__(self, term, now):
        self.term, self.since, self.is_repeated = term, now, False


class Member:
    """A node that answers this master."""

    def __init__(self, incarnation, address, join):
        self.incarnation, self.address, self.join = incarnation, address, join
        self.t1 = self.answer = None
        self.missed = 0

    def is_life(self, incarnation, address):
        return (self.incarnation, self.address) == (incarnation, address)


class Mastership:
    """What a node knows as master; it lasts from its election until it steps down."""

    def __init__(self, term, now, inherited_members):
        self.term, self.since, self.inherited_members = term, now, inherited_members
        self.round = 0
        self.members, self.candidates = {}, {}
        self.announced = float("-inf")
        self.next_round, self.average_at = now + FIRST_ROUND, None
        self.raised = float("-inf")
        self.superior = None

    def answering(self):
        return {node: member for node, member in self.members.items() if member.missed < SILENT_ROUNDS}


class StandingPeer(Slave):
    """Either a slave, with the election beside it, or a master."""

    def __init__(self, *arguments, priority=0, is_rash=False, **options):
        self.priority = priority
        self._is_rash = is_rash
        super().__init__(*arguments, **options)
        self.mastership = None
        self.rounds = 0
        self._stand_afresh(0)

    def _stand_afresh(self, pause):
        self._since, self._not_before = self._timer(), self._timer() + pause
        self._claim, self._told_term = None, 0
        self._others = {}
        self._refused, self._yielded = 0, 0

    def run_until(self, rounds, timeout):
        """Takes part until it has averaged that many rounds as master, and then hands over; False if that takes too long."""
        deadline = self._timer() + timeout
        try:
            while self.rounds < rounds and self._timer() < deadline:
                self.run_timers()
                self.receive(min(deadline, self._next_timer()) - self._timer())
        finally:
            if self.mastership:
                self._resign(next(iter(self._successors_of_own()), 0))
            else:
                self._leave()
        return self.rounds >= rounds

    def run_timers(self):
        if self.mastership:
            self._preside()
        else:
            super().run_timers()
            if self._is_rash and self.applied:
                self._is_rash = False
                self._stand(self._term + 1)
            self._elect()

    def _next_timer(self):
        now = self._timer()
        if self.mastership:
            mine = self.mastership
            return min(at for at in (mine.announced + HEARTBEAT, mine.next_round, mine.average_at) if at is not None)
        if self._claim:
            return self._claim.since + (WINDOW if self._claim.is_repeated else CLAIM_PAUSE)
        return min(super()._next_timer(), max(self._claims_at(), now))

    def _merit(self):
        if self.applied or self._corrected[1]:
            return ESTABLISHED
        local = self._local.now()
        return PLAUSIBLE if self._clock.read(local) >= YEAR_2020 else IMPLAUSIBLE

    def _rank(self):
        return Rank(self._merit(), self.priority, self.node)

    # ---- the election ---------------------------------------------------------------------------------------------------

    def _claims_at(self):
        """Section 9, when to claim."""
        now = self._timer()
        better = sum(rank > self._rank() and now - at < MEMORY for rank, at in self._others.values())
        if self._left_to == self.node:
            return now
        if self._heard == float("-inf"):
            patience = LISTENING + better * STAGGER
            if self._merit() == IMPLAUSIBLE:
                patience += IMPLAUSIBLE_PATIENCE
            at = self._since + patience
        elif self.node in self._successors:
            at = self._heard + 3.5 * self._heartbeat + self._successors.index(self.node) * STAGGER
        else:
            at = self._heard + self._silence + (1 + better) * STAGGER
        return max(at, self._not_before)

    def _elect(self):
        now = self._timer()
        claim = self._claim
        if claim and self._heard > claim.since:
            self._give_up("a master is heard", 0)
        elif claim and now - claim.since >= 2 * WINDOW:
            self._give_up("it was not running", LISTENING)
        elif claim and now - claim.since >= WINDOW:
            self._claim = None
            self._become_master(claim.term)
        elif claim and not claim.is_repeated and now - claim.since >= CLAIM_PAUSE:
            claim.is_repeated = True
            self._send_claim(claim)
        elif not claim and now >= self._claims_at():
            term = max(self._term, self._told_term) + 1
            if self._left_to == self.node:
                self._become_master(term)
            else:
                self._stand(term)

    def _stand(self, term):
        # Its rank is what it says in the claim, both times.
        self._claimed_rank = self._rank()
        self._claim = Candidature(term, self._timer())
        self._event("claiming", term=term)
        self._send_claim(self._claim)

    def _send_claim(self, claim):
        for address in self._peers:
            self._send_in(claim.term, address, CLAIM, 0, self.priority, self._claimed_rank.merit, 0)

    def _give_up(self, why, pause):
        self._claim = None
        self._not_before = max(self._not_before, self._timer() + max(pause, FIRST_BACKOFF))
        self._event("not_elected", reason=why)

    def _on_join(self, frame, address):
        body, header = frame.body, frame.header
        if self.mastership:
            return self._admit(header, body, address)
        if body.merit:
            self._others[header.sender] = (Rank(body.merit, body.priority, header.sender), self._timer())

    def _on_claim(self, frame, address):
        header, body = frame.header, frame.body
        if self.mastership:
            return self._on_claim_as_master(header, body, address)
        super()._on_claim(frame, address)
        if self._rank() > Rank(body.merit, body.priority, header.sender):
            self._refuse(address, frame.header, 0)
            if not self._claim and self._timer() >= self._not_before:
                self._stand(max(self._term, self._told_term) + 1)
            raise Dropped("vain_claim")
        if self._yielded < YIELDS:
            self._yielded += 1
            if self._claim:
                self._give_up("a better one claims", ROOM)
            self._not_before = max(self._not_before, self._timer() + ROOM)

    def _on_refusal(self, frame, address):
        header = frame.header
        if self.mastership or not self._claim:
            raise Dropped("unsolicited")
        if header.term > max(self._term, self._told_term) + TERM_LEAP:
            raise Dropped("out_of_range")
        self._told_term = max(self._told_term, header.term)
        pause = FIRST_BACKOFF
        if frame.body.master:
            pause = min(FIRST_BACKOFF * 2**self._refused, LAST_BACKOFF)
            self._refused += 1
        self._event("refused", by=header.sender, master=frame.body.master, term=header.term)
        self._give_up("refused", pause)

    def _on_announce(self, frame, arrival):
        self._refused = self._yielded = 0
        super()._on_announce(frame, arrival)

    # ---- the mastership ----------------------------------------------------------------------------------------------------

    def _become_master(self, term):
        self._event("elected", term=term)
        self.mastership = Mastership(term, self._timer(), self._members)
        self._term, self._master = term, Master(self.node, self.incarnation, None)
        self._announce()

    def _members_said(self):
        mine = self.mastership
        count = len(mine.answering())
        return max(count, mine.inherited_members) if self._timer() - mine.since < 1.0 else count

    def _successors_of_own(self):
        """The members that stand, the best first. It counts every clock that answers."""
        ranks = [Rank(max(member.join.merit, ESTABLISHED), member.join.priority, node)
                 for node, member in self.mastership.answering().items() if member.join.merit]
        return [rank.node for rank in sorted(ranks, reverse=True)[:SUCCESSORS]]

    def _announce(self):
        mine = self.mastership
        mine.announced = self._timer()
        successors = self._successors_of_own()
        successors += [0] * (SUCCESSORS - len(successors))
        for address in self._peers:
            self._send(address, ANNOUNCE, mine.round, int(INTERVAL * SECOND), self.priority, self._merit(),
                       int(HEARTBEAT * 100), self._members_said(), *successors)

    def _preside(self):
        mine, now = self.mastership, self._timer()
        if now - mine.announced >= SLEPT:
            return self._step_down(0, 0, "it did not run", says_so=False)
        if mine.average_at is not None and (now >= mine.average_at or self._is_complete()):
            self._average()
        if now >= mine.next_round:
            mine.next_round = now + INTERVAL
            self._begin_round()
        if self.mastership and now - mine.announced >= HEARTBEAT * 0.9:
            self._announce()

    def _begin_round(self):
        mine = self.mastership
        if not mine.members:
            return
        mine.round += 1
        mine.average_at = self._timer() + COLLECTING
        for node, member in mine.members.items():
            member.missed += 1
            member.answer = None
            member.t1 = self._ask(member.address)
        if len(mine.members) >= 2 and not mine.answering():
            self._step_down(0, DEAF, "none of its members is heard")

    def _is_complete(self):
        return all(member.answer for member in self.mastership.members.values())

    def _ask(self, address):
        t1 = self._local.now()
        self._send(address, REQUEST, self.mastership.round, t1)
        return t1

    def _admit(self, header, join, address):
        """Section 5: being there, and admitting."""
        mine = self.mastership
        is_ours = (join.master, join.master_incarnation) == (self.node, self.incarnation)
        if header.term > mine.term or (header.term == mine.term and not is_ours):
            if header.term > mine.term + TERM_LEAP:
                raise Dropped("out_of_range")
            self._outbid(header.term)
        member = mine.members.get(header.sender)
        if member and member.address != address and member.missed < 2:
            raise Dropped("duplicate_node_id")
        if member and member.is_life(header.incarnation, address):
            member.join = join
            if member.t1 is None:
                member.t1 = self._ask(address)
        else:
            mine.candidates[address] = (header.sender, header.incarnation, join, self._ask(address))

    def _outbid(self, term):
        mine, now = self.mastership, self._timer()
        if now - mine.raised >= TERM_PAUSE:
            mine.raised = now
            self._term = mine.term = max(mine.term, term) + 1
            mine.round = 0
            self._event("term", term=mine.term)
            self._announce()

    def _on_response(self, header, response, address, t4):
        mine = self.mastership
        candidate = mine.candidates.get(address)
        if candidate and candidate[:2] == (header.sender, header.incarnation) and response.t1 == candidate[3]:
            del mine.candidates[address]
            member = Member(header.incarnation, address, candidate[2])
            member.t1 = response.t1
            mine.members[header.sender] = member
            self._event("admitted", node=header.sender)
        member = mine.members.get(header.sender)
        if member is None or member.address != address:
            raise Dropped("stranger")
        if member.incarnation != header.incarnation:
            raise Dropped("stale_incarnation")
        if response.t1 != member.t1:
            raise Dropped("unsolicited")
        delay = (t4 - response.t1) - (response.t3 - response.t2)
        if response.t3 < response.t2 or delay < 0:
            raise Dropped("implausible_times")
        member.t1, member.missed = None, 0
        # What the slave's local clock is ahead of ours; our local time at its t3; its target less ours then.
        theta = ((response.t2 - response.t1) + (response.t3 - t4)) // 2
        offset = response.t3 + response.ahead + response.slew - self._clock.target(response.t3 - theta)
        member.answer = (response, offset, delay)

    def _average(self):
        mine = self.mastership
        mine.average_at = None
        answers = {node: member for node, member in mine.members.items() if member.answer}
        if not answers:
            return
        mean = sum(member.answer[1] for member in answers.values()) // (len(answers) + 1)
        local = self._local.now()
        own = ENTRY.record(self.node, self.incarnation, local, mean, self._clock.rate,
                           max(member.answer[2] for member in answers.values()), RATE_ERROR_PPT, 0)
        self._clock.apply(own, local, step=False)
        self._corrected = (mine.term, self.node)
        for node, member in answers.items():
            response, offset, delay = member.answer
            entry = ENTRY.struct.pack(node, member.incarnation, response.t3, mean - offset, response.rate,
                                      delay + abs(offset), RATE_ERROR_PPT, response.adjustment)
            self._socket.sendto(self._correction(entry), member.address)
        self.rounds += 1
        local, system = self._local.with_system()
        self._event("averaged", round=mine.round, nodes=len(answers) + 1, correction_ns=mean,
                    disciplined_minus_system_ns=self._clock.read(local) - system)

    def _correction(self, entry):
        head = encode(CORRECTION, self._domain, self.mastership.round, self.mastership.term, self.node, self.incarnation,
                      1, 0, 0, NOT_KNOWN)
        length = len(head) + len(entry)
        return head[:6] + length.to_bytes(2, "big") + head[8:] + entry

    def _on_claim_as_master(self, header, claim, address):
        member = self.mastership.members.get(header.sender)
        is_member = member and member.is_life(header.incarnation, address) and member.missed < SILENT_ROUNDS
        is_preferred = claim.merit == APPOINTED or claim.priority > self.priority
        if claim.claim_flags & HANDOVER:
            if is_member and is_preferred:
                return self._step_down(header.sender, AFTER_MASTERSHIP, "a preferred node asked for it")
        else:
            self._refuse(address, header, self.node)
        raise Dropped("vain_claim")

    def _on_rival(self, header, announce, address):
        """Section 9, two masters."""
        mine, now = self.mastership, self._timer()
        if header.term > mine.term + TERM_LEAP:
            return
        own = (False, self._members_said() > 0, mine.term, self.priority, self.node)
        other = (announce.merit == APPOINTED, announce.members > 0, header.term, announce.priority, header.sender)
        self._event("rival", node=header.sender, term=header.term)
        if own > other:
            if header.term >= mine.term:
                self._outbid(header.term)
        elif not own[1]:
            self._step_down(header.sender, AFTER_MASTERSHIP, "a better master is there")
        elif mine.superior is None or now - mine.superior.asked >= SUPERIOR_PAUSE:
            mine.superior = Superior(Master(header.sender, header.incarnation, address), now)
            self._join([address])

    def _resign(self, successor):
        for address in self._peers:
            self._send(address, LEAVE, 0, successor)
        self._event("resigned", successor=successor)

    def _step_down(self, successor, pause, why, says_so=True):
        if says_so:
            self._resign(successor)
        self._event("stepped_down", reason=why)
        self.mastership = None
        self._heard, self._left_to = float("-inf"), None
        self._successors, self._members, self._applied_round = (), 0, 0
        self._stand_afresh(pause)
        self._start_joining()

    def _handle(self, data, address, arrival):
        """As master it has handlers of its own; a better master's request ends the mastership and is then answered."""
        if not self.mastership:
            return super()._handle(data, address, arrival)
        frame = decode(data, self._domain)
        header, body = frame.header, frame.body
        if header.sender == self.node:
            raise Dropped("own_frame" if header.incarnation == self.incarnation else "duplicate_node_id")
        if address not in self._peers:
            raise Dropped("not_a_peer")
        if self._timer() - self.mastership.announced >= SLEPT:
            self._step_down(0, 0, "it did not run", says_so=False)
            return super()._handle(data, address, arrival)
        if header.type == REQUEST:
            superior = self.mastership.superior
            if (superior and superior.master == Master(header.sender, header.incarnation, address)
                    and self._timer() - superior.asked < SUPERIOR_PATIENCE and header.term > self.mastership.term):
                self._step_down(header.sender, AFTER_MASTERSHIP, "a better master is there")
                return super()._handle(data, address, arrival)
            raise Dropped("wrong_role")
        if header.type == CORRECTION:
            raise Dropped("wrong_role")
        if header.type == ANNOUNCE:
            self._on_rival(header, body, address)
            raise Dropped("rival")
        if header.type == RESPONSE:
            self._on_response(header, body, address, arrival)
        elif header.type == LEAVE:
            member = self.mastership.members.get(header.sender)
            if member and member.is_life(header.incarnation, address):
                del self.mastership.members[header.sender]
        elif header.type != ACKNOWLEDGEMENT:
            self._anybodys[header.type](frame, address)

    def _send_in(self, term, address, kind, round_, *values):
        self._socket.sendto(encode(kind, self._domain, round_, term, self.node, self.incarnation, *values), address)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="A berkeleyd node that stands for election and hands over after some rounds.")
    parser.add_argument("--peer", type=socket_address, required=True, action="append", metavar="IP:PORT")
    parser.add_argument("--bind", type=socket_address, required=True, metavar="IP:PORT")
    parser.add_argument("--domain", type=int, default=0, metavar="N")
    parser.add_argument("--node-id", type=int, metavar="N", help="default: random")
    parser.add_argument("--priority", type=int, default=0, metavar="N")
    parser.add_argument("--clock-offset", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--drift", type=float, default=0.0, metavar="PPM")
    parser.add_argument("--rash", action="store_true", help="claim once while a master is heard, to be refused")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds as master before it hands over")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(options.bind)
            node = StandingPeer(sock, options.peer, print_event, options.domain, options.node_id,
                                round(options.clock_offset * SECOND), round(options.drift * PPT / 10**6),
                                priority=options.priority, is_rash=options.rash)
            done = node.run_until(options.rounds, options.timeout)
    except OSError as error:
        print("peer: %s" % error, file=sys.stderr)
        return 1
    if not done:
        print("peer: %d of %d rounds within %g s" % (node.rounds, options.rounds, options.timeout), file=sys.stderr)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
