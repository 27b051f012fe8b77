#!/usr/bin/env python3
"""How closely berkeleyd, chronyd and ptp4l agree over the same virtual cable at the same time.

Two network namespaces, joined by a veth pair, hold a master and a slave of each. All share this machine's one clock, so
that every offset is zero in truth and whatever is measured is error. Nobody sets or slews that clock: berkeleyd keeps a
virtual one, chronyd runs with -x and a source that it never selects, ptp4l with free_running.

Needs root, iproute2, and for the comparison chronyd and ptp4l (Debian: chrony, linuxptp); what is not installed is left out.
Prints one table for the machine at rest and one with as many busy loops as cores.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from loopback import ask, look_at

SAMPLING_PAUSE = 0.05
PATIENCE = 10.0
ADDRESSES = ("10.55.26.1", "10.55.26.2")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Cable:
    """Two namespaces and the cable between them, which in each is called `cable`."""

    def __enter__(self):
        self.ends = [f"accuracy-{os.getpid()}-{end}" for end in "ab"]
        self.directory = tempfile.TemporaryDirectory(prefix="accuracy-")
        self.processes = []
        a, b = self.ends
        for end in self.ends:
            ip("netns", "add", end)
        ip("-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b)
        for end, address in zip(self.ends, ADDRESSES):
            ip("-n", end, "address", "add", address + "/24", "dev", "cable")
            ip("-n", end, "link", "set", "lo", "up")
            ip("-n", end, "link", "set", "cable", "up")
        return self

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def start(self, end, name, *command):
        """Starts a program at an end of the cable; what it prints goes to `name`.log."""
        with open(self.path(name + ".log"), "wb") as log:
            process = subprocess.Popen(["ip", "netns", "exec", self.ends[end], *command], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)

    def wait_for(self, what, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            dead = [process.args for process in self.processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = [name for name in sorted(os.listdir(self.directory.name)) if name.endswith(".log")]
                for name in logs:
                    with open(self.path(name), encoding="utf-8", errors="replace") as log:
                        print(f"---- {name}\n{log.read()[-2000:]}", file=sys.stderr)
                sys.exit(f"{what}: not within {PATIENCE:g} s" + (f"; ended: {dead}" if dead else ""))
            time.sleep(0.05)

    def __exit__(self, *_):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for end in self.ends:
            subprocess.run(["ip", "netns", "delete", end], check=False)
        self.directory.cleanup()


class Log:
    """The lines of a file from now on."""

    def __init__(self, path):
        self.path, self.position = path, 0

    def lines(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8", errors="replace") as log:
            log.seek(self.position)
            text = log.read()
        whole = text.rfind("\n") + 1
        self.position += len(text[:whole].encode())
        return text[:whole].splitlines()


class Berkeleyd:
    """Its samples, and the disagreement of its two disciplined clocks, read through their status sockets."""

    name = "berkeleyd"

    def __init__(self, cable, options):
        self.sockets = [cable.path(f"berkeleyd-{role}.sock") for role in ("master", "slave")]
        interval = f"{options.interval * 1e6:.0f}us"
        for end, (role, path) in enumerate(zip(("master", "slave"), self.sockets)):
            cable.start(end, f"berkeleyd-{role}", os.path.abspath(options.binary), "--role", role, "--interface", "cable",
                        "--interval", interval, "--min-interval", interval, "--status-socket", path,
                        "--inject-drift", str(end * options.drift), *options.berkeleyd)
        self.newest = None
        cable.wait_for("berkeleyd synchronises", self.is_synchronised)

    def is_synchronised(self):
        try:
            return all(ask(path)["synchronised"] for path in self.sockets)
        except OSError:
            return False

    def look(self):
        """(new raw samples, new filtered offsets, disagreements of the clocks), in ns."""
        ((_, master), _), (master_leads, slave_leads) = look_at(self.sockets)
        raw = []
        for peer in master["peers"]:
            sample = peer.get("sample")
            if sample and sample != self.newest:
                self.newest = sample
                raw.append(sample["offset_ns"])
        return raw, [], [slave_leads - master_leads]


class Chronyd:
    """Its measurements and its regression's offset of a source that is never selected, so that nothing is corrected."""

    name = "chronyd"
    program = "chronyd"

    def __init__(self, cable, options):
        poll = round(options.interval_log2)
        common = f"user root\ncmdport 0\nlogdir {cable.path('')}\n"
        configurations = (
            f"{common}bindcmdaddress /\nlocal stratum 8\nallow\npidfile {cable.path('chronyd-server.pid')}\n",
            f"{common}bindcmdaddress /\nport 0\npidfile {cable.path('chronyd-client.pid')}\nlog rawmeasurements statistics\n"
            f"logbanner 0\nserver {ADDRESSES[0]} noselect xleave minpoll {poll} maxpoll {poll}\n",
        )
        for end, (role, text) in enumerate(zip(("server", "client"), configurations)):
            path = cable.path(f"chronyd-{role}.conf")
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            cable.start(end, f"chronyd-{role}", "chronyd", "-x", "-d", "-f", path)
        self.raw = Log(cable.path("measurements.log"))
        self.filtered = Log(cable.path("statistics.log"))
        cable.wait_for("chronyd measures", lambda: os.path.exists(self.filtered.path))

    def look(self):
        raw = [float(line.split()[11]) * 1e9 for line in self.raw.lines() if len(line.split()) > 12]
        filtered = [float(line.split()[4]) * 1e9 for line in self.filtered.lines() if len(line.split()) > 8]
        return raw, filtered, []


class Ptp4l:
    """The offsets that it measures; without a clock to steer it filters only the path delay."""

    name = "ptp4l"
    program = "ptp4l"
    OFFSET = re.compile(r"master offset +(-?\d+) ")

    def __init__(self, cable, options):
        poll = round(options.interval_log2)
        for end, role in enumerate(("master", "slave")):
            path = cable.path(f"ptp4l-{role}.conf")
            with open(path, "w", encoding="ascii") as file:
                file.write(f"[global]\nfree_running 1\ntime_stamping software\nnetwork_transport UDPv4\n"
                           f"logSyncInterval {poll}\nlogMinDelayReqInterval {poll}\nlogAnnounceInterval -1\n"
                           f"summary_interval {poll}\nfreq_est_interval 0\nslaveOnly {end}\npriority1 {100 + end}\n"
                           f"uds_address {cable.path(f'ptp4l-{role}.uds')}\n[cable]\n")
            cable.start(end, f"ptp4l-{role}", "ptp4l", "-S", "-m", "-q", "-f", path)
        self.log = Log(cable.path("ptp4l-slave.log"))
        cable.wait_for("ptp4l measures", lambda: any(map(self.OFFSET.search, self.log.lines())))

    def look(self):
        offsets = map(self.OFFSET.search, self.log.lines())
        return [float(offset[1]) for offset in offsets if offset], [], []


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def row(name, values):
    if not values:
        return f"  {name:34} {'-':>9} {'-':>9} {'-':>9} {'-':>9} {0:>8}"
    sizes = [abs(value) / 1000 for value in values]
    rms = (sum(size * size for size in sizes) / len(sizes)) ** 0.5
    return (f"  {name:34} {statistics.fmean(values) / 1000:9.2f} {statistics.median(sizes):9.2f} {rms:9.2f} "
            f"{quantile(sizes, 0.99):9.2f} {len(values):8}")


def measure(programs, seconds):
    """What each program says in so many seconds: {name: (raw, filtered, disagreement)}."""
    for program in programs:
        program.look()
    figures = {program.name: ([], [], []) for program in programs}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for program in programs:
            for kept, new in zip(figures[program.name], program.look()):
                kept.extend(new)
        time.sleep(SAMPLING_PAUSE)
    return figures


def report(title, figures):
    print(f"\n{title}, load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
    print(f"  {'µs':34} {'mean':>9} {'median':>9} {'rms':>9} {'p99':>9} {'samples':>8}")
    kinds = ("samples", "filtered offset", "disagreement of the clocks")
    for name, kept in figures.items():
        for kind, values in zip(kinds, kept):
            if values:
                print(row(f"{name}: {kind}", values))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two tables")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds before the first")
    parser.add_argument("--interval-log2", type=int, default=-4, help="pause between polls, as a power of two seconds")
    parser.add_argument("--drift", type=float, default=0.0, help="of berkeleyd's slave, in ppm; its samples then show it")
    parser.add_argument("--binary", default="target/release/berkeleyd")
    parser.add_argument("--no-load", action="store_true", help="at rest only")
    parser.add_argument("berkeleyd", nargs="*", help="further options of berkeleyd, after --")
    options = parser.parse_args()
    options.interval = 2.0 ** options.interval_log2
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    if not os.path.exists(options.binary):
        sys.exit(f"{options.binary}: not there; cargo build --release")
    with Cable() as cable:
        programs = [Berkeleyd(cable, options)]
        for other in (Chronyd, Ptp4l):
            if shutil.which(other.program):
                programs.append(other(cable, options))
            else:
                print(f"{other.program} is not installed: left out")
        time.sleep(options.warm_up)
        report("at rest", measure(programs, options.seconds))
        if not options.no_load:
            loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count())]
            try:
                time.sleep(2)
                report("with a busy loop per CPU", measure(programs, options.seconds))
            finally:
                for loop in loops:
                    loop.kill()
                    loop.wait()


if __name__ == "__main__":
    main()
