#!/usr/bin/env python3
"""How long the exporter takes to answer when the master it looks at has many slaves, and what it costs.

A real master and slave run on loopback; a socket in front of them multiplies the slave. Each request is on a connection of its own, as
Prometheus's first one is. Look at the load average beside the figures.
"""

import argparse
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from crowd import Crowd
from loopback import Node, stop, wait_for_status

PATIENCE = 30.0


def wait(what, look):
    deadline = time.monotonic() + PATIENCE
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            sys.exit(f"in {PATIENCE:g} s: {what}")
        time.sleep(0.05)


def get(url, accept="text/plain"):
    request = urllib.request.Request(url, headers={"Accept": accept})
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text = answer.read()
    return time.perf_counter() - start, text


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def cpu_seconds(pid):
    return time.clock_gettime((~pid << 3) | 2)


def measure(options, url, exporter):
    wait("all slaves are in the metrics", lambda: get(url + "metrics")[1].count(b"berkeleyd_peer_offset_seconds{") == options.slaves)
    print(f"slaves                {options.slaves}, load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
    for name, path, accept in (("/metrics, text", "metrics", "text/plain"),
                               ("/metrics, OpenMetrics", "metrics", "application/openmetrics-text"),
                               ("/api/nodes", "api/nodes?after=999999999999", "*/*")):
        times, sizes = zip(*((passed, len(text)) for passed, text in (get(url + path, accept) for _ in range(options.requests))))
        times = sorted(passed * 1e3 for passed in times)
        print(f"{name:<21} median {statistics.median(times):.1f} ms, 99 % {times[int(len(times) * 0.99)]:.1f} ms, "
              f"maximum {times[-1]:.1f} ms, {max(sizes) / 1e3:.0f} kB")
    before, start = cpu_seconds(exporter.pid), time.monotonic()
    time.sleep(options.rest)
    cpu = (cpu_seconds(exporter.pid) - before) / (time.monotonic() - start)
    print(f"at rest               {cpu * 1e3:.1f} ms CPU/s, {resident_kib(exporter.pid)} KiB resident")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slaves", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rest", type=float, default=10.0, help="seconds in which nobody asks, for the cost")
    parser.add_argument("--binary", default="target/release/berkeleyd")
    options = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        group = ["--group", f"239.255.5.25:{probe.getsockname()[1]}"]
    nodes = []
    with tempfile.TemporaryDirectory() as directory:
        exporter = crowd = None
        try:
            nodes += [Node(options.binary, directory, role, *group, "--role", role) for role in ("master", "slave")]
            wait_for_status(nodes)
            wait("a slave is listed", lambda: nodes[0].status()["peers"])
            path = os.path.join(directory, "crowd.sock")
            crowd = multiprocessing.Process(target=Crowd(nodes[0].status_path, options.slaves).serve, args=(path,), daemon=True)
            crowd.start()
            log_path = os.path.join(directory, "exporter.log")
            with open(log_path, "wb") as log:
                exporter = subprocess.Popen([options.binary, "exporter", "--listen", "127.0.0.1:0", "--socket", path], stderr=log)

            def url():
                with open(log_path, encoding="utf-8") as log:
                    return re.search(r"page at (\S+)", log.read())
            measure(options, wait("the exporter listens", url)[1], exporter)
        finally:
            for process in (exporter, crowd):
                if process:
                    process.terminate()
            stop(nodes)


if __name__ == "__main__":
    main()
