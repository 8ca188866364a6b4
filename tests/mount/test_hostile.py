"""Bad input from a bucket: reported, skipped, counted; the mount lives on. The segments are made here from docs/bucket-format.md, not with
the program's own code."""
import hashlib
import os
import struct
import time
import unittest
import zlib

from harness import World, converge, main, wait_until


def varint(n):
    out = bytearray()
    while True:
        out.append((n & 0x7F) | (0x80 if n > 0x7F else 0))
        n >>= 7
        if not n:
            return bytes(out)


def prefixed(data):
    return varint(len(data)) + data


def stamp(ms, node):
    return struct.pack(">QQ", ms << 16, node)


def record(key, content, ms, node, size=None, digest=None, kind=1, mode=0o644):
    digest = digest or hashlib.sha256(content).digest()
    size = len(content) if size is None else size
    out = prefixed(key) + prefixed(b"") + bytes([kind, 1])
    if kind == 1:
        out += varint(size) + digest
    out += varint(0) + stamp(ms, node)
    out += varint(mode) + varint(0) + varint(0) + prefixed(b"") + stamp(ms, node)
    out += varint(0) + struct.pack(">QQ", 0, 0)
    out += varint(1) + struct.pack(">QQ", node, ms << 16)
    return out + prefixed(content)


def segment(records, ms, node, seq, previous=b"", raw_len=None):
    raw = b"".join(prefixed(r) for r in records)
    packed = zlib.compress(raw, 1)
    head = b"MRDNSEG\x01" + struct.pack(">II", 0, len(records))
    head += struct.pack(">QQQQQ", node, seq, ms, len(raw) if raw_len is None else raw_len, len(packed)) + previous.ljust(64, b"\0")
    return head + hashlib.sha256(head + packed).digest() + packed


class Hostile(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.regions = self.world.directories("east")
        self.bucket = self.world.dir / "buckets" / "east"
        self.a = self.world.server("a", self.regions)
        self.a.start()
        (self.a.mount / "before").write_text("before")
        self.a.flush()
        self.seqs = {}

    def tearDown(self):
        self.world.close()

    def put(self, data, node, seq, ms):
        name = f"{ms:012x}-{node:016x}-{seq:016x}"
        path = self.bucket / ".meridian" / "log" / name
        temporary = self.world.dir / "segment"
        temporary.write_bytes(data)
        os.rename(temporary, path)
        return name

    def counters(self):
        return self.a.status()["counters"]

    def alive(self, what):
        name = f"alive-{time.monotonic_ns()}"
        (self.a.mount / name).write_text(what)
        self.a.flush()
        self.assertEqual((self.bucket / name).read_text(), what)

    def test_1_a_good_foreign_segment_is_merged(self):
        """The encoder above is right: otherwise the refusals below would prove nothing."""
        ms = int(time.time() * 1000)
        self.put(segment([record(b"good", b"from afar", ms, 77)], ms, 77, 1), 77, 1, ms)
        wait_until(lambda: self.a.status_text() + self.a.tail(), (self.a.mount / "good").exists, 60)
        self.assertEqual((self.a.mount / "good").read_text(), "from afar")
        self.assertEqual(self.counters()["segments_corrupt_total"], 0)

    def test_2_damaged_segments(self):
        ms = int(time.time() * 1000)
        good = segment([record(b"victim", b"content", ms, 5)], ms, 5, 1)
        bad = [good[:10], good[:100], good[:-1], good + b"x", b"", b"\0" * 500, b"MRDNSEG\x01" + b"\xff" * 300]
        for bit in (0, 70, 8 * 60, 8 * 110, 8 * (len(good) - 3)):
            flipped = bytearray(good)
            flipped[bit // 8] ^= 1 << bit % 8
            bad.append(bytes(flipped))
        bad.append(segment([record(b"bomb", b"x", ms, 5)], ms, 5, 1, raw_len=1 << 40))
        for n, data in enumerate(bad):
            self.put(data, 100 + n, 1, ms + n)
        wait_until(lambda: f"all counted: {self.counters()} {self.a.tail()}",
                   lambda: self.counters()["segments_corrupt_total"] >= len(bad) and self.a.status()["bad_segments"] >= len(bad), 60)
        self.assertEqual(self.a.status()["bad_segments"], len(bad))
        self.assertFalse((self.a.mount / "victim").exists())
        # each writer's later, sound segment is still merged
        self.put(segment([record(b"later", b"later", ms + 50, 100)], ms + 50, 100, 2,
                         f"{ms:012x}-{100:016x}-{1:016x}".encode()), 100, 2, ms + 50)
        wait_until("the next segment of that writer", (self.a.mount / "later").exists, 60)
        self.alive("after damage")
        self.assertEqual(self.counters()["segments_corrupt_total"], len(bad), "each is counted once")

    def test_3_absurd_size(self):
        ms = int(time.time() * 1000)
        name = f"{ms:012x}-{9:016x}-{1:016x}"
        with open(self.bucket / ".meridian" / "log" / name, "wb") as file:
            file.truncate(20 << 30)
        wait_until("it is counted", lambda: self.counters()["segments_corrupt_total"] >= 1, 60)
        self.assertLess(self.a.resident_kib(), 150 * 1024)
        self.alive("after the absurd one")

    def test_4_hostile_records(self):
        ms = int(time.time() * 1000)
        keys = [b"../x", b"a//b", b"/etc/passwd", b"a/../../b", b"a/./b", b"n" * 2048, b"c" * 256, b"nul\0byte", b".meridian/volume.json", b"a/"]
        records = [record(key, b"evil", ms, 6) for key in keys]
        records.append(record(b"lying", b"content", ms, 6, digest=b"\1" * 32))
        records.append(record(b"short", b"content", ms, 6, size=1 << 50))
        records.append(record(b"mode", b"content", ms, 6, mode=0o1000000))
        records.append(record(b"kind", b"content", ms, 6, kind=99))
        records.append(b"")
        records.append(record(b"cut", b"content", ms, 6)[:30])
        records.append(record(b"sound", b"sound", ms, 6))
        self.put(segment(records, ms, 6, 1), 6, 1, ms)
        wait_until(lambda: self.a.tail(), (self.a.mount / "sound").exists, 60)
        self.assertEqual(self.counters()["records_hostile_total"], len(records) - 1)
        self.assertEqual({p.name for p in self.a.mount.iterdir()}, {"before", "sound"})
        self.assertEqual((self.bucket / ".meridian" / "volume.json").read_bytes()[:1], b"{")
        self.assertFalse((self.world.dir / "x").exists())
        self.alive("after hostile keys")

    def test_5_stamp_from_the_future(self):
        ms = int(time.time() * 1000)
        self.put(segment([record(b"before", b"hijacked", ms + 86400000, 8)], ms, 8, 1), 8, 1, ms)
        wait_until("it is held", lambda: self.a.status()["held"] >= 1, 60)
        self.assertEqual((self.a.mount / "before").read_text(), "before")
        self.alive("after the future")

    def test_6_junk_in_the_bucket(self):
        for name in ("junk", "zzzz", "000000000000-x-y", "." * 200):
            (self.bucket / ".meridian" / "log" / name).write_bytes(b"junk")
        (self.bucket / "foreign object").write_text("put by another tool")
        self.alive("with junk around")
        time.sleep(2)
        self.assertEqual(self.a.region("east")["up"], True)

    def test_7_body_that_does_not_match(self):
        """A large file is fetched on first open; a body that is not the recorded one is never shown."""
        b = self.world.server("b", self.regions)
        b.start()
        (self.a.mount / "large").write_bytes(b"L" * 300000)
        self.a.flush()
        wait_until("the record", (b.mount / "large").exists, 60)
        held = (self.bucket / "large").read_bytes()
        self.assertEqual(len(held), 300000)
        before = (self.bucket / "large").stat()
        with open(self.bucket / "large", "r+b") as file:
            file.write(b"X")
        # As a disk that lost a bit: with another time it would be another tool's object.
        os.utime(self.bucket / "large", ns=(before.st_atime_ns, before.st_mtime_ns))
        with self.assertRaises(OSError):
            (b.mount / "large").read_bytes()
        self.assertGreaterEqual(b.status()["counters"]["objects_corrupt_total"], 1)
        with open(self.bucket / "large", "r+b") as file:
            file.write(b"L")
        self.assertEqual((b.mount / "large").read_bytes(), b"L" * 300000)
        converge(self.a, b)


if __name__ == "__main__":
    main()
