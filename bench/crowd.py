#!/usr/bin/env python3
"""A status socket of a master with many slaves, made of what a real master with at least one slave says: for the exporter's
benchmark and tests, and to look at the page with more nodes than one machine can run."""

import argparse
import json
import os
import random
import socket

from loopback import ask


class Crowd:
    """Slaves with offsets of their own, which jitter a little; the seventh lies."""

    def __init__(self, real, slaves, seed=1):
        self.real, self.dice = real, random.Random(seed)
        self.offsets = [int(self.dice.gauss(0, 2_000)) for _ in range(slaves)]

    def status(self):
        status = ask(self.real)
        one = status["peers"][0]
        status["peers"] = [self.peer(one, index, offset) for index, offset in enumerate(self.offsets)]
        return status

    def peer(self, one, index, offset):
        lies = index == 6
        return {**one, "node_id": 1_000_000 + index, "incarnation": 1 + index, "address": f"10.0.{index // 250}.{index % 250 + 1}:5525",
                "offset_ns": 30_000_000 if lies else offset + int(self.dice.gauss(0, 200)),
                "error_bound_ns": 40_000 + self.dice.randrange(10_000), "delay_ns": 80_000 + self.dice.randrange(20_000),
                "skew_ppb": int(self.dice.gauss(0, 20_000)), "last_heard_ms": self.dice.randrange(1_000),
                "counted": not lies, "reason": "disagrees" if lies else None}

    def serve(self, path):
        """Until it is killed. The socket appears when it can be asked."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path + ".new")
            listener.listen(64)
            os.rename(path + ".new", path)
            while True:
                client, _ = listener.accept()
                with client:
                    try:
                        client.sendall((json.dumps(self.status()) + "\n").encode())
                    except OSError:
                        pass  # It has seen enough.


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", required=True, metavar="SOCKET", help="status socket of the real master")
    parser.add_argument("--slaves", type=int, default=1_000)
    parser.add_argument("socket", help="where to show the crowd")
    options = parser.parse_args()
    Crowd(options.of, options.slaves).serve(options.socket)


if __name__ == "__main__":
    main()
