"""The flow to the regions: a directory's rename that a kill -9 cuts, contents that one region copies from the other, a limit of the
bandwidth, and a region that is left for reading and taken back.

FILES=100000 renames a directory of so many, SIZE=1000 of so many bytes each, STORE=directory with file:// regions:
FILES=100000 STORE=directory python3 test_flow.py Flow.test_directory_of_many_renamed"""
import json
import os
import pathlib
import re
import threading
import time

from harness import Pair, converge, main, wait_until

FILES = int(os.environ.get("FILES", "2000"))
SIZE = int(os.environ.get("SIZE", "0"))
DIRECTORY = os.environ.get("STORE") == "directory"
LARGE = 300_000
LARGES = 20
SHOWN = re.compile(r"\n  rename     of a directory: \d+ of about \d+ names done, now called moved\n")


def highest_kib(server):
    """The most memory that the daemon ever had."""
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1])


class Flow(Pair):
    @classmethod
    def make(cls):
        cls.clients = [cls.ceph.client(n) for n in (1, 2)]
        if DIRECTORY:
            cls.regions = cls.world.directories("region-1", "region-2")
        # one gateway in front of both buckets: one provider
        beside = {name: dict(options, endpoint=cls.ceph.region(1)["endpoint"]) if not DIRECTORY else options
                  for name, options in cls.regions.items()}
        cls.a = cls.world.server("a", beside, home="region-1", volume={"push": "copy"})
        cls.b = cls.world.server("b", cls.regions, home="region-2")

    def counters(self, server):
        return server.status()["counters"]

    def keys(self, n, prefix):
        if DIRECTORY:
            below = self.world.dir / "buckets" / f"region-{n + 1}" / prefix
            return [str(path) for path in (below, *below.rglob("*"))] if below.exists() else []
        pages = self.clients[n].get_paginator("list_objects_v2").paginate(Bucket=self.ceph.buckets[n], Prefix="app/" + prefix)
        return [o["Key"] for page in pages for o in page.get("Contents", [])]

    def await_names(self, name, timeout):
        """Until the other server shows all of them there, and nowhere else."""
        def there():
            path = self.b.mount / name
            other = self.b.mount / ("moved" if name == "many" else "many")
            return path.exists() and not other.exists() and len(os.listdir(path)) == FILES + LARGES

        wait_until(lambda: f"{name} on the other server\n{self.a.status_text()}{self.b.status_text()}", there, timeout, 0.2)

    def watch_the_expansion(self):
        """One row stands for the rename until all names are done, and `status` says how many are. Returns the rows."""
        rows, shown = set(), None
        while not shown:
            status = json.loads(self.a.ask("status", "json"))
            text = self.a.ask("status")
            rows.add(status["journal_rows"])
            if "rename" in status and SHOWN.search(text):
                shown = status["rename"]
            self.assertTrue(shown or status["journal_rows"], "the rename was over before anybody could look")
        self.assertEqual(rows, {1})
        self.assertEqual((shown["from"], shown["to"]), ("many", "moved"))
        self.assertGreaterEqual(shown["total"], FILES)
        self.assertLessEqual(shown["done"], shown["total"])
        return rows.pop()

    def test_directory_of_many_renamed(self):
        os.mkdir(self.a.mount / "many")
        for i in range(FILES):
            (self.a.mount / "many" / f"f{i}").write_bytes(b"%d" % i + self.world.random.randbytes(SIZE))
        for i in range(LARGES):
            (self.a.mount / "many" / f"large{i}").write_bytes(b"%08d" % i * (LARGE // 8))
        self.a.flush(3600)
        self.await_names("many", 3600)
        for i in range(LARGES):
            (self.b.mount / "many" / f"large{i}").read_bytes()
        before = self.counters(self.b)
        sent = self.counters(self.a)["bytes_sent_total"]
        self.assertEqual(self.a.status()["journal_rows"], 0)
        requests = self.counters(self.a)["store_requests_total"]
        memory = [highest_kib(server) >> 10 for server in (self.a, self.b)]
        began = time.monotonic()
        os.rename(self.a.mount / "many", self.a.mount / "moved")
        took = time.monotonic() - began
        self.assertLess(took, 5)
        rows = self.watch_the_expansion()
        # in the middle: some names are told of, and not all have their objects
        wait_until("the first names are sealed", lambda: self.a.status()["regions"][0]["backlog_rows"] > 100, 30, 0.02)
        requests = self.counters(self.a)["store_requests_total"] - requests
        memory += [highest_kib(self.a) >> 10]
        self.a.kill()
        self.a.start()
        self.assertEqual(len(os.listdir(self.a.mount / "moved")), FILES + LARGES)
        delivered = []

        def flush():
            self.a.flush(7200)
            delivered.append(time.monotonic() - began)

        flusher = threading.Thread(target=flush)
        flusher.start()
        self.await_names("moved", 7200)
        seen = time.monotonic() - began
        flusher.join()
        after = self.counters(self.b)
        print(f"{FILES} files of {SIZE} bytes and {LARGES} of {LARGE} renamed with their directory, {'file://' if DIRECTORY else 'Ceph'}: "
              f"rename(2) {took * 1000:.1f} ms, {rows} journal row, on the other server after {seen:.1f} s, in both regions after "
              f"{delivered[0]:.1f} s, with a kill -9; {requests + self.counters(self.a)['store_requests_total']} requests of the one server, "
              f"{after['store_requests_total'] - before['store_requests_total']} of the other, which received "
              f"{after['bytes_received_total'] - before['bytes_received_total']} bytes and fetched "
              f"{after['content_fetched_total'] - before['content_fetched_total']} files; at most {max(memory[0], memory[2])} MiB before "
              f"the kill and {highest_kib(self.a) >> 10} MiB after it, on the other server {memory[1]} MiB before and "
              f"{highest_kib(self.b) >> 10} MiB with it", flush=True)
        for i in range(LARGES):
            self.assertEqual((self.b.mount / "moved" / f"large{i}").read_bytes(), b"%08d" % i * (LARGE // 8))
        self.assertTrue((self.b.mount / "moved" / f"f{FILES - 1}").read_bytes().startswith(b"%d" % (FILES - 1)))
        self.assertEqual(self.counters(self.b)["content_fetched_total"], before["content_fetched_total"])
        converge(self.a, self.b, timeout=3600)
        # no large content was sent by the second daemon, nor by the first as far as it told, nor received by the other server
        self.assertLess(self.counters(self.a)["bytes_sent_total"], LARGES * LARGE + FILES * (5 * SIZE + 300))
        self.assertLess(after["bytes_received_total"] - before["bytes_received_total"], LARGE + FILES * (SIZE + 300))
        self.assertGreater(sent, LARGES * LARGE)
        for n in (0, 1):
            self.assertEqual(self.keys(n, "many"), [])
            self.assertEqual(len(self.keys(n, "moved/")), FILES + LARGES + 1)
            self.assertEqual([key for key in self.keys(n, ".meridian/trash/") if "/many/" in key or "/moved/" in key], [])
        self.assertNotIn("rename", self.a.status())

    def test_a_renamed_directory_is_seen_whole(self):
        """The mark, which sorts before what it announces, is never there without that; and no file is at neither name."""
        aside, names = self.a.mount / "aside", [f"f{i}" for i in range(200)] + ["large"]
        os.makedirs(self.a.mount / "whole0" / "sub")
        aside.mkdir()
        for name in names:
            (self.a.mount / "whole0" / name).write_bytes(name.encode() * (LARGE // 8 if name == "large" else 1))
        self.a.flush()
        converge(self.a, self.b)
        for n in range(3):
            here, there, was = self.a.mount / f"whole{n}", self.b.mount / f"whole{n + 1}", self.b.mount / f"whole{n}"
            (here / "f7").write_bytes(b"changed right before %d" % n)
            (aside / "moved").write_bytes(b"moved right before %d" % n)
            self.a.flush()
            wait_until("it is seen", lambda: (self.b.mount / "aside" / "moved").exists(), 30, 0.02)
            os.rename(aside / "moved", here / "f9")
            (here / "a-mark").write_bytes(b"%d" % n)
            os.rename(here, self.a.mount / f"whole{n + 1}")
            deadline = time.monotonic() + 30
            while was.exists() or not (there / "a-mark").exists() or (there / "a-mark").read_bytes() != b"%d" % n:
                self.assertLess(time.monotonic(), deadline)
                # The two renames come one after the other when they were sealed apart.
                self.assertTrue((self.b.mount / "aside" / "moved").exists() or (was / "f9").exists() or (there / "f9").exists())
                self.assertTrue((was / "f7").exists() or (there / "f7").exists())
                if (there / "a-mark").exists():
                    self.assertEqual([name for name in names if not (there / name).exists()], [])
                    self.assertEqual((there / "f7").read_bytes(), b"changed right before %d" % n)
                    self.assertTrue((there / "sub").is_dir())
        self.a.flush()
        converge(self.a, self.b)

    def test_contents_leave_once(self):
        before = {r["name"]: r for r in self.a.status()["regions"]}
        content = self.world.random.randbytes(3_000_000)
        (self.a.mount / "once").write_bytes(content)
        self.a.flush()
        after = {r["name"]: r for r in self.a.status()["regions"]}
        self.assertTrue(after["region-2"]["copies_from_home"])
        self.assertGreaterEqual(after["region-1"]["bytes_sent"] - before["region-1"]["bytes_sent"], len(content))
        self.assertLess(after["region-2"]["bytes_sent"] - before["region-2"]["bytes_sent"], 100_000)
        self.assertEqual(after["region-2"]["bytes_copied"] - before["region-2"]["bytes_copied"], len(content))
        wait_until("the other server sees it", lambda: (self.b.mount / "once").exists(), 30)
        self.assertEqual((self.b.mount / "once").read_bytes(), content)

    def test_bandwidth_is_kept(self):
        regions = {f"region-{n}": dict(self.ceph.region(n), rate_limit="512K") for n in (1, 2)}
        slow = self.world.server("slow", regions, home="region-1")
        slow.start()
        try:
            os.mkdir(slow.mount / "apart")
            slow.flush()
            began = time.monotonic()
            (slow.mount / "paced").write_bytes(self.world.random.randbytes(5 << 20))
            time.sleep(0.5)
            # what others wait for does not stand behind it
            (slow.mount / "apart" / "note").write_bytes(b"now")
            wait_until("a small file overtakes", lambda: (self.b.mount / "apart" / "note").exists(), 60, 0.02)
            self.assertFalse((self.b.mount / "paced").exists())
            slow.flush()
            self.assertGreater(time.monotonic() - began, 9)
        finally:
            self.assertEqual(slow.stop(), 0, slow.tail())

    def test_zz_dead_home_is_left_and_taken_back(self):
        def read_last():
            return self.b.region("region-2")["read_last"]

        self.assertFalse(read_last())
        self.ceph.kill(2)
        wait_until("the home region is left", read_last, 60)
        self.assertIn("read last", self.b.status_text())
        (self.a.mount / "meanwhile").write_bytes(b"seen")
        wait_until("changes come from elsewhere", lambda: (self.b.mount / "meanwhile").exists(), 30)
        self.assertEqual((self.b.mount / "meanwhile").read_bytes(), b"seen")
        self.assertEqual(self.b.status()["pull_region"], "region-1")
        self.ceph.restart(2)
        def answers():
            region = self.b.region("region-2")
            return region if region["up"] else None

        self.assertTrue(wait_until("the region answers", answers, 60)["read_last"], "not taken back with its first answer")
        wait_until("it is taken back", lambda: not read_last(), 60)
        wait_until("and pulled", lambda: self.b.status()["pull_region"] == "region-2", 60)


if __name__ == "__main__":
    main()
