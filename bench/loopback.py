#!/usr/bin/env python3
"""How well, and at what cost, one master and many slaves agree on this machine's loopback interface.

All processes read the same CLOCK_REALTIME, so that `disciplined_ns - system_ns` of their statuses shows their true
disagreement. The figures are those of a machine that also runs all the nodes: look at the load average beside them.
"""

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone

SAMPLING_PAUSE = 0.1
SETTLED = 5.0  # seconds after the last start
START_PATIENCE = 5.0
STEPPED = re.compile(r"^(\S+Z) INFO +stepped by=", re.MULTILINE)


def ask(path):
    """The status that a node shows on this socket."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(5)
        stream.connect(path)
        with stream.makefile("rb") as answer:
            return json.load(answer)


class Node:
    """One berkeleyd and what was seen of it."""

    def __init__(self, binary, directory, name, *options, launcher=(), bind="127.0.0.1:0"):
        self.status_path = os.path.join(directory, name + ".sock")
        self.log_path = os.path.join(directory, name + ".log")
        self.name, self.started, self.stepped_seen = name, time.time(), None
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*launcher, binary, "--bind", bind, "--status-socket", self.status_path, *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)

    def status(self):
        return ask(self.status_path)

    def seen(self):
        """Its status, or nothing when it does not answer."""
        try:
            return self.status()
        except (OSError, ValueError):
            return {}

    def log(self):
        with open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def first_correction(self):
        """Seconds from its start to its first correction, by its log (milliseconds); None when there was none."""
        stepped = STEPPED.search(self.log())
        if not stepped:
            return None
        when = datetime.strptime(stepped[1], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
        return when.timestamp() - self.started

    def resident_kib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def cpu_seconds(self):
        """By the process's CPU clock, as clock_getcpuclockid(3) names it: to the nanosecond, unlike /proc."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def cost(self):
        """What grows with time: (wake-ups, datagrams in and out, CPU seconds)."""
        counters = self.status()["counters"]
        datagrams = sum(sum(counters[kind].values()) for kind in ("sent", "received", "dropped"))
        return counters["wake_ups"], datagrams, self.cpu_seconds()


def ahead(status):
    return status["clock"]["disciplined_ns"] - status["clock"]["system_ns"]


def at_once(first, second):
    """How far each clock was ahead of the machine's at one instant, in ns, from two statuses of each node.

    To look at all of them takes milliseconds, in which clocks that agree move together against the machine's, by 14 ns a millisecond when
    they run 14 ppm fast. So they are looked at in one order and then back, and the instant is the middle of it.
    """
    instant = (first[-1]["clock"]["system_ns"] + second[-1]["clock"]["system_ns"]) // 2
    return [ahead(one) + (ahead(other) - ahead(one)) * (instant - one["clock"]["system_ns"])
            // max(other["clock"]["system_ns"] - one["clock"]["system_ns"], 1) for one, other in zip(first, second)]


def look_at(paths):
    """([status on each socket, twice], [ns that its clock was ahead of the machine's, all at one instant])."""
    first = [ask(path) for path in paths]
    second = [ask(path) for path in reversed(paths)][::-1]
    return list(zip(first, second)), at_once(first, second)


def look(nodes):
    return look_at([node.status_path for node in nodes])


def key_file(binary, directory):
    """The path of a new key file."""
    path = os.path.join(directory, "keys")
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        subprocess.run([binary, "keygen"], stdout=file, check=True)
    return path


def any_wrong(dice):
    """Options of a clock that is up to two seconds wrong and drifts by up to 100 ppm."""
    return [f"--inject-offset={dice.uniform(-2, 2):.6f}s", f"--inject-drift={dice.uniform(-100, 100):.3f}"]


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ensemble(binary, directory, common, slaves, nodes):
    """Starts a master and some slaves of other times and rates, adds them to `nodes` one by one, and waits until all of them answer."""
    nodes.append(Node(binary, directory, "master", *common, "--role", "master"))
    for index in range(slaves):
        nodes.append(Node(binary, directory, f"slave{index}", *common, "--role", "slave",
                          f"--inject-offset={index * 10}ms", f"--inject-drift={index * 7 - 20}"))
    wait_for_status(nodes)


def wait_for_status(nodes):
    deadline = time.monotonic() + START_PATIENCE
    for node in nodes:
        while True:
            try:
                node.status()
                break
            except OSError as error:
                if time.monotonic() > deadline or node.process.poll() is not None:
                    sys.exit(f"{node.name} does not start: {error}\n{node.log()}")
                time.sleep(0.01)


def sample(nodes, until):
    """(seconds since the last start, spread in ns, all synchronised) ten times a second."""
    last_start = max(node.started for node in nodes)
    samples, due = [], time.time()
    while time.time() < last_start + until:
        at = time.time() - last_start
        statuses, leads = look(nodes)
        samples.append((at, max(leads) - min(leads), all(status["synchronised"] for pair in statuses for status in pair)))
        due = max(due + SAMPLING_PAUSE, time.time())
        time.sleep(max(0.0, due - time.time()))
    return samples


def cost_at_rest(nodes, seconds):
    """Cost a second of each node while nobody looks."""
    before, start = [node.cost() for node in nodes], time.monotonic()
    time.sleep(seconds)
    after, elapsed = [node.cost() for node in nodes], time.monotonic() - start
    return [[(now - then) / elapsed for now, then in zip(*pair)] for pair in zip(after, before)]


def micros(nanos):
    return f"{nanos / 1000:.1f} µs"


def report(options, master, slaves, samples, rest):
    def at(second):
        return next((spread for when, spread, _ in samples if when >= second), None)

    settled = [spread for when, spread, _ in samples if when >= SETTLED]
    synchronised = next((when for when, spread, all_are in samples if all_are and spread < 1e6), None)
    firsts = [slave.first_correction() for slave in slaves]
    never = sum(first is None for first in firsts)
    firsts = [first for first in firsts if first is not None]
    resident = [slave.resident_kib() for slave in slaves]
    master_rest, slave_rest = rest[0], [statistics.median(column) for column in zip(*rest[1:])]
    print(f"slaves                      {len(slaves)}, seed {options.seed}, load average {os.getloadavg()[0]:.2f} "
          f"on {os.cpu_count()} CPUs")
    print(f"spread at 1 s               {micros(at(1.0))}")
    print(f"all within 1 ms after       {'never' if synchronised is None else f'{synchronised:.2f} s'}")
    print(f"spread from {SETTLED:g} s on         median {micros(statistics.median(settled))}, "
          f"maximum {micros(max(settled))}, {len(settled)} samples")
    print(f"first correction after      median {statistics.median(firsts):.3f} s, maximum {max(firsts):.3f} s"
          + (f", never: {never}" if never else ""))
    print(f"resident memory             slave median {statistics.median(resident):.0f} KiB, maximum {max(resident)} KiB, "
          f"master {master.resident_kib()} KiB")
    for name, (wake_ups, datagrams, cpu) in (("slave", slave_rest), ("master", master_rest)):
        print(f"{name} at rest".ljust(28) + f"{wake_ups:.2f} wake-ups/s, {datagrams:.2f} datagrams/s, "
              f"{cpu * 1e3:.2f} ms CPU/s")


def stop(nodes):
    """Ends the nodes, the master last, and by force who does not end within five seconds."""
    for node in reversed(nodes):
        node.process.terminate()
    for node in nodes:
        try:
            node.process.wait(5)
        except subprocess.TimeoutExpired:
            node.process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slaves", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0, help="sampling after the last start; more than 5")
    parser.add_argument("--rest", type=float, default=5.0, help="seconds in which nobody looks, for the cost")
    parser.add_argument("--binary", default="target/release/berkeleyd")
    parser.add_argument("--seed", type=int, default=1, help="of the offsets and drifts")
    options = parser.parse_args()
    if options.slaves < 1 or options.seconds <= SETTLED:
        parser.error("at least one slave and more than 5 seconds")
    dice = random.Random(options.seed)
    group = ["--group", f"239.255.5.25:{free_port()}", "--interval", "1s"]
    nodes = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            nodes.append(Node(options.binary, directory, "master", *group, "--role", "master"))
            for index in range(options.slaves):
                nodes.append(Node(options.binary, directory, f"slave{index}", *group, "--role", "slave", *any_wrong(dice)))
            wait_for_status(nodes)
            samples = sample(nodes, options.seconds)
            rest = cost_at_rest(nodes, options.rest)
            report(options, nodes[0], nodes[1:], samples, rest)
        finally:
            stop(nodes)


if __name__ == "__main__":
    main()
