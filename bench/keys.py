#!/usr/bin/env python3
"""What keys cost in accuracy and at a fail-over: ensembles without and with them on this machine's loopback interface, in turns.

    python3 bench/keys.py [--pairs 5] [--failovers 10] [--binary target/release/berkeleyd]

All processes read the same CLOCK_REALTIME, so that the spread is the true one. A machine that is busy makes both worse alike: the ratio of
a pair says more than its figures.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time

from failover import run as fail_over
from loopback import free_port, key_file, look, start_ensemble, stop

SETTLING = 10.0  # seconds
PAUSE = 0.05


def spreads(options, has_keys):
    """The spread in ns, again and again, of a master and some slaves."""
    with tempfile.TemporaryDirectory() as directory:
        port, nodes = free_port(), []
        common = ["--group", f"239.255.5.25:{port}", "--domain", str(port)]
        if has_keys:
            common += ["--key-file", key_file(options.binary, directory)]
        try:
            start_ensemble(options.binary, directory, common, options.slaves, nodes)
            time.sleep(SETTLING)
            found, end = [], time.monotonic() + options.seconds
            while time.monotonic() < end:
                _, leads = look(nodes)
                found.append(max(leads) - min(leads))
                time.sleep(PAUSE)
            return found
        finally:
            stop(nodes)


def p99(values):
    return sorted(values)[int(0.99 * len(values))]


def fail_overs(options):
    """(cold start, gap) in ms of runs without and with keys, in turns."""
    with tempfile.TemporaryDirectory() as directory:
        keys = ["--key-file", key_file(options.binary, directory)]
        runs = [fail_over(options.binary, False, signal.SIGKILL, more) for _ in range(options.failovers) for more in ([], keys)]
    return [list(zip(*runs[which::2]))[:2] for which in (0, 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="of ensembles whose spread is looked at")
    parser.add_argument("--seconds", type=float, default=30.0, help="of looking at each")
    parser.add_argument("--slaves", type=int, default=8)
    parser.add_argument("--failovers", type=int, default=10, help="killed masters of nine nodes, of each kind")
    parser.add_argument("--binary", default="target/release/berkeleyd")
    options = parser.parse_args()
    ratios = []
    for pair in range(options.pairs):
        # Who comes first is who finds the quieter machine, or not: it changes.
        order = (False, True) if pair % 2 == 0 else (True, False)
        found = {has_keys: spreads(options, has_keys) for has_keys in order}
        figures = [(statistics.median(found[has_keys]), p99(found[has_keys])) for has_keys in (False, True)]
        ratios.append([with_keys / without for without, with_keys in zip(*figures)])
        (median, tail), (keyed_median, keyed_tail) = figures
        print(f"spread without keys: median {median} ns, p99 {tail} ns; with: {keyed_median} ns, {keyed_tail} ns; "
              f"load {os.getloadavg()[0]:.1f}", flush=True)
    if ratios:
        medians, tails = zip(*ratios)
        print(f"ratio of the medians: median {statistics.median(medians):.2f} ({min(medians):.2f} to {max(medians):.2f}); "
              f"of the p99: {statistics.median(tails):.2f} ({min(tails):.2f} to {max(tails):.2f})")
    if options.failovers:
        for name, (starts, gaps) in zip(("without keys", "with keys"), fail_overs(options)):
            print(f"{name}: cold start median {statistics.median(starts):.0f} ms, worst {max(starts):.0f}; kill -9 median "
                  f"{statistics.median(gaps):.0f} ms, worst {max(gaps):.0f}; {options.failovers} runs, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
