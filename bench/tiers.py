#!/usr/bin/env python3
"""How closely tiers of ensembles follow the topmost one: real nodes on loopback, a chain of domains with a submaster between each two.

    python3 bench/tiers.py [--tiers 3] [--leaves 3] [--seconds 60] [--binary target/release/berkeleyd]

All nodes read this machine's clock, so that the distances are true ones. They share an oscillator, though, and a kernel: a real network
adds what its oscillators wander and its paths differ, once for each tier.
"""

import argparse
import os
import random
import statistics
import tempfile
import time

from loopback import Node, any_wrong, free_port, look, stop, wait_for_status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", type=int, default=3)
    parser.add_argument("--leaves", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--binary", default="target/release/berkeleyd")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory:
        group = f"239.255.5.25:{free_port()}"
        tiers, nodes = [], []

        def start(*arguments):
            number = str(len(nodes) + 1)
            nodes.append(Node(options.binary, directory, number, "--interface", "127.0.0.1", "--group", group, "--node-id", number,
                              *any_wrong(random), *arguments))

        try:
            began = time.monotonic()
            for tier in range(options.tiers):
                first = len(nodes)
                for _ in range(options.leaves):
                    start("--domain", str(tier + 1), "--role", "slave" if tier else "auto")
                if tier + 1 < options.tiers:
                    start("--domain", str(tier + 2), "--role", "master", "--upper-domain", str(tier + 1),
                          "--upper-bind", "127.0.0.1:0", "--upper-interface", "127.0.0.1", "--upper-group", group)
                tiers.append(slice(first, len(nodes)))
            wait_for_status(nodes)
            waiting = nodes
            while waiting:
                waiting = [node for node in waiting if not node.status()["synchronised"]]
                if time.monotonic() > began + 20:
                    raise SystemExit(f"{len(waiting)} nodes are not synchronised")
            print(f"all synchronised after {(time.monotonic() - began) * 1e3:.0f} ms")
            time.sleep(10)
            distances, bounds = [[] for _ in tiers], [[] for _ in tiers]
            apart = looks_taken = 0
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                pairs, leads = look(nodes)
                mean = statistics.fmean(leads[tiers[0]])
                # Ensemble time lies within each node's bound, give or take how well both clocks of it can be read at once.
                claimed = [max(status["error_bound_ns"] for status in pair) for pair in pairs]
                allowed = [bound + max(status["clock"]["uncertainty_ns"] for status in pair) for bound, pair in zip(claimed, pairs)]
                apart += max(at - bound for at, bound in zip(leads, allowed)) > min(at + bound for at, bound in zip(leads, allowed))
                looks_taken += 1
                for tier, found, bound in zip(tiers, distances, bounds):
                    found += [abs(lead - mean) for lead in leads[tier]]
                    bound += claimed[tier]
                time.sleep(0.05)
            for tier, (found, allowed) in enumerate(zip(distances, bounds)):
                found.sort()
                print(f"tier {tier}: from the topmost ensemble median {statistics.median(found):5.0f} ns, "
                      f"99 % {found[len(found) * 99 // 100]:6.0f} ns, bounds {statistics.median(allowed):6.0f} ns (median)")
            print(f"bounds without a point in common: {apart} of {looks_taken} looks")
        finally:
            stop(nodes)


if __name__ == "__main__":
    main()
