"""A region is away and the disk below the state directory fills up with what waits for it, to the last byte: ENOSPC for
writers, nothing acknowledged is lost, also not by kill -9, and everything goes out when the region is back."""
import errno
import os
import unittest

from harness import World, Ceph, converge, main, wait_until


class BacklogFull(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.close)
        self.ceph = Ceph(self.world, gateways=2)
        self.regions = {"east": self.ceph.region(1), "west": self.ceph.region(2)}
        small = self.world.mount_tmpfs("small", "64m")
        self.small, self.ballast = small, small / "ballast"
        self.a = self.world.server("a", self.regions, state=small / "state",
                                   volume={"reserve_size": "12M", "min_free": "30%"})
        self.b = self.world.server("b", self.regions, home="west")
        self.kept = {}

    def write(self, name, data):
        """True when all of it was taken. What was acknowledged is remembered."""
        path = self.a.mount / name
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        except OSError as error:
            self.assertEqual(error.errno, errno.ENOSPC)
            return False
        try:
            self.kept[name] = b""
            self.kept[name] = data[:os.write(descriptor, data)]
        except OSError as error:
            self.assertEqual(error.errno, errno.ENOSPC)
        finally:
            os.close(descriptor)
        return self.kept[name] == data

    def fill(self, prefix, size, refusals=20):
        refused = 0
        for n in range(20000):
            if not self.write(f"{prefix}{n}", f"{prefix}{n}:".encode() * (size // 8)):
                refused += 1
                if refused == refusals:
                    return
        self.fail("the disk never filled up")

    def to_the_last_byte(self):
        """What somebody else takes: neither the log nor the database can grow by a page any more."""
        with open(self.ballast, "ab", buffering=0) as ballast:
            for size in (1 << 16, 4096, 1):
                try:
                    while True:
                        ballast.write(b"\0" * size)
                except OSError as error:
                    self.assertEqual(error.errno, errno.ENOSPC)
        disk = os.statvfs(self.small)
        self.assertLess(disk.f_bfree * disk.f_frsize, 6 << 20, "but for what the daemon gives up of its own")

    def assert_kept(self, server):
        for name, data in self.kept.items():
            self.assertEqual((server.mount / name).read_bytes(), data, f"{name} on {server.name}")

    def test_backlog_fills_the_disk(self):
        self.a.start()
        self.b.start()
        (self.a.mount / "clean").write_bytes(b"c" * 4000000)
        converge(self.a, self.b)
        self.ceph.kill(2)
        wait_until("a notices", lambda: self.write(f"ping{len(self.kept)}", b"x") and not self.a.region("west")["up"], 30, 0.3)
        # What a request under way still brought there may go from the cache, and cannot be read on a full disk.
        pings, self.kept = self.kept, {}
        self.fill("f", 60000)
        wait_until("the other region gets everything all the same",
                   lambda: self.a.status()["journal_rows"] == 0 and self.a.region("east")["backlog_rows"] == 0, 120, 0.3)
        self.assertGreaterEqual(self.a.status()["counters"]["content_evicted_total"], 1, "what every region has makes room")
        self.to_the_last_byte()
        self.fill("g", 60000)
        self.fill("small", 8, 5)
        self.assert_kept(self.a)
        self.assertGreater(self.a.region("west")["backlog_rows"], 100)
        for _ in range(2):
            self.a.kill()
            self.a.start()
            self.assert_kept(self.a)
        self.fill("h", 60000, 3)
        self.ceph.restart(2)
        wait_until(lambda: f"everything is delivered: {self.a.status_text()}\n{self.a.tail()}", lambda: self.a.backlog() == 0, 180, 0.5)
        # What is delivered may go from the cache, so there is room again.
        wait_until("there is room", lambda: self.write(f"after{len(self.kept)}", b"after" * 1000), 120, 0.5)
        self.ballast.unlink()
        converge(self.a, self.b, timeout=180)
        self.kept.update(pings)
        self.assert_kept(self.b)
        self.assert_kept(self.a)
        self.assertEqual({path.name for path in self.b.mount.iterdir()}, {"clean", *self.kept})
        self.assertEqual((self.b.mount / "clean").stat().st_size, 4000000)


if __name__ == "__main__":
    main()
