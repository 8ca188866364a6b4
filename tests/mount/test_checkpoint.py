"""A new server starts from a checkpoint; segments that it covers need not be there. FILES sets how many files."""
import os
import time
import unittest

from harness import World, Ceph, converge, main, wait_until

FILES = int(os.environ.get("FILES", "10000"))
FAST = {"checkpoint_interval": "200ms"}


def fill(root, count, each=200):
    """A tree of count empty files."""
    for at in range(0, count, each):
        directory = root / f"d{at // 5000}" / f"e{at // each}"
        directory.mkdir(parents=True)
        for n in range(min(each, count - at)):
            os.close(os.open(directory / f"file-{n}", os.O_CREAT | os.O_WRONLY))


class Checkpoint(unittest.TestCase):
    def setUp(self):
        self.world = World()

    def tearDown(self):
        self.world.close()

    def written(self, server, since=0):
        return wait_until("a checkpoint is written", lambda: server.status()["checkpoint_ms"] > since and
                          server.status()["checkpoint_ms"], 120, 0.5)

    def test_new_server(self):
        regions = self.world.directories("east")
        a = self.world.server("a", regions, volume=FAST)
        a.start()
        fill(a.mount, FILES)
        (a.mount / "content").write_text("content")
        a.flush(300)
        self.written(a)
        bucket = self.world.dir / "buckets" / "east"
        wait_until("it covers all", lambda: a.status()["checkpoint_segments_since"] == 0, 120, 0.5)
        for segment in (bucket / ".meridian" / "log").iterdir():
            segment.unlink()
        b = self.world.server("b", regions, volume=FAST)
        started = time.monotonic()
        b.start()
        seconds = time.monotonic() - started
        requests = b.status()["counters"]["store_requests_total"]
        # It waited: nothing is missing in the first look.
        for at in range(0, FILES, 200):
            self.assertTrue((b.mount / f"d{at // 5000}" / f"e{at // 200}" / "file-0").exists())
        print(f"{FILES} files: mounted after {seconds:.1f} s, {requests} requests", flush=True)
        self.assertLess(requests, max(100, FILES // 100))
        self.assertLess(seconds, 60)
        self.assertEqual((b.mount / "content").read_text(), "content")
        converge(a, b)
        (b.mount / "from-b").write_text("b")
        (a.mount / "from-a").write_text("a")
        converge(a, b)
        self.assertEqual(b.status()["bad_segments"], 0)

    def test_ceph(self):
        ceph = Ceph(self.world, 1)
        regions = {"region-1": ceph.region(1)}
        a = self.world.server("a", regions, volume=FAST)
        a.start()
        fill(a.mount, min(FILES, 1000))
        a.flush()
        first = self.written(a)
        b = self.world.server("b", regions, volume=FAST)
        b.start()
        self.assertTrue((b.mount / "d0" / "e0" / "file-0").exists())
        self.assertGreater(b.status()["counters"]["checkpoints_loaded_total"], 0)
        # Whoever gets the lease writes the next.
        (b.mount / "more").write_text("more")
        b.flush()
        self.written(a, first)
        converge(a, b)


if __name__ == "__main__":
    main()
