#!/usr/bin/env python3
"""How long a group is without corrections: nine real nodes, started at once, their master killed or stopped.

    python3 bench/failover.py [--runs 20] [--binary target/release/berkeleyd]
    unshare --user --map-root-user --net --mount python3 bench/failover.py --namespaces

All on loopback, or each in a network namespace of its own on one virtual switch.

Every figure is the time until *each* node that is left has been corrected by the new master (its status says so, and who is
master). The spread is the true one: all nodes read this machine's clock.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import tempfile
import time

from loopback import free_port

NODES = 9
PATIENCE = 10.0


class Node:
    def __init__(self, launcher, directory, number, arguments):
        self.number = number
        self.socket = directory / f"{number}.sock"
        offset, drift = random.uniform(-2, 2), random.uniform(-100, 100)
        command = [*launcher, "--node-id", str(number), "--status-socket", str(self.socket),
                   f"--inject-offset={offset:.6f}s", f"--inject-drift={drift:.3f}", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def status(self):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(0.5)
                client.connect(str(self.socket))
                text = b""
                while part := client.recv(65536):
                    text += part
            return json.loads(text)
        except (OSError, ValueError):
            return None

    def end(self, with_signal):
        self.process.send_signal(with_signal)


def wait(nodes, holds):
    """Until it holds of each of these nodes."""
    deadline = time.monotonic() + PATIENCE
    for node in nodes:
        while not holds(node):
            if time.monotonic() > deadline:
                keys = ("node_id", "role", "term", "master_id", "round", "adjustment")
                known = [[status[key] for key in keys] for status in (node.status() for node in nodes) if status]
                raise SystemExit(f"not within {PATIENCE} s of node {node.number}; {keys}: {known}")
            time.sleep(0.001)


def corrected_by(node, former, before):
    """True when it was corrected in another's mastership: a slave's round is that of its last correction in the present term."""
    status = node.status()
    if not status or status["master_id"] in (None, former):
        return False
    return status["adjustment"] > before and (status["role"] == "master" or status["round"] > 0)


def spread(nodes):
    ahead = [status["clock"]["disciplined_ns"] - status["clock"]["system_ns"]
             for status in (node.status() for node in nodes) if status]
    return (max(ahead) - min(ahead)) / 1e3


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
        if has_namespaces:
            arguments += ["--bind", "0.0.0.0:0", "--interface", "cable"]
        else:
            arguments += ["--bind", "127.0.0.1:0", "--interface", "127.0.0.1"]

        def launcher(number):
            return ["nsenter", f"--net=/run/netns/node{number}", binary] if has_namespaces else [binary]

        began = time.monotonic()
        nodes = [Node(launcher(number), pathlib.Path(directory), number, arguments) for number in range(1, NODES + 1)]
        try:
            wait(nodes, lambda node: corrected_by(node, None, 0))
            start = time.monotonic() - began
            time.sleep(3 + random.random())
            masters = [status["node_id"] for status in (node.status() for node in nodes) if status["role"] == "master"]
            assert len(masters) == 1, masters
            left = [node for node in nodes if node.number != masters[0]]
            before = {node.number: node.status()["adjustment"] for node in left}
            began = time.monotonic()
            nodes[masters[0] - 1].end(how)
            wait(left, lambda node: corrected_by(node, masters[0], before[node.number]))
            gap = time.monotonic() - began
            spreads = []
            while time.monotonic() < began + 3:
                spreads.append(spread(left))
            return start * 1e3, gap * 1e3, max(spreads)
        finally:
            for node in nodes:
                node.end(signal.SIGKILL)
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
