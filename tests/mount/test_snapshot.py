"""Files that are written while they are sealed: each version that another server or a plain reader of the bucket sees is of
one instant, and a file that never rests is published all the same. With passthrough and without."""
import errno
import hashlib
import mmap
import multiprocessing
import os
import struct
import threading
import time
import unittest

from harness import World, main, wait_until

SIZE = 200 << 20
PLACES = range(4096, SIZE, SIZE // 16)  # one number stands in all of them
LARGE = 600 << 20  # what takes over a second to hash is copied and hashed in the background (cache/snapshot_job.c)
HUGE = 64 << 30  # what takes half a minute at least, were it not removed before
RECORD = 64


def record(n):
    return struct.pack("<Q", n) + hashlib.sha256(b"%d" % n).digest() + b"." * (RECORD - 40)


def in_one_version(read):
    """What read() gives. ESTALE is allowed (docs/consistency.md, docs/posix.md): a file was replaced from elsewhere twice while
    it was being opened, or a version that is still to be fetched was overwritten in every region."""
    for _ in range(10):
        try:
            return read()
        except OSError as e:
            if e.errno != errno.ESTALE:
                raise
    raise AssertionError("ESTALE ten times")


def read_numbers(path):
    return in_one_version(lambda: numbers_in(path))


def numbers_in(path):
    """What stands in each place; a name that changes meanwhile stays the file that was opened."""
    with open(path, "rb") as file:
        found = []
        for place in PLACES:
            got = os.pread(file.fileno(), RECORD, place)
            if len(got) < RECORD or not any(got):
                return None  # the version from before the writer
            found.append(got)
    return found


def write_places(path, stop, count, pause):
    """From the first place to the last, so that a later one is never ahead of an earlier one."""
    if not pause and os.geteuid() == 0:
        os.nice(-5)  # what else runs here shall not give it pauses
    fd = os.open(path, os.O_WRONLY)
    n = 0
    while not stop.is_set():
        n += 1
        data = record(n)
        for place in PLACES:
            os.pwrite(fd, data, place)
        count.value = n
        if pause:
            time.sleep(pause)
    os.close(fd)


def store_places(path, stop, count, _):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        n = 0
        while not stop.is_set():
            n += 1
            data = record(n)
            for place in PLACES:
                mapping[place:place + RECORD] = data
            count.value = n
            time.sleep(1)  # stores cannot be held off: reading all of the file takes no longer than this


class Disk(threading.Thread):
    """How long a flush takes on the disk that all of it is on, whatever else the machine does there."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.path, self.longest, self.ended = directory / "flushed", 0.0, threading.Event()

    def run(self):
        with open(self.path, "wb", buffering=0) as file:
            while not self.ended.wait(0.2):
                start = time.monotonic()
                file.write(b"x")
                os.fsync(file.fileno())
                self.longest = max(self.longest, time.monotonic() - start)

    def end(self):
        self.ended.set()
        self.join()


def append_lines(path, stop, count, _):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    n = 0
    while not stop.is_set():
        os.write(fd, b"%09d\n" % n)
        n += 1
        count.value = n
    os.close(fd)


class On(unittest.TestCase):
    PASSTHROUGH = "auto"

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        regions = cls.world.directories("east")
        cls.bucket = cls.world.dir / "buckets" / "east"
        cls.a = cls.world.server("a", regions, volume={"passthrough": cls.PASSTHROUGH, "seal_after": "1s", "durability_timeout": "300s"})
        with open(cls.a.config, "a", encoding="utf-8") as config:
            config.write('\n[policy "durable/*"]\ndurability = all\n')
        cls.b = cls.world.server("b", regions)
        cls.a.start()
        cls.b.start()
        state = cls.a.status()["fs"]["passthrough"]
        if cls.PASSTHROUGH == "auto" and state != "on":
            cls.world.close()
            raise unittest.SkipTest(f"passthrough is {state}")

    @classmethod
    def tearDownClass(cls):
        cls.world.end(cls.a, cls.b)

    def start(self, function, name, pause=0):
        stop, count = multiprocessing.Event(), multiprocessing.Value("q")
        process = multiprocessing.Process(target=function, args=(self.a.mount / name, stop, count, pause), daemon=True)
        process.start()

        def end():
            stop.set()
            process.join(60)
            self.assertEqual(process.exitcode, 0)
        self.addCleanup(end)
        return count, end

    def numbers_are_of_one_instant(self, found, where):
        """Any instant: also one between two of a number's writes, which go from the first place to the last."""
        numbers = [struct.unpack_from("<Q", f)[0] for f in found]
        for number, data in zip(numbers, found):
            self.assertEqual(data, record(number), f"{where}: half a write")
        self.assertTrue(numbers[0] - numbers[-1] in (0, 1) and numbers == sorted(numbers, reverse=True),
                        f"{where}: {numbers} were never there at one time")
        return numbers[0]

    def watch(self, name, count, versions, seconds):
        """Until that many versions were seen on the other server and in the bucket: none of them is torn."""
        paths = {"the other server": self.b.mount / name, "the bucket": self.bucket / name}
        seen = {where: set() for where in paths}
        end = time.monotonic() + seconds
        while any(len(s) < versions for s in seen.values()):
            self.assertLess(time.monotonic(), end, f"{ {w: sorted(s) for w, s in seen.items()} } of {count.value}\n"
                                                   f"{self.a.status_text()}\n{self.a.tail()}")
            for where, path in paths.items():
                if path.exists():
                    seen[where].add(self.numbers_are_of_one_instant(read_numbers(path), where))
            time.sleep(0.1)
        return seen

    def make(self, name):
        """Half of it data: much more than can be copied between two writes."""
        with open(self.a.mount / name, "wb") as file:
            file.truncate(SIZE)
            for at in range(0, SIZE, 1 << 20):
                file.seek(at)
                file.write(b"d" * (512 << 10))
            for place in PLACES:
                file.seek(place)
                file.write(record(0))
        self.a.flush()

    def ended(self, name, end, count):
        """After the last write both have the last number."""
        end()
        self.a.flush()
        for path in (self.bucket / name, self.b.mount / name):
            wait_until(lambda p=path: f"{p} has number {count.value}",
                       lambda p=path: read_numbers(p) == [record(count.value)] * len(PLACES), 60)
        (self.a.mount / name).unlink()
        self.a.flush()

    def test_written_without_pause(self):
        self.make("restless")
        count, end = self.start(write_places, "restless")
        self.watch("restless", count, 2, 120)
        self.ended("restless", end, count)

    def test_written_again_and_again(self):
        self.make("busy")
        count, end = self.start(write_places, "busy", 0.05)
        self.watch("busy", count, 2, 120)
        self.ended("busy", end, count)

    def test_large_written_again_and_again(self):
        self.make("large")
        os.truncate(self.a.mount / "large", LARGE)
        count, end = self.start(write_places, "large", 0.05)
        self.watch("large", count, 2, 240)
        self.ended("large", end, count)

    def test_others_go_on_beside_a_huge_one(self):
        huge, small = self.a.mount / "huge" / "file", self.a.mount / "elsewhere" / "small"
        for path in (huge, small):
            path.parent.mkdir()
        huge.touch()
        self.a.flush()
        os.truncate(huge, HUGE)
        _, end = self.start(write_places, "huge/file", 0.05)
        under_way = self.a.state / "snapshot" / f"{huge.stat().st_ino:016x}" / "next"
        wait_until("a snapshot of the huge one is being taken", under_way.exists, 60)
        snapshot = under_way.stat().st_ino
        for n in (b"1", b"2", b"3"):
            small.write_bytes(n)
            wait_until("the other server has it", lambda n=n: (self.b.mount / "elsewhere" / "small").exists() and
                       in_one_version((self.b.mount / "elsewhere" / "small").read_bytes) == n, 60)
        self.assertTrue(under_way.exists() and under_way.stat().st_ino == snapshot, "the huge one was faster")
        end()
        huge.unlink()
        self.a.flush()
        wait_until("nothing of it is left", lambda: not under_way.exists(), 60)

    def test_fsync_waits_for_the_region(self):
        """What was written before it is in the object when it returns, though that is copied in the background."""
        path = self.a.mount / "durable" / "large"
        path.parent.mkdir()
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.truncate(fd, LARGE)
            for n in (1, 2):
                for place in PLACES:
                    os.pwrite(fd, record(n), place)
                os.fsync(fd)
                self.assertEqual(numbers_in(self.bucket / "durable" / "large"), [record(n)] * len(PLACES))
        finally:
            os.close(fd)
        path.unlink()

    def test_mapped(self):
        self.make("mapped")
        count, end = self.start(store_places, "mapped")
        self.watch("mapped", count, 2, 120)
        self.ended("mapped", end, count)

    def test_a_log_without_pause(self):
        """Each version is the beginning of the log (not always up to a line's end: the kernel extends a file by pages);
        on the other server none is older than seal_after and the way there. The object follows at a pace of its own."""
        path, object_, there = self.a.mount / "log", self.bucket / "log", self.b.mount / "log"
        disk = Disk(self.world.dir)
        disk.start()
        self.addCleanup(disk.end)
        path.touch()
        self.a.flush()
        wait_until("the other server has it", there.exists, 60)
        count, end = self.start(append_lines, "log")
        wait_until("the writer writes", lambda: count.value > 100, 60)
        began, sizes = time.monotonic(), []
        changed = began
        while time.monotonic() < began + 10 or len(sizes) < 4:
            now = there.stat().st_size
            if not sizes or now != sizes[-1]:
                for data in (object_.read_bytes(), in_one_version(there.read_bytes)):
                    whole = b"".join(b"%09d\n" % n for n in range(len(data) // 10 + 1))
                    self.assertTrue(whole.startswith(data), f"not the beginning of the log: {len(data)} bytes, …{data[-100:]}")
                sizes.append(now)
                changed = time.monotonic()
            # Each version is flushed on its way, here and there.
            self.assertLess(time.monotonic() - changed, 6 + 2 * disk.longest,
                            f"no new version: {sizes}, the longest flush took {disk.longest:.2f} s\n{self.a.status_text()}\n{self.a.tail()}")
            time.sleep(0.05)
        self.assertEqual(sizes, sorted(sizes))
        end()
        self.a.flush()
        wait_until("the whole log is in the bucket", lambda: object_.stat().st_size == count.value * 10, 60)
        wait_until("and on the other server", lambda: there.stat().st_size == count.value * 10, 60)


class Off(On):
    PASSTHROUGH = "off"

    # What is stored in pages of this file system reaches the content when the kernel writes them back, page by page.
    test_mapped = None
    # One way for all writes that the daemon sees.
    test_written_again_and_again = None
    test_fsync_waits_for_the_region = None


if __name__ == "__main__":
    main()
