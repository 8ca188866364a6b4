"""A large volume costs what a small one does: mounting it, also after a kill, status, memory, idling. What is left undone is done beside."""
import errno
import os
import pathlib
import subprocess
import sys
import time
import unittest

from harness import World, main, skip, wait_until

FILL = os.environ.get("FILL")
FILES = 100_000
ENTRIES = int(os.environ.get("ENTRIES", 1_000_000))


def cpu_seconds(pid):
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def written(pid):
    for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("no wchar")


class Scale(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.region = cls.world.directories("one")
        cls.server = cls.world.server("large", cls.region)
        begin = time.monotonic()
        cls.server.start()
        # What a start takes at all; three of them are allowed for on a slow machine.
        cls.patience = 2 + 3 * (time.monotonic() - begin)
        (cls.server.mount / "local").write_text("content")
        cls.server.flush()
        cls.server.stop()
        subprocess.run([FILL, cls.server.state, "one", str(FILES)], check=True, stdout=subprocess.DEVNULL)

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def started(self, server):
        begin = time.monotonic()
        server.start()
        return time.monotonic() - begin

    def settled(self, server):
        wait_until(lambda: server.status()["cache"], lambda: not server.status()["cache"]["counting"], 60)

    def test_1_mount_after_a_kill(self):
        server = self.server
        self.started(server)
        self.settled(server)
        before = server.status()["cache"]
        self.assertGreater(before["inodes"], FILES)
        (server.mount / "dirty").write_text("written before the kill")
        server.kill()
        # What a crash between a content file and its row leaves, in the first directory and in a late one.
        strays = [server.state / "content" / name for name in ("00/0000000000010001", "7f/0000000000007f01")]
        for stray in strays:
            stray.parent.mkdir(exist_ok=True)
            stray.write_text("stray")
        self.assertLess(self.started(server), self.patience)
        begin = time.monotonic()
        server.status()
        self.assertLess(time.monotonic() - begin, self.patience)
        self.assertLess(server.resident_kib(), 100 << 10)
        self.assertEqual((server.mount / "dirty").read_text(), "written before the kill")
        self.settled(server)
        after = server.status()["cache"]
        self.assertEqual(after["inodes"], before["inodes"] + 1)
        self.assertEqual(after["content_files"], before["content_files"] + 1)
        wait_until("the strays are gone", lambda: not any(stray.exists() for stray in strays), 60)
        self.assertEqual((server.mount / "local").read_text(), "content")
        self.assertEqual(server.stop(), 0)

    def test_2_idle(self):
        server = self.server
        self.started(server)
        self.settled(server)
        server.flush()
        time.sleep(6)  # directory times, checkpoints
        pid = server.process.pid
        cpu, wrote = cpu_seconds(pid), written(pid)
        time.sleep(8)
        self.assertLess(cpu_seconds(pid) - cpu, 0.4)
        self.assertLess(written(pid) - wrote, 64 << 10)
        self.assertLess(server.resident_kib(), 100 << 10)
        self.assertEqual(server.stop(), 0)

    def test_3_check(self):
        server = self.server
        self.started(server)
        held = server.run("check", server.config, check=False)
        self.assertEqual(held.returncode, 7)
        self.assertIn(str(server.process.pid), held.stderr)
        server.stop()
        self.assertIn("ok", server.run("check", server.config).stdout)
        database = server.state / "meridian.db"
        size = database.stat().st_size
        with open(database, "r+b") as file:
            file.seek(size // 2 // 4096 * 4096)
            file.write(os.urandom(65536))
        damaged = server.run("check", server.config, check=False)
        self.assertEqual(damaged.returncode, 7, damaged.stdout)
        self.assertIn("damaged", damaged.stderr)

    def test_4_a_new_region_is_filled_beside(self):
        names = [f"d{n % 10}/f{n}" for n in range(1500)]
        server = self.world.server("growing", self.world.directories("first"))
        server.start()
        for name in names:
            path = server.mount / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(name)
        server.flush()
        self.assertEqual(server.stop(), 0)
        server.write_config(self.world.directories("first", "second"), "first", {})
        server.start()
        server.flush()
        bucket = self.world.dir / "buckets" / "second"
        for name in names:
            self.assertEqual((bucket / name).read_text(), name)
        self.assertFalse(server.region("second")["seeding"])
        self.assertEqual(server.stop(), 0)


class MillionEntries(unittest.TestCase):
    @staticmethod
    def churn(directory, part):
        """Seconds for 200 names."""
        begin = time.monotonic()
        for n in range(200):
            (directory / f"new{part}.{n}").write_bytes(b"x")
            os.stat(directory / f"new{part}.{n // 2}")
            os.rename(directory / f"new{part}.{n}", directory / f"newer{part}.{n}")
            (directory / f"newer{part}.{n}").rename(directory / f"new{part}.{n}")
        for n in range(200):
            os.unlink(directory / f"new{part}.{n}")
        return time.monotonic() - begin

    def test_directory(self):
        """Listed whole in bounded memory; names are found, made, renamed and removed as in any other."""
        world = World()
        self.addCleanup(world.close)
        server = world.server("large", world.directories("one"))
        server.start()
        server.flush()
        self.assertEqual(server.stop(), 0)
        subprocess.run([FILL, server.state, "one", str(ENTRIES), str(ENTRIES)], check=True, stdout=subprocess.DEVNULL)
        server.start()
        wait_until("nothing is counted any more", lambda: not server.status()["cache"]["counting"], 60)
        root = server.mount / "d0/e0"
        before = server.resident_kib()
        begin = time.monotonic()
        with os.scandir(root) as entries:
            seen = sum(1 for entry in entries if entry.name.startswith("f"))
        self.assertEqual(seen, ENTRIES)
        grown = server.resident_kib() - before
        print(f"{ENTRIES} entries in {time.monotonic() - begin:.1f} s, {grown} KiB more resident")
        self.assertLess(grown, 64 * 1024)
        small = server.mount / "small"
        small.mkdir()
        spent, beside = ([self.churn(directory, part) for part in range(3)] for directory in (root, small))
        print(f"made, found, renamed and removed in {min(spent):.3f} s, in a small directory {min(beside):.3f} s")
        self.assertLess(min(spent), 3 * min(beside) + 0.5)
        os.unlink(root / "f5")
        self.assertEqual(len(os.listdir(root)), ENTRIES - 1)
        with self.assertRaises(OSError) as caught:
            os.rmdir(root)
        self.assertEqual(caught.exception.errno, errno.ENOTEMPTY)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    if not FILL:
        skip("FILL does not name the program that fills a state directory")
    sys.exit(main())
