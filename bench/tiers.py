#!/usr/bin/env python3
"""How closely tiers of ensembles follow the topmost one: real nodes on loopback, a chain of domains with a submaster between each two.

    python3 bench/tiers.py [--tiers 3] [--leaves 3] [--seconds 60] [--binary target/release/berkeleyd]

All nodes read this machine's clock, so that the distances are true ones. They share an oscillator, though, and a kernel: a real network
adds what its oscillators wander and its paths differ, once for each tier.
"""

import argparse
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import tempfile
import time


def ask(path):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.5)
            client.connect(str(path))
            text = b""
            while part := client.recv(65536):
                text += part
        return json.loads(text)
    except (OSError, ValueError):
        return None


def ahead(status):
    return status["clock"]["disciplined_ns"] - status["clock"]["system_ns"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", type=int, default=3)
    parser.add_argument("--leaves", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--binary", default="target/release/berkeleyd")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        group = f"239.255.5.25:{probe.getsockname()[1]}"
        tiers, processes = [], []

        def start(arguments):
            path = pathlib.Path(directory) / f"{len(processes)}.sock"
            offset, drift = random.uniform(-2, 2), random.uniform(-100, 100)
            processes.append(subprocess.Popen(
                [options.binary, "--bind", "127.0.0.1:0", "--interface", "127.0.0.1", "--group", group, "--node-id",
                 str(len(processes) + 1), "--status-socket", str(path), f"--inject-offset={offset:.6f}s",
                 f"--inject-drift={drift:.3f}", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            return path

        try:
            began = time.monotonic()
            for tier in range(options.tiers):
                domain = ["--domain", str(tier + 1)]
                nodes = [start([*domain, "--role", "slave" if tier else "auto"]) for _ in range(options.leaves)]
                if tier + 1 < options.tiers:
                    nodes.append(start(["--domain", str(tier + 2), "--role", "master", "--upper-domain", str(tier + 1),
                                        "--upper-bind", "127.0.0.1:0", "--upper-interface", "127.0.0.1",
                                        "--upper-group", group]))
                tiers.append(nodes)
            waiting = [path for nodes in tiers for path in nodes]
            while waiting:
                waiting = [path for path in waiting if not (ask(path) or {}).get("synchronised")]
                if time.monotonic() > began + 20:
                    raise SystemExit(f"{len(waiting)} nodes are not synchronised")
            print(f"all synchronised after {(time.monotonic() - began) * 1e3:.0f} ms")
            time.sleep(10)
            distances = [[] for _ in tiers]
            bounds = [[] for _ in tiers]
            apart = looks_taken = 0
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                looks = [[status for status in map(ask, nodes) if status] for nodes in tiers]
                mean = statistics.fmean(ahead(status) for status in looks[0])
                for tier, statuses in enumerate(looks):
                    for status in statuses:
                        distances[tier].append(abs(ahead(status) - mean))
                        bounds[tier].append(status["error_bound_ns"])
                # Ensemble time lies within each node's bound, give or take how well both clocks of it can be read at once.
                allowed = [(ahead(status), status["error_bound_ns"] + status["clock"]["uncertainty_ns"])
                           for statuses in looks for status in statuses]
                apart += max(at - bound for at, bound in allowed) > min(at + bound for at, bound in allowed)
                looks_taken += 1
                time.sleep(0.05)
            for tier, (found, allowed) in enumerate(zip(distances, bounds)):
                found.sort()
                print(f"tier {tier}: from the topmost ensemble median {statistics.median(found):5.0f} ns, "
                      f"99 % {found[len(found) * 99 // 100]:6.0f} ns, bounds {statistics.median(allowed):6.0f} ns (median)")
            print(f"bounds without a point in common: {apart} of {looks_taken} looks")
        finally:
            for process in processes:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
