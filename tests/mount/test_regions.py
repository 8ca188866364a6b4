"""Which way contents go between servers and regions: stores that refuse to copy from the home region, a region that is slow for
a while, what is fetched ahead of its readers, and the pace at which a growing log's object follows it.

PART=slow_region runs one part; SIZE=64 (MiB) makes the logs of the last two larger."""
import concurrent.futures
import contextlib
import json
import os
import subprocess
import threading
import time
import unittest

from harness import SERVERS, Ceph, World, digest, main, objects, wait_until
from proxy import Proxy

MIB = 1 << 20
LOG = int(os.environ.get("SIZE", "3")) * MIB
SHARE = 4  # as docs/replication.md has it: "at most a quarter of the time"


def counters(server):
    return server.status()["counters"]


def await_version(server, name, of):
    """Until the server shows what the server of has under that name; nothing is read for it."""
    want = os.stat(of.mount / name)

    def same():
        try:
            got = os.stat(server.mount / name)
        except FileNotFoundError:
            return False
        return (got.st_size, got.st_mtime_ns) == (want.st_size, want.st_mtime_ns)

    wait_until(lambda: f"{name} on {server.name}\n{server.status_text()}", same, 90)


class Regions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world, gateways=2)

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def volume(self, name, count=2):
        """Buckets of a part's own, one behind each gateway."""
        buckets = [f"{name}-{n}" for n in range(1, count + 1)]
        subprocess.run([SERVERS / "ceph", "bucket", self.ceph.dir, *buckets], check=True)
        return {f"region-{n}": {**self.ceph.region(n), "url": f"s3://{buckets[n - 1]}/app"} for n in range(1, count + 1)}

    def test_all(self):
        """All at once, each with buckets of its own: they mostly wait."""
        only = os.environ.get("PART")
        parts = [p for p in (self.refused_copies, self.slow_region, self.fetched_ahead, self.paced_log, self.fast_log) if only in (None, p.__name__)]

        def run(part):
            began = time.monotonic()
            part()
            print(f"{part.__name__}: {time.monotonic() - began:.1f} s", flush=True)

        with concurrent.futures.ThreadPoolExecutor() as pool:
            for future in [pool.submit(run, part) for part in parts]:
                future.result()

    def refused_copies(self):
        """push = copy beside a bucket that takes no copies from the home region's, and beside another account's behind another
        gateway: both get what is written all the same, `status` says why it is sent to them, and what is sent is counted."""
        keys = self.ceph.user("other")
        other = self.ceph.client(2, keys)
        other.create_bucket(Bucket="copies-3")
        own = self.ceph.client(1)
        for bucket in ("copies-1", "copies-2"):
            own.create_bucket(Bucket=bucket)
        own.put_bucket_policy(Bucket="copies-2", Policy=json.dumps({"Version": "2012-10-17", "Statement": [{
            "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::copies-2/*",
            "Condition": {"StringLike": {"s3:x-amz-copy-source": "*copies-1/*"}}}]}))
        regions = {"home": {**self.ceph.region(1), "url": "s3://copies-1/app"},
                   "refusing": {**self.ceph.region(1), "url": "s3://copies-2/app"},
                   "apart": {**self.ceph.region(2, "other"), "url": "s3://copies-3/app"}}
        server = self.world.server("copier", regions, home="home", volume={"push": "copy"})
        server.start()
        server.flush()
        self.assertTrue(server.region("refusing")["copies_from_home"])
        for number, client in ((1, own), (2, own), (3, other)):
            with self.assertRaises(Exception):
                (other if client is own else own).get_object(Bucket=f"copies-{number}", Key="app/.meridian/volume.json")

        def put(name, copied):
            """What was sent and copied for a new file, which is then in each bucket."""
            content = self.world.random.randbytes(3 * MIB)
            before = {r["name"]: r for r in server.status()["regions"]}
            (server.mount / name).write_bytes(content)
            server.flush()
            after = {r["name"]: r for r in server.status()["regions"]}
            for region, now in after.items():
                sent, was_copied = now["bytes_sent"] - before[region]["bytes_sent"], now["bytes_copied"] - before[region]["bytes_copied"]
                self.assertEqual(was_copied, len(content) if region in copied else 0, region)
                self.assertTrue(sent < MIB if region in copied else sent >= len(content), (region, sent))
                self.assertEqual((now["backlog_rows"], now["backlog_parked"]), (0, 0), region)
            for bucket, client in (("copies-1", own), ("copies-2", own), ("copies-3", other)):
                self.assertEqual(objects(client, bucket)[name], digest(server.mount / name), bucket)
            return after

        after = put("first", ())
        self.assertEqual([after[r]["copies_from_home"] for r in regions], [False] * 3)
        self.assertEqual([after[r]["copies_apart"] for r in regions], [False, False, True])
        self.assertIn("403", after["refusing"]["copies_error"])
        self.assertEqual((after["home"]["copies_error"], after["apart"]["copies_error"]), ("", ""))
        text = server.status_text()
        self.assertRegex(text, r"\n  refusing: contents are sent to it until the next start: it refused to copy from the home region \(.*403")
        self.assertIn("\n  apart: contents are sent to it: its store has nothing to do with the home region's", text)
        # It is not asked again before the next start.
        own.delete_bucket_policy(Bucket="copies-2")
        put("second", ())
        self.assertEqual(server.stop(), 0, server.tail())
        server.start()
        after = put("third", ("refusing",))
        self.assertEqual([after[r]["copies_from_home"] for r in regions], [False, True, False])
        self.assertNotIn("refusing: contents are sent", server.status_text())
        self.assertEqual(server.stop(), 0, server.tail())

    def slow_region(self):
        """Each answer of b's home region takes 2.4 s more: who reads a file by blocks, who reads another, and the puller go to
        the next one, and back some time after it is quick again."""
        regions = self.volume("slow")
        proxy = Proxy("127.0.0.1", self.ceph.env()["S3_ENDPOINT_2"].rsplit(":", 1)[1])
        a = self.world.server("slow-a", regions, home="region-1")
        b = self.world.server("slow-b", {**regions, "region-2": {**regions["region-2"], "endpoint": proxy.endpoint}}, home="region-2")
        a.start()
        b.start()
        block = self.world.random.randbytes(MIB)
        with open(a.mount / "stream", "wb") as file:
            for i in range(96):
                file.write(i.to_bytes(8, "little") + block[8:])
        (a.mount / "before").write_bytes(block)
        a.flush()
        for name in ("stream", "before"):
            await_version(b, name, a)
        stream = os.open(b.mount / "stream", os.O_RDONLY)
        numbers = iter(self.world.random.sample(range(96), 96))  # in no order that could be read ahead

        def received(n):
            return b.region(f"region-{n}")["bytes_received"]

        def read_block():
            i = next(numbers)
            got = os.pread(stream, 4096, i * MIB)
            self.assertTrue(got == i.to_bytes(8, "little") + block[8:4096], i)

        def from_which(action, size):
            """Which region gives at least size bytes for it, the other one (nearly) none."""
            before = received(1), received(2)
            action()
            got = received(1) - before[0], received(2) - before[1]
            self.assertGreaterEqual(max(got), size, got)
            self.assertLess(min(got), size / 4, got)
            return 1 + got.index(max(got))

        self.assertEqual(from_which(read_block, MIB), 2)
        self.assertEqual(from_which((b.mount / "before").read_bytes, MIB), 2)
        proxy.delay = 1.2  # each way
        # It has to be read for as long as this takes, else it would be asked anew whom to read from.
        end = time.monotonic() + 90
        while not b.region("region-2")["read_last"]:
            read_block()
            self.assertLess(time.monotonic(), end, b.status_text())
        # Two that happen to follow each other have what follows read ahead: some may be here.
        self.assertEqual(from_which(lambda: [read_block() for _ in range(4)], 2 * MIB), 1)
        wait_until("pulled from the other region", lambda: b.status()["pull_region"] == "region-1", 30)
        slow = b.region("region-2")
        self.assertGreater(slow["latency_ms"], 500)
        self.assertTrue(slow["up"])
        self.assertRegex(b.status_text(), r"region-2: is read last: .* the others took [1-9]")
        self.assertGreaterEqual(counters(b)["regions_left_total"], 1)
        (a.mount / "meanwhile").write_bytes(block)

        def read_new(name):
            await_version(b, name, a)
            self.assertEqual((b.mount / name).read_bytes(), block)

        self.assertEqual(from_which(lambda: read_new("meanwhile"), MIB), 1)
        self.assertTrue(b.region("region-2")["read_last"])
        quick = time.monotonic()
        proxy.delay = 0.0
        wait_until(lambda: f"taken back\n{b.status_text()}", lambda: not b.region("region-2")["read_last"], 90)
        self.assertGreater(time.monotonic() - quick, 8, "ten good probes in a row, one a second")
        wait_until("pulled from the home region", lambda: b.status()["pull_region"] == "region-2", 30)
        self.assertNotIn("read last", b.status_text())
        (a.mount / "after").write_bytes(block)
        a.flush()
        self.assertEqual(from_which(lambda: read_new("after"), MIB), 2)
        self.assertEqual(from_which(read_block, MIB), 2)
        os.close(stream)
        for server in (a, b):
            self.assertEqual(server.stop(), 0, server.tail())
        proxy.close()

    def fetched_ahead(self):
        """What refresh = lazy, cached and all fetch before anybody reads it."""
        regions = self.volume("ahead")
        a = self.world.server("ahead-a", regions, home="region-1", volume={"seal_after": "5m"})  # no versions of halves
        a.start()
        peers = {mode: self.world.server(f"ahead-{mode}", regions, home="region-2", volume={"refresh": mode}) for mode in ("lazy", "cached", "all")}
        for peer in peers.values():
            peer.start()
        sizes = {"known": 300_000, "unknown": 300_000, "looked-into": 9 * MIB}

        def fetched():
            return {mode: counters(peer)["content_fetched_total"] for mode, peer in peers.items()}

        def new_versions():
            data = {name: self.world.random.randbytes(size) for name, size in sizes.items()}
            for name in sizes:
                (a.mount / name).write_bytes(data[name])
            a.flush()
            for peer in peers.values():
                for name in sizes:
                    await_version(peer, name, a)
            return data

        data = new_versions()
        wait_until(lambda: f"all of it, unasked\n{peers['all'].status_text()}",
                   lambda: fetched()["all"] == 3 and peers["all"].status()["refresh"] == 0, 60)
        self.assertEqual(fetched(), {"lazy": 0, "cached": 0, "all": 3})
        for mode in ("lazy", "cached"):
            self.assertEqual((peers[mode].mount / "known").read_bytes(), data["known"])
            with open(peers[mode].mount / "looked-into", "rb", buffering=0) as file:
                self.assertEqual(file.read(4096), data["looked-into"][:4096])
        self.assertEqual(fetched(), {"lazy": 1, "cached": 1, "all": 3})
        data = new_versions()
        wait_until(lambda: f"the new versions\n{fetched()}\n{peers['cached'].status_text()}",
                   lambda: fetched()["all"] == 6 and fetched()["cached"] == 3 and peers["cached"].status()["refresh"] == 0, 60)
        self.assertEqual(fetched(), {"lazy": 1, "cached": 3, "all": 6})
        for name in sizes:
            for peer in peers.values():
                self.assertTrue((peer.mount / name).read_bytes() == data[name], (peer.name, name))
        wait_until(lambda: f"each once: {fetched()}", lambda: fetched() == {"lazy": 4, "cached": 4, "all": 6}, 30)
        for server in (a, *peers.values()):
            self.assertEqual(server.stop(), 0, server.tail())

    def paced_log(self):
        """A log that grows all the time, on a link that takes its object in some seconds: the object takes at most a quarter of
        the link, while what is appended goes to the peer in segments."""
        rate = LOG // 3 * 2 if LOG < 16 * MIB else 8 * MIB  # bytes a second
        regions = self.volume("paced")
        a = self.world.server("paced-a", {name: {**r, "rate_limit": rate} for name, r in regions.items()}, home="region-1",
                              volume={"seal_after": "500ms"})
        b = self.world.server("paced-b", regions, home="region-2")
        a.start()
        b.start()
        with open(a.mount / "log", "wb") as file:
            for _ in range(LOG // MIB):
                file.write(self.world.random.randbytes(MIB))
        a.flush()
        await_version(b, "log", a)
        self.assertEqual(digest(b.mount / "log"), digest(a.mount / "log"))
        stop = threading.Event()

        def append():
            with open(a.mount / "log", "ab", buffering=0) as file:
                while not stop.is_set():
                    file.write(b"a line of a log that grows\n" * 40)
                    time.sleep(0.05)

        def sent():
            return a.region("region-1")["bytes_sent"]

        def has_it():
            """What grew by more than a delta while the machine stood still is fetched once more."""
            if not b.status()["cache"]["content_files"]:
                with contextlib.suppress(OSError):
                    digest(b.mount / "log")
            return True

        writer = threading.Thread(target=append)
        writer.start()
        try:
            start = sent()
            wait_until(lambda: f"an object follows\n{a.status_text()}", lambda: sent() - start >= LOG, 120)
            start, began = sent(), time.monotonic()
            applied, size = counters(b)["deltas_applied_total"], os.path.getsize(b.mount / "log")
            wait_until(lambda: f"three more, and changes meanwhile\n{a.status_text()}{b.status_text()}",
                       lambda: has_it() and sent() - start >= 3 * LOG and counters(b)["deltas_applied_total"] - applied >= 6, 300)
            cost, took = sent() - start, time.monotonic() - began
            applied = counters(b)["deltas_applied_total"] - applied
            grown = os.path.getsize(b.mount / "log") - size
        finally:
            stop.set()
            writer.join()
        print(f"a log of {LOG // MIB} MiB that grows, {rate / MIB:.1f} MiB/s: {cost / MIB:.1f} MiB sent in {took:.1f} s, "
              f"{100 * cost / rate / took:.0f} % of the link; {applied} deltas with {grown} bytes on the other server")
        # What the limit lets through in that part of the time, and the one object that was on its way at the beginning.
        self.assertLess(cost, rate * took / SHARE + 1.25 * LOG)
        self.assertGreater(grown, 6 * 1000)
        a.flush(300)
        await_version(b, "log", a)
        self.assertEqual(digest(b.mount / "log"), digest(a.mount / "log"))
        for server in (a, b):
            self.assertEqual(server.stop(), 0, server.tail())

    def fast_log(self):
        """A log that grows by more between two seals than travels in a segment: it is sent again and again, which takes at most a
        quarter of the link, and each version that was sent is announced."""
        first = 2 * LOG
        rate = first if LOG < 16 * MIB else 16 * MIB  # bytes a second
        growth = 3 * MIB // 2  # a second
        regions = self.volume("fast")
        a = self.world.server("fast-a", {name: {**r, "rate_limit": rate} for name, r in regions.items()}, home="region-1",
                              volume={"seal_after": "1s", "passthrough": "off"})  # of what is written unseen an instant has to be found first
        b = self.world.server("fast-b", regions, home="region-2")
        a.start()
        b.start()
        piece = self.world.random.randbytes(growth // 20)
        with open(a.mount / "log", "wb") as file:
            while file.tell() < first:
                file.write(piece)
        a.flush()
        await_version(b, "log", a)
        stop = threading.Event()

        def append():
            with open(a.mount / "log", "ab", buffering=0) as file:
                while not stop.is_set():
                    file.write(piece)
                    time.sleep(0.05)

        def sent():
            return a.region("region-1")["bytes_sent"]

        def size():
            return os.path.getsize(b.mount / "log")

        def next_version():
            """Until b is told of a later one. Its size."""
            before = size()
            wait_until(lambda: f"another version\n{a.status_text()}{b.status_text()}", lambda: size() > before, 300)
            return size()

        writer = threading.Thread(target=append)
        writer.start()
        try:
            next_version()
            start, began = sent(), time.monotonic()
            versions = [next_version()]
            while sent() - start < 3 * first:
                versions.append(next_version())
            cost, took = sent() - start, time.monotonic() - began
        finally:
            stop.set()
            writer.join()
        print(f"a log of {first // MIB} MiB that grows by {growth / MIB:.1f} MiB a second, {rate / MIB:.1f} MiB/s: {cost / MIB:.1f} MiB sent in "
              f"{took:.1f} s, {100 * cost / rate / took:.0f} % of the link; versions of {[v // MIB for v in versions]} MiB", flush=True)
        # What the limit lets through in that part of the time. A pause is that of the object before, so one that grows gets up to
        # three quarters of the last one more.
        self.assertLess(cost, rate * took / SHARE + versions[-1])
        # flush --wait does not wait for the pace.
        began = time.monotonic()
        a.flush(300)
        left = os.path.getsize(a.mount / "log") / rate
        print(f"the last version flushed in {time.monotonic() - began:.1f} s, sent in {left:.1f} s at best", flush=True)
        await_version(b, "log", a)
        self.assertEqual(digest(b.mount / "log"), digest(a.mount / "log"))
        for server in (a, b):
            self.assertEqual(server.stop(), 0, server.tail())


if __name__ == "__main__":
    main()
