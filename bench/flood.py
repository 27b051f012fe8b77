#!/usr/bin/env python3
"""What a flood of hostile datagrams does to one node of an ensemble on this machine's loopback interface.

A master and some slaves with keys agree; then `examples/flood.rs` sends one of them garbage, frames without a trailer, forgeries and
replays of what it hears on the group. All processes read the same CLOCK_REALTIME, so that `disciplined_ns - system_ns` of
their statuses shows their true disagreement, which is held against the bounds that they publish. The flood's sender, the nodes and
this script share the machine: look at the load average beside the figures.

  cargo build --release --bins --example flood && bench/flood.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from loopback import free_port, key_file, look, micros, start_ensemble, stop

SETTLING = 8.0  # seconds before the flood
PAUSE = 0.1


def worst(nodes, seconds):
    """(largest spread in ns, largest part of the bounds that two nodes were apart, some node was not synchronised) of a while."""
    end, spread, part, lost = time.monotonic() + seconds, 0, 0.0, 0
    while time.monotonic() < end:
        statuses, at_once = look(nodes)
        # What the status itself cannot tell: its two clocks are read one after the other.
        bounds = [max(status["error_bound_ns"] + status["clock"]["uncertainty_ns"] for status in pair) for pair in statuses]
        leads = list(zip(at_once, bounds))
        spread = max(spread, max(at_once) - min(at_once))
        lost += not all(status["synchronised"] for pair in statuses for status in pair)
        for one, bound in leads:
            for other, other_bound in leads:
                part = max(part, abs(one - other) / (bound + other_bound))
        time.sleep(PAUSE)
    return spread, part, lost


def kernel_drops(port):
    """Datagrams that the kernel threw away because the socket's buffer was full."""
    with open("/proc/net/udp", encoding="ascii") as lines:
        rows = [line.split() for line in lines][1:]
    return sum(int(row[12]) for row in rows if int(row[1].rpartition(":")[2], 16) == port)


def flood(options, role, kind):
    """Floods one node; True when all goals are met."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        common = ["--group", f"239.255.5.25:{port}", "--domain", str(port), "--key-file",
                  key_file(options.binary, directory)]
        nodes = []
        try:
            start_ensemble(options.binary, directory, common, options.slaves, nodes)
            time.sleep(SETTLING)
            target = nodes[0] if role == "master" else nodes[1]
            before = worst(nodes, 3.0)
            address = target.status()["address"]
            at = int(address.rpartition(":")[2])
            counters, lines, resident = target.status()["counters"], len(target.log().splitlines()), target.resident_kib()
            cpu, drops = target.cpu_seconds(), kernel_drops(at)
            sender = subprocess.Popen([options.sender, address, f"239.255.5.25:{port}", str(port), kind, str(options.rate),
                                       str(options.seconds)], stdout=subprocess.PIPE, text=True)
            time.sleep(3.0 if kind in ("replay", "mixed") else 0.0)  # it listens first
            during = worst(nodes, options.seconds - 0.5)
            sent = int(sender.communicate()[0])
            cpu = (target.cpu_seconds() - cpu) / options.seconds
            after = target.status()["counters"]
            dropped = {name: count - counters["dropped"].get(name, 0) for name, count in after["dropped"].items()}
            dropped = {name: count for name, count in dropped.items() if count}
            new_lines = len(target.log().splitlines()) - lines
            grown = target.resident_kib() - resident
            lost = kernel_drops(at) - drops
            print(f"{kind} at the {role}: {sent / options.seconds:,.0f} datagrams/s for {options.seconds} s, load {os.getloadavg()[0]:.1f}")
            print(f"  spread {micros(before[0])} before, {micros(during[0])} during; of the bounds {before[1]:.2f} before, "
                  f"{during[1]:.2f} during; "
                  f"not synchronised in {during[2]} looks")
            print(f"  CPU {cpu * 100:.0f} %, memory {grown:+d} KiB, {new_lines} log lines, dropped by the kernel {lost} of {sent}")
            print(f"  dropped {dropped}", flush=True)
            return during[1] <= 1 and new_lines < 10 * max(1.0, options.seconds / 60) and grown < 512
        finally:
            stop(nodes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slaves", type=int, default=4)
    parser.add_argument("--rate", type=int, default=100_000, help="datagrams a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--roles", nargs="*", default=["slave", "master"])
    parser.add_argument("--kinds", nargs="*", default=["garbage", "plain", "forged", "replay", "mixed"])
    parser.add_argument("--binary", default="target/release/berkeleyd")
    parser.add_argument("--sender", default="target/release/examples/flood")
    options = parser.parse_args()
    met = [flood(options, role, kind) for role in options.roles for kind in options.kinds]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
