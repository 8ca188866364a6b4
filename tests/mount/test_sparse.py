"""A large file of which most is a hole: it goes in parts through a kill -9 in the middle, is read where it is looked at, takes no
more disk than it holds anywhere, and a change of it sends what changed.

SIZE (384M; K, M, G) makes it larger: SIZE=20G takes some minutes, little memory and no disk."""
import hashlib
import os
import pathlib
import threading
import time
import unittest

from harness import Ceph, World, main, wait_until

MIB = 1 << 20


def size_of(text):
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]


SIZE = size_of(os.environ.get("SIZE", "384M"))
SMALL = SIZE <= 1 << 30  # then all of it is compared, too
PART = 16 * MIB
PARTS = -(-SIZE // PART)
PIECE = 64 << 10
THREADS = 4  # of one upload (replicator/upload.c)
PATIENCE = 120 + SIZE // (16 * MIB)


def allocated(root):
    """Bytes on disk of all files below root."""
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def memory(pid, what="VmHWM"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {what} of {pid}")


class Watch(threading.Thread):
    """The most that a server's state directory ever takes on disk: a copy that fills holes is gone again in the end."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.most, self.stopped = server, 0, threading.Event()
        self.start()

    def run(self):
        while not self.stopped.wait(0.3):
            self.most = max(self.most, allocated(self.server.state))


class Sparse(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world, gateways=2, compress=True)
        cls.clients = [cls.ceph.client(n) for n in (1, 2)]
        regions = {f"region-{n}": cls.ceph.region(n) for n in (1, 2)}
        cls.a = cls.world.server("a", regions, home="region-1")
        cls.b = cls.world.server("b", regions, home="region-2", volume={"refresh": "lazy"})
        cls.a.start()
        cls.b.start()
        cls.watches = [Watch(cls.a), Watch(cls.b)]
        random = cls.world.random
        # The beginning and the end, over and beside borders of parts and of blocks, the middle, and anywhere.
        offsets = {0, PART - 1000, 3 * PART, 5 * PART - PIECE, SIZE // 2 + 12345, SIZE - PIECE}
        offsets |= {random.randrange(6 * PART, SIZE - MIB) for _ in range(4)}
        cls.pieces = {offset: random.randbytes(PIECE) for offset in sorted(offsets)}
        cls.most = [0, 0]

    @classmethod
    def tearDownClass(cls):
        for watch in cls.watches:
            watch.stopped.set()
        cls.world.end(cls.a, cls.b)

    def say(self, text):
        load = " ".join(f"{value:.1f}" for value in os.getloadavg()[:2])
        self.__class__.most = [max(a, memory(s.process.pid)) for a, s in zip(self.most, (self.a, self.b))]
        store = sum(memory(pid, "VmRSS") for pid in self.ceph.pids())
        print(f"{text}\n  memory at most A {self.most[0] / MIB:.0f}, B {self.most[1] / MIB:.0f}, store now {store / MIB:.0f} MiB;"
              f" disk at most A {self.watches[0].most / MIB:.1f}, B {self.watches[1].most / MIB:.1f} MiB; load {load}", flush=True)

    def uploads(self, n):
        return self.clients[n].list_multipart_uploads(Bucket=self.ceph.buckets[n]).get("Uploads", [])

    def parts(self, n):
        """Those that the store has of uploads that have not ended."""
        pages = self.clients[n].get_paginator("list_parts")
        return sum(len(page.get("Parts", [])) for u in self.uploads(n)
                   for page in pages.paginate(Bucket=self.ceph.buckets[n], Key=u["Key"], UploadId=u["UploadId"]))

    def counter(self, server, name):
        return server.status()["counters"][name]

    def known_as_sent(self):
        """Bytes that A has recorded as parts, region by region."""
        return [region["upload_sent_bytes"] for region in self.a.status()["regions"]]

    def wanted(self, offset, n):
        """What the file holds there, by what was written."""
        want = bytearray(n)
        for at, piece in self.pieces.items():
            first, last = max(at, offset), min(at + len(piece), offset + n)
            if first < last:
                want[first - offset:last - offset] = piece[first - at:last - at]
        return bytes(want)

    def digest(self):
        h = hashlib.sha256()
        for offset in range(0, SIZE, MIB):
            h.update(self.wanted(offset, min(MIB, SIZE - offset)))
        return h.hexdigest()

    def objects_are_right(self):
        for n in (0, 1):
            wait_until(lambda: f"no uploads in bucket {n}: {self.uploads(n)}\n{self.a.tail()}", lambda: not self.uploads(n), 60)
            where = {"Bucket": self.ceph.buckets[n], "Key": "app/sparse"}
            self.assertEqual(self.clients[n].head_object(**where)["ContentLength"], SIZE)
            for offset in self.pieces:
                last = min(offset + 2 * PIECE, SIZE) - 1
                body = self.clients[n].get_object(**where, Range=f"bytes={offset}-{last}")["Body"].read()
                self.assertTrue(body == self.wanted(offset, last + 1 - offset), f"other bytes at {offset} in bucket {n}")
            if SMALL:
                h = hashlib.sha256()
                for piece in self.clients[n].get_object(**where)["Body"].iter_chunks(MIB):
                    h.update(piece)
                self.assertEqual(h.hexdigest(), self.digest())

    def read_on_b(self):
        """Looks at all places, and beside them, as little else as possible."""
        path = self.b.mount / "sparse"
        stamp = os.stat(self.a.mount / "sparse").st_mtime_ns
        wait_until(f"the file on B\n{self.b.tail()}", lambda: path.exists() and path.stat().st_mtime_ns == stamp, 60)
        before = self.counter(self.b, "bytes_received_total")
        start = time.monotonic()
        with open(path, "rb", buffering=0) as file:
            self.assertEqual(os.fstat(file.fileno()).st_size, SIZE)
            for offset in self.pieces:
                first = max(0, offset - 500)
                got = os.pread(file.fileno(), PIECE + 1000, first)
                self.assertTrue(got == self.wanted(first, min(PIECE + 1000, SIZE - first)), f"other bytes at {offset} on B")
        took = time.monotonic() - start
        time.sleep(0.5)  # what would be fetched ahead
        got = self.counter(self.b, "bytes_received_total") - before
        self.say(f"{len(self.pieces)} places read on B in {took:.2f} s, {got / MIB:.1f} MiB fetched")
        self.assertLess(got, 3 * MIB * len(self.pieces))

    def takes_what_it_holds(self):
        # Snapshots included: one more of what is in it. Databases, logs and the reserve are the rest.
        for watch in self.watches:
            self.assertLess(watch.most, 40 * MIB + SIZE // 200)
        for most in self.most:
            self.assertLess(most, 200 * MIB)

    def test_1_killed_in_the_middle(self):
        start = time.monotonic()
        with open(self.a.mount / "sparse", "wb") as file:
            file.truncate(SIZE)
            for offset, piece in self.pieces.items():
                os.pwrite(file.fileno(), piece, offset)
        wait_until(lambda: f"parts in the buckets\n{self.a.status_text()}\n{self.a.tail()}",
                   lambda: sum(self.known_as_sent()) >= SIZE * 2 // 3, PATIENCE, 0.05)
        took = time.monotonic() - start
        self.say("killed in the middle")
        self.a.kill()
        before = [self.parts(n) for n in (0, 1)]
        for n in (0, 1):
            if not before[n] and not self.uploads(n):  # that one had ended
                before[n] = PARTS
        start = time.monotonic()
        self.a.start()
        self.a.flush(PATIENCE)
        took += time.monotonic() - start
        sent = self.counter(self.a, "bytes_sent_total")
        twice = sent / PART - (2 * PARTS - sum(before))
        self.say(f"{SIZE / MIB:.0f} MiB in two regions after {took:.1f} s: {before} of {PARTS} parts before the kill, {sent / MIB:.0f} MiB"
                 f" after it: {max(0, twice):.1f} parts twice")
        # Those that were under way in that moment.
        self.assertLess(twice, 2 * THREADS + 1)
        self.assertLess(sum(before), 2 * PARTS)
        self.objects_are_right()

    def test_2_read_elsewhere(self):
        self.read_on_b()
        self.takes_what_it_holds()

    def test_3_a_mebibyte_changes(self):
        change = SIZE // 2 + 3 * MIB + 5000
        data = self.world.random.randbytes(MIB)
        before = self.a.status()["counters"]
        start = time.monotonic()
        with open(self.a.mount / "sparse", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, change)
        self.pieces[change] = data
        self.a.flush(PATIENCE)
        took = time.monotonic() - start
        after = self.a.status()["counters"]
        cost, copied = (after[name] - before[name] for name in ("bytes_sent_total", "bytes_copied_total"))
        self.say(f"1 MiB changed: {took:.1f} s, {cost / 2 / MIB:.1f} MiB a region sent, {copied / 2 / MIB:.0f} MiB copied inside the store")
        self.assertLess(cost / 2, 16 * MIB)
        self.assertGreaterEqual(copied / 2, SIZE - 16 * MIB)
        self.objects_are_right()
        self.read_on_b()
        self.takes_what_it_holds()

    @unittest.skipUnless(SMALL, "reads all of it")
    def test_4_all_of_it_elsewhere(self):
        self.b.run("warmup", self.b.mount / "sparse", timeout=PATIENCE)
        wait_until("the whole content", lambda: self.b.status()["cache"]["content_files"] == 1, 60)
        h = hashlib.sha256()
        with open(self.b.mount / "sparse", "rb") as file:
            while block := file.read(MIB):
                h.update(block)
        self.assertEqual(h.hexdigest(), self.digest())
        self.say("all of it fetched by B")
        self.takes_what_it_holds()


if __name__ == "__main__":
    main()
