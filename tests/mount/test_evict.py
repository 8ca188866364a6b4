"""A cache that is smaller than the volume: what was written stays readable, what is not in every region stays here, and
`meridian evict` and `meridian warmup` say what they did."""
import hashlib
import mmap
import os
import re
import unittest

from harness import World, main, wait_until

MIB = 1 << 20
LIMIT = 50 * MIB


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store(path, data):
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def content(server):
    """Bytes of content files, as they lie on the disk."""
    total = 0
    for directory, _, files in os.walk(server.state / "content"):
        for name in files:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                pass
    return total


class Evict(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.close)
        self.regions = self.world.directories("east", "west")

    def server(self, name="one", **volume):
        server = self.world.server(name, self.regions, volume=volume)
        server.start()
        return server

    def bounded(self, server):
        wait_until(lambda: f"content within the limit: {content(server)}\n{server.status_text()}",
                   lambda: content(server) <= LIMIT)

    def test_more_data_than_cache(self):
        server = self.server(cache_size="50M")
        sums = {}
        for i in range(40):
            path = server.mount / f"d{i % 3}" / f"f{i}"
            path.parent.mkdir(exist_ok=True)
            sums[path] = store(path, self.world.random.randbytes(5 * MIB))
        server.flush()
        self.bounded(server)
        self.assertGreater(content(server), 0)
        for path, sum_ in sums.items():
            self.assertEqual(digest(path), sum_, path)
        self.bounded(server)
        self.assertEqual(server.status()["cache"]["files_lost"], 0)
        # Files that are written on are the same as any.
        path = server.mount / "d0" / "f0"
        with open(path, "r+b") as file:
            file.write(b"new")
        server.flush()
        self.bounded(server)
        self.assertEqual(path.read_bytes()[:3], b"new")
        self.assertEqual(server.stop(), 0)
        server.start()
        self.assertEqual(digest(server.mount / "d1" / "f1"), sums[server.mount / "d1" / "f1"])

    def test_what_a_region_lacks_stays(self):
        away = self.world.dir / "buckets" / "west"
        server = self.server(cache_size="1M")
        server.flush()
        away.rename(away.with_name("away"))
        away.write_bytes(b"")  # it cannot be made again
        sums = {server.mount / f"f{i}": store(server.mount / f"f{i}", self.world.random.randbytes(MIB)) for i in range(8)}
        server.run("flush", str(server.mount))
        wait_until("pushed to the other region", lambda: server.region("east")["backlog_rows"] == 0)
        run = server.run("evict", str(server.mount), check=False)
        self.assertEqual(run.returncode, 1, run)
        for i in range(8):
            self.assertRegex(run.stdout, f"f{i}: (not in every region yet|open, mapped or being sent)\n")
        self.assertIn("8 files stay", run.stderr)
        self.assertGreaterEqual(content(server), 8 * MIB)
        away.unlink()
        away.with_name("away").rename(away)
        server.flush()
        wait_until("evicted", lambda: content(server) <= MIB)
        for path, sum_ in sums.items():
            self.assertEqual(digest(path), sum_, path)

    def test_verbs(self):
        server = self.server()
        below = server.mount / "dir" / "below"
        below.mkdir(parents=True)
        sums = {below / f"f {i}": store(below / f"f {i}", self.world.random.randbytes(MIB)) for i in range(20)}
        os.symlink("x", below / "link")
        os.mkfifo(below / "fifo")
        server.flush()
        server.closed()
        self.assertIn("20 files evicted (20", server.run("evict", str(server.mount / "dir")).stdout)
        self.assertEqual(content(server), 0)
        self.assertIn("0 files evicted", server.run("evict", str(below / "f 1"), str(below / "f 2")).stdout)
        self.assertIn("20 files fetched (20", server.run("warmup", str(server.mount)).stdout)
        self.assertEqual(content(server), 20 * MIB)
        for path, sum_ in sums.items():
            self.assertEqual(digest(path), sum_, path)
        # Open, and mapped after its close.
        with open(below / "f 0", "r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
            run = server.run("evict", str(below / "f 0"), check=False)
            self.assertEqual(run.returncode, 1, run)
            self.assertIn("open, mapped or being sent", run.stdout)
        mapping[0:4] = b"mmap"
        server.flush()
        self.assertEqual(server.run("evict", str(below), check=False).returncode, 1)
        self.assertEqual((below / "f 0").read_bytes()[:4], b"mmap")
        mapping[4:8] = b"more"
        mapping.close()
        server.flush()
        wait_until("the mapping ended", lambda: server.run("evict", str(below), check=False).returncode == 0, 60)
        self.assertEqual((below / "f 0").read_bytes()[:8], b"mmapmore")
        # What cannot be named, and what cannot be fetched.
        run = server.run("evict", str(below / "fifo"), check=False)
        self.assertEqual(run.returncode, 1, run)
        self.assertIn("not a regular file", run.stdout)
        self.assertEqual(server.run("warmup", str(server.mount / "absent"), check=False).returncode, 1)
        self.assertEqual(server.run("evict", check=False).returncode, 2)
        self.assertEqual(server.stop(), 0)

    def test_warmup_shows_a_bar(self):
        """Of bytes, a large file's as its blocks come, on a link that takes a while."""
        regions = {"slow": {**self.world.directories("slow")["slow"], "rate_limit": "4M"}}
        server = self.world.server("bar", regions)
        server.start()
        for i in range(5):
            store(server.mount / f"f{i}", self.world.random.randbytes(MIB // 2))
        sum_ = store(server.mount / "large", self.world.random.randbytes(12 * MIB))
        server.flush()
        server.closed()
        server.run("evict", str(server.mount))
        run = server.run("warmup", str(server.mount))
        self.assertIn("6 files fetched (14.5 MiB)", run.stdout)
        bars = re.findall(r"^\[(#*) *\] +(\d+) %, (\d) of 6 files, .* of 14.5 MiB$", run.stderr, re.MULTILINE)
        self.assertGreaterEqual(len(bars), 2, run.stderr)
        for marks, percent, _ in bars:
            self.assertEqual(len(marks), int(percent) // 5)
        percents = [int(percent) for _, percent, _ in bars]
        self.assertEqual(percents, sorted(percents))
        self.assertTrue(any(20 <= p < 100 and files != "6" for (_, _, files), p in zip(bars, percents)), run.stderr)
        self.assertGreater(len(set(percents)), 1)
        self.assertEqual(digest(server.mount / "large"), sum_)
        self.assertIn("0 files fetched", server.run("warmup", str(server.mount)).stdout)

    def test_content_of_another_server(self):
        one, two = self.server("one"), self.server("two")
        sums = {f"f{i}": store(one.mount / f"f{i}", self.world.random.randbytes(1000 + i * 50000)) for i in range(5)}
        one.flush()
        wait_until("seen by the other", lambda: len(os.listdir(two.mount)) == 5)
        for name, sum_ in sums.items():
            self.assertEqual(digest(two.mount / name), sum_)
        two.closed()
        self.assertIn("5 files evicted", two.run("evict", str(two.mount)).stdout)
        self.assertEqual(content(two), 0)
        for name, sum_ in sums.items():
            self.assertEqual(digest(two.mount / name), sum_)


if __name__ == "__main__":
    main()
