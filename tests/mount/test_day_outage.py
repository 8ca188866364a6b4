"""A day's outage in small: one of two regions is away while FILES files and BYTES bytes are written. When it is back it gets
all of it, and the memory of the daemons does not grow with what waits.

FILES=200000 BYTES=2G python3 test_day_outage.py is the full size; it needs some 6 GB of memory for the two buckets."""
import os
import threading
import time
import unittest

from harness import World, Ceph, differences, main, names, wait_until

UNITS = {"M": 1 << 20, "G": 1 << 30}
FILES = int(os.environ.get("FILES", "6000"))
BYTES = os.environ.get("BYTES", "48M")
BYTES = int(BYTES[:-1]) * UNITS[BYTES[-1]] if BYTES[-1] in UNITS else int(BYTES)
PER_DIRECTORY = 500
MEMORY_MAX_KIB = 128 << 10  # with however much waits; caches are full after some 20,000 files
PATIENCE = 120 + FILES // 50  # seconds, for each thing that is waited for


class Memory(threading.Thread):
    """The resident sets of servers, several times a second."""

    def __init__(self, *servers):
        super().__init__(daemon=True)
        self.servers, self.samples, self.ended = servers, {server.name: [] for server in servers}, threading.Event()

    def run(self):
        while not self.ended.wait(0.2):
            for server in self.servers:
                self.samples[server.name].append((time.monotonic(), server.resident_kib()))

    def peak(self, server, since=0.0, until=float("inf")):
        return max(kib for at, kib in self.samples[server.name] if since <= at <= until)


class DayOutage(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.close)
        self.ceph = Ceph(self.world, gateways=2)
        regions = {f"region-{n}": self.ceph.region(n) for n in (1, 2)}
        self.a = self.world.server("a", regions, home="region-1")
        self.b = self.world.server("b", regions, home="region-2")
        # Only what is in the bucket of the region that was away can come here.
        self.late = self.world.server("late", {"region-2": regions["region-2"]})

    def write(self):
        """Half of the bytes in small files, half in sixteen large ones, over many directories. Returns when a quarter was
        written."""
        small, large = BYTES // 2 // FILES, BYTES // 2 // 16
        line, quarter = os.urandom(small), 0.0
        for n in range(FILES):
            directory = self.a.mount / f"d{n // PER_DIRECTORY}"
            if n % PER_DIRECTORY == 0:
                directory.mkdir()
            with open(directory / f"f{n}", "wb") as file:
                file.write(b"%d " % n + line)
            if n % (FILES // 16) == 0 and n // (FILES // 16) < 16:
                with open(directory / f"large{n}", "wb") as file:
                    for at in range(0, large, 1 << 20):
                        file.write(os.urandom(min(1 << 20, large - at)))
            if n == FILES // 4:
                quarter = time.monotonic()
        return quarter

    def counters(self):
        status = self.a.status()
        return {**status["counters"], **{r["name"]: r["bytes_sent"] for r in status["regions"]}}

    def test_day_outage(self):
        self.a.start()
        self.b.start()
        self.a.flush()
        memory = Memory(self.a, self.b)
        memory.start()
        self.addCleanup(memory.ended.set)
        self.ceph.kill(2)
        (self.a.mount / "ping").write_text("who asks nothing notices nothing")
        wait_until("the status names the dead region", lambda: not self.a.region("region-2")["up"], 30, 0.5)
        before, start = self.counters(), time.monotonic()
        quarter = self.write()
        written = time.monotonic()
        wait_until("the region that is there gets everything",
                   lambda: self.a.status()["journal_rows"] == 0 and self.a.region("region-1")["backlog_rows"] == 0, PATIENCE, 1)
        pushed, outage = time.monotonic(), self.counters()
        backlog = self.a.region("region-2")
        self.assertGreaterEqual(backlog["backlog_rows"], FILES)
        self.ceph.restart(2)
        returned = time.monotonic()
        wait_until(lambda: f"the backlog drains: {self.a.region('region-2')}\n{self.a.tail()}", lambda: self.a.backlog() == 0, PATIENCE, 1)
        drained, after = time.monotonic(), self.counters()
        wait_until("b has all names", lambda: names(self.b.mount) == names(self.a.mount), PATIENCE, 1)
        memory.ended.set()
        memory.join()
        self.figures(memory, (start, quarter, written, pushed, returned, drained), before, outage, after, backlog)
        for server in (self.a, self.b):
            self.assertLess(memory.peak(server), MEMORY_MAX_KIB, f"{server.name}: memory")
        self.ceph.kill(1)
        self.late.start()
        wait_until("a new server has all names", lambda: names(self.late.mount) == names(self.a.mount), PATIENCE, 1)
        some = [f"d{n}" for n in range(0, -(-FILES // PER_DIRECTORY), max(1, FILES // PER_DIRECTORY // 4))]
        for directory in some:
            self.assertEqual(differences(self.a.mount / directory, self.late.mount / directory), "", directory)
        keys = [key["Key"] for page in self.ceph.client(2).get_paginator("list_objects_v2").paginate(Bucket="region-2", Prefix="app/d")
                for key in page.get("Contents", ())]
        self.assertEqual(len(keys), FILES + 16 + -(-FILES // PER_DIRECTORY), "every file is an object there, too")

    def figures(self, memory, times, before, outage, after, backlog):
        start, quarter, written, pushed, returned, drained = times

        def requests(first, last):
            return (last["store_requests_total"] - first["store_requests_total"]) / FILES

        print(f"{FILES} files, {BYTES >> 20} MiB: written in {written - start:.1f} s ({FILES / (written - start):.0f}/s), in the first region "
              f"{pushed - start:.1f} s after the start ({FILES / (pushed - start):.0f}/s); backlog {backlog['backlog_rows']} rows, "
              f"{backlog['backlog_bytes'] >> 20} MiB; drained {drained - returned:.1f} s after the return ({FILES / (drained - returned):.0f}/s); "
              f"requests a file {requests(before, outage):.2f} and {requests(outage, after):.2f}; load {os.getloadavg()[0]:.1f}", flush=True)
        for server in (self.a, self.b):
            print(f"{server.name}: peak {memory.peak(server, until=quarter) >> 10} MiB in the first quarter, "
                  f"{memory.peak(server, until=pushed) >> 10} MiB while the region was away, {memory.peak(server, since=returned) >> 10} MiB "
                  f"while it drained", flush=True)


if __name__ == "__main__":
    main()
