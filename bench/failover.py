#!/usr/bin/env python3
"""How long a group is without corrections: nine real nodes, started at once, their master killed or stopped.

    python3 bench/failover.py [--runs 20] [--binary target/release/berkeleyd]
    unshare --user --map-root-user --net --mount python3 bench/failover.py --namespaces

All on loopback, or each in a network namespace of its own on one virtual switch.

Every figure is the time until *each* node that is left has been corrected by the new master (its status says so, and who is
master). The spread is the true one: all nodes read this machine's clock.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time

from loopback import Node, any_wrong, free_port, look

NODES = 9
PATIENCE = 10.0


def wait(nodes, holds):
    """Until it holds of each of these nodes."""
    deadline = time.monotonic() + PATIENCE
    for node in nodes:
        while not holds(node):
            if time.monotonic() > deadline:
                keys = ("node_id", "role", "term", "master_id", "round", "adjustment")
                known = [[status[key] for key in keys] for status in (node.seen() for node in nodes) if status]
                raise SystemExit(f"not within {PATIENCE} s of node {node.name}; {keys}: {known}")
            time.sleep(0.001)


def corrected_by(node, former, before):
    """True when it was corrected in another's mastership: a slave's round is that of its last correction in the present term."""
    status = node.seen()
    if not status or status["master_id"] in (None, former):
        return False
    return status["adjustment"] > before and (status["role"] == "master" or status["round"] > 0)


def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)


def make_namespaces():
    """One for each node, on one switch; they go with the namespaces that this process was started in."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    ip("link set lo up")
    ip("link add switch type bridge mcast_snooping 0")
    ip("link set switch up")
    for number in range(1, NODES + 1):
        ip(f"netns add node{number}")
        ip(f"-n node{number} link add cable type veth peer name port{number} netns {os.getpid()}")
        ip(f"-n node{number} address add 10.55.25.{number}/24 dev cable")
        ip(f"-n node{number} link set cable up")
        ip(f"link set port{number} master switch")
        ip(f"link set port{number} up")


def run(binary, has_namespaces, how, options=()):
    with tempfile.TemporaryDirectory() as directory:
        arguments = ["--group", f"239.255.5.25:{free_port()}", "--domain", str(random.randrange(1, 2 ** 32)), *options]
        arguments += ["--interface", "cable" if has_namespaces else "127.0.0.1"]

        def node(number):
            place = {"launcher": ["nsenter", f"--net=/run/netns/node{number}"], "bind": "0.0.0.0:0"} if has_namespaces else {}
            return Node(binary, directory, str(number), "--node-id", str(number), *any_wrong(random), *arguments, **place)

        began = time.monotonic()
        nodes = [node(number) for number in range(1, NODES + 1)]
        try:
            wait(nodes, lambda node: corrected_by(node, None, 0))
            start = time.monotonic() - began
            time.sleep(3 + random.random())
            masters = [status["node_id"] for status in (node.status() for node in nodes) if status["role"] == "master"]
            assert len(masters) == 1, masters
            former = nodes[masters[0] - 1]
            left = [node for node in nodes if node is not former]
            before = {node: node.status()["adjustment"] for node in left}
            began = time.monotonic()
            former.process.send_signal(how)
            wait(left, lambda node: corrected_by(node, masters[0], before[node]))
            gap = time.monotonic() - began
            spreads = []
            while time.monotonic() < began + 3:
                _, leads = look(left)
                spreads.append(max(leads) - min(leads))
            return start * 1e3, gap * 1e3, max(spreads) / 1e3
        finally:
            for node in nodes:
                node.process.kill()
                node.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--binary", default="target/release/berkeleyd")
    parser.add_argument("--namespaces", action="store_true", help="each node in one of its own; inside of unshare only")
    options = parser.parse_args()
    if options.namespaces:
        make_namespaces()
    for name, how in (("kill -9", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)):
        before = os.getloadavg()[0]
        figures = list(zip(*(run(options.binary, options.namespaces, how) for _ in range(options.runs))))
        print(f"load average {before:.1f} to {os.getloadavg()[0]:.1f}")
        for what, unit, values in zip(("cold start", name, "spread in the 3 s after"), ("ms", "ms", "us"), figures):
            print(f"{what:<24} median {statistics.median(values):6.0f} {unit}, worst {max(values):6.0f} {unit}, "
                  f"{options.runs} runs")


if __name__ == "__main__":
    main()
