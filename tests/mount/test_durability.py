"""fsync that waits for regions: each mode with regions that answer and that do not, by a real program on a real mount."""
import concurrent.futures
import errno
import os
import signal
import subprocess
import sys
import time
import unittest

from harness import World, Ceph, main, wait_until

NAMES = ("region-1", "region-2", "region-3")
STATE = "user.meridian.state"


def state(path):
    return dict(line.split(": ", 1) for line in os.getxattr(path, STATE).decode().splitlines())


def write(path, data, flags=0):
    """Writes and syncs; returns how long the sync took."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        os.write(fd, data)
        started = time.monotonic()
        os.fsync(fd)
        return time.monotonic() - started
    finally:
        os.close(fd)


def has(server, path, *names):
    found = state(server.mount / path)
    return all(found[name] == "here" for name in names)


class Durability(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.addClassCleanup(cls.world.close)
        cls.ceph = Ceph(cls.world)
        cls.regions = {f"region-{n}": cls.ceph.region(n) for n in (1, 2, 3)}
        cls.a = cls.world.server("a", cls.regions, home="region-1", volume={
            "durability": "all", "durability_timeout": "10s", "segment_delay": "10s"})
        with open(cls.a.config, "a", encoding="utf-8") as config:
            config.write('\n[policy "quorum/*"]\ndurability = quorum\n[policy "home/*"]\ndurability = home\n'
                         '[policy "local/*"]\ndurability = local\n[policy "close/*"]\nsync_on_close = yes\n')
        cls.a.start()
        for name in ("quorum", "home", "local", "close"):
            (cls.a.mount / name).mkdir()
        cls.a.flush()

    def test_1_all_regions_answer(self):
        mount = self.a.mount
        for name in ("all", "quorum/f", "home/f", "local/f"):
            seconds = write(mount / name, name.encode())
            self.assertLess(seconds, 8, f"{name}: an fsync does not wait for segment_delay")
            if name == "all":
                self.assertTrue(has(self.a, name, *NAMES), state(mount / name))
        self.assertLess(write(mount / "large", os.urandom(3 << 20)), 8)
        self.assertTrue(has(self.a, "large", *NAMES))
        # Each write of its own, whether or not the kernel passes writes through.
        fd = os.open(mount / "osync", os.O_WRONLY | os.O_CREAT | os.O_SYNC, 0o644)
        try:
            for n in range(3):
                os.write(fd, b"record %d\n" % n)
                self.assertTrue(has(self.a, "osync", *NAMES), state(mount / "osync"))
        finally:
            os.close(fd)
        # A file that another descriptor passes through already.
        with open(mount / "osync", "r+b", buffering=0) as plain:
            plain.write(b"x")
            fd = os.open(mount / "osync", os.O_WRONLY | os.O_DSYNC)
            os.pwrite(fd, b"yy", 1)
            self.assertTrue(has(self.a, "osync", *NAMES), state(mount / "osync"))
            os.close(fd)
        self.assertTrue((mount / "osync").read_bytes().startswith(b"xyyord 0\n"))
        (mount / "close" / "f").write_bytes(b"closed")
        self.assertTrue(has(self.a, "close/f", *NAMES))
        os.mkdir(mount / "names")
        (mount / "names" / "x").write_bytes(b"x")
        fd = os.open(mount / "names", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.assertTrue(has(self.a, "names/x", *NAMES))

    def test_2_the_attribute(self):
        path = self.a.mount / "attribute"
        write(path, b"x")
        os.setxattr(path, "user.kept", b"1")
        self.assertEqual(os.listxattr(path), ["user.kept"])
        for change in (lambda: os.setxattr(path, STATE, b"x"), lambda: os.removexattr(path, STATE)):
            with self.assertRaises(OSError) as failed:
                change()
            self.assertEqual(failed.exception.errno, errno.EPERM)
        wait_until("all of it is everywhere", lambda: set(state(self.a.mount).values()) == {"here"}, 60)

    def test_3_many_share_a_segment(self):
        sent = self.a.status()["counters"]["segments_sent_total"]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            seconds = list(pool.map(lambda n: write(self.a.mount / "quorum" / f"m{n}", b"x" * 100), range(128)))
        self.assertLess(max(seconds), 10)
        sent = self.a.status()["counters"]["segments_sent_total"] - sent
        print(f"128 fsyncs by 32 threads: {sent} segments, slowest {max(seconds):.3f} s, median {sorted(seconds)[64]:.3f} s")
        self.assertLess(sent, 3 * 128)

    def test_4_a_region_is_down(self):
        mount = self.a.mount
        self.ceph.kill(3)
        wait_until("the dead region is noticed", self.notices, 30)
        for name in ("quorum/down", "home/down", "local/down"):
            self.assertLess(write(mount / name, b"x" * 1000), 8, name)
        self.assertTrue(has(self.a, "quorum/down", "region-1", "region-2"))
        wait_until("it is behind", lambda: "behind" in state(mount / "quorum" / "down")["region-3"], 60)
        started = time.monotonic()
        with self.assertRaises(OSError) as failed:
            write(mount / "all", b"not in all of them")
        self.assertEqual(failed.exception.errno, errno.EIO)
        self.assertGreater(time.monotonic() - started, 9)
        self.assertIn("region-3", self.a.tail())
        self.assertEqual((mount / "all").read_bytes(), b"not in all of them")
        # Others go on while one waits, and a signal ends the wait.
        waiter = subprocess.Popen([sys.executable, "-c", "import os,sys\nfd=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\n"
                                   "os.write(fd,b'w')\nprint('go',flush=True)\nos.fsync(fd)", mount / "waiter"], stdout=subprocess.PIPE)
        waiter.stdout.readline()
        wait_until("it waits", lambda: self.a.status()["durability_waiting"], 8, 0.05)
        (mount / "local" / "other").write_bytes(b"x")
        self.assertIsNone(waiter.poll(), "it still waits")
        waiter.send_signal(signal.SIGKILL)
        waiter.wait(6)
        waiter.stdout.close()
        self.ceph.restart(3)
        wait_until("nothing was taken back", lambda: has(self.a, "all", *NAMES) and has(self.a, "waiter", *NAMES), 90)
        write(mount / "all", b"again")
        self.assertGreaterEqual(self.a.status()["counters"]["durable_failures_total"], 1)

    def notices(self):
        (self.a.mount / "local" / "probe").write_bytes(os.urandom(8))
        return not self.a.region("region-3")["up"]

    def test_5_without_this_server(self):
        """What quorum promised is there for others when this server and the third region are gone."""
        write(self.a.mount / "quorum" / "kept", b"kept")
        self.a.kill()
        self.ceph.kill(3)
        # Two of the three had it: region 3 and one of the others, perhaps, whose server would tell the last one's after gone_after.
        others = [self.world.server(f"b{n}", self.regions, home=f"region-{n}") for n in (1, 2)]
        for other in others:
            other.start()
        kept = [other.mount / "quorum" / "kept" for other in others]
        wait_until("it arrives", lambda: any(path.exists() for path in kept), 60)
        for path in kept:
            if path.exists():
                self.assertEqual(path.read_bytes(), b"kept")
        for other in others:
            self.assertEqual(other.stop(), 0, other.tail())

    def test_6_backpressure(self):
        """Region 3 is down (test 5): writers are slowed, then refused; afterwards everything arrives."""
        server = self.world.server("c", self.regions, home="region-1", volume={"max_dirty": "6M", "segment_delay": "100ms"})
        server.start()
        (server.mount / "pressure").mkdir()
        wait_until("the dead region is noticed", lambda: not server.region("region-3")["up"], 30)
        written, slow = {}, 0
        with self.assertRaises(OSError) as failed:
            for n in range(200):
                data = os.urandom(128 << 10)
                started = time.monotonic()
                path = server.mount / "pressure" / f"f{n}"
                path.write_bytes(data)
                slow = max(slow, time.monotonic() - started)
                written[path.name] = data
                time.sleep(0.02)
        self.assertEqual(failed.exception.errno, errno.ENOSPC)
        self.assertGreater(len(written), 30)
        self.assertLess(len(written), 120)
        self.assertGreater(slow, 0.02)
        status = server.status()
        self.assertGreater(status["counters"]["writes_slowed_total"], 0)
        self.assertGreater(status["counters"]["writes_refused_total"], 0)
        self.assertTrue(status["pressure"]["refused"])
        self.assertIn("WRITERS ARE REFUSED", server.status_text())
        os.unlink(server.mount / "pressure" / "f0")
        del written["f0"]
        os.rename(server.mount / "pressure" / "f1", server.mount / "pressure" / "g1")
        written["g1"] = written.pop("f1")
        os.chmod(server.mount / "pressure" / "f2", 0o600)
        self.ceph.restart(3)
        wait_until(server.status_text, lambda: server.status()["pressure"]["permille"] == 0, 60)
        (server.mount / "pressure" / "after").write_bytes(b"x")
        server.flush()
        body = self.ceph.client(3)
        for name, data in written.items():
            got = body.get_object(Bucket="region-3", Key=f"app/pressure/{name}")["Body"].read()
            self.assertEqual(got, data, name)

    def test_7_optional_region(self):
        """Region 3 is optional: nothing waits for it, it is given up when it is out, and gets everything when it is back."""
        regions = {name: dict(region) for name, region in self.regions.items()}
        regions["region-3"].update(optional="yes", resync_backlog="10")
        server = self.world.server("d", regions, home="region-1", volume={"durability": "all", "segment_delay": "100ms"})
        server.start()
        folder = server.mount / "optional"
        folder.mkdir()
        for name in ("same", "changed", "removed"):
            (folder / name).write_bytes(b"before")
        wait_until(server.status_text, lambda: server.backlog() == 0, 60)
        self.ceph.kill(3)
        for n in range(20):
            write(folder / f"f{n}", b"f%d" % n)
        wait_until(server.status_text, lambda: server.region("region-3")["resync"] == "needed", 90)
        self.assertIn("NEEDS RESYNC", server.status_text())
        self.assertEqual(state(folder / "f1")["region-3"], "needs resync")
        (folder / "changed").write_bytes(b"after")
        (folder / "removed").unlink()
        server.flush(60)
        self.ceph.restart(3)
        wait_until(server.status_text, lambda: server.region("region-3")["resync"] == "none", 60)
        bucket = self.ceph.client(3)
        found = {o["Key"].rsplit("/", 1)[1] for o in bucket.list_objects_v2(Bucket="region-3", Prefix="app/optional/")["Contents"]} - {""}
        self.assertEqual(found, {"same", "changed"} | {f"f{n}" for n in range(20)})
        self.assertEqual(bucket.get_object(Bucket="region-3", Key="app/optional/changed")["Body"].read(), b"after")


if __name__ == "__main__":
    main()
