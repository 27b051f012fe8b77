#!/usr/bin/env python3
"""How long a group is without corrections: nine real nodes on loopback, started at once, their master killed or stopped.

    python3 bench/failover.py [--runs 20] [--binary target/release/berkeleyd]

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

NODES = 9
PATIENCE = 10.0


class Node:
    def __init__(self, binary, directory, number, arguments):
        self.number = number
        self.socket = directory / f"{number}.sock"
        offset, drift = random.uniform(-2, 2), random.uniform(-100, 100)
        command = [binary, "--node-id", str(number), "--status-socket", str(self.socket),
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


def wait(holds):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit("it does not come about")
        time.sleep(0.001)


def corrected_by(node, former, before):
    status = node.status()
    return (status and status["master_id"] not in (None, former) and status["adjustment"] > before
            and status["term"] > 0)


def spread(nodes):
    ahead = [status["clock"]["disciplined_ns"] - status["clock"]["system_ns"]
             for status in (node.status() for node in nodes) if status]
    return (max(ahead) - min(ahead)) / 1e3


def run(binary, how):
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        arguments = ["--bind", "127.0.0.1:0", "--interface", "127.0.0.1", "--group", f"239.255.5.25:{port}",
                     "--domain", str(random.randrange(1, 2 ** 32))]
        began = time.monotonic()
        nodes = [Node(binary, pathlib.Path(directory), number, arguments) for number in range(1, NODES + 1)]
        try:
            for node in nodes:
                wait(lambda node=node: corrected_by(node, None, 0))
            start = time.monotonic() - began
            time.sleep(3 + random.random())
            masters = [status["node_id"] for status in (node.status() for node in nodes) if status["role"] == "master"]
            assert len(masters) == 1, masters
            left = [node for node in nodes if node.number != masters[0]]
            before = {node.number: node.status()["adjustment"] for node in left}
            began = time.monotonic()
            nodes[masters[0] - 1].end(how)
            for node in left:
                wait(lambda node=node: corrected_by(node, masters[0], before[node.number]))
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
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name, how in (("kill -9", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)):
        figures = list(zip(*(run(options.binary, how) for _ in range(options.runs))))
        for what, unit, values in zip(("cold start", name, "spread in the 3 s after"), ("ms", "ms", "us"), figures):
            print(f"{what:<24} median {statistics.median(values):6.0f} {unit}, worst {max(values):6.0f} {unit}, "
                  f"{options.runs} runs")


if __name__ == "__main__":
    main()
