"""Large files are read by blocks: a look at the head costs a block, a sequence is followed, what came survives a kill -9, and a
handle never sees two versions, nor a wrong byte."""
import errno
import os
import time

from harness import Pair, main, wait_until

MIB = 1 << 20
SIZE = 256 * MIB


class Lazy(Pair):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.data = cls.world.random.randbytes(MIB)

    def block(self, i, salt=0):
        return (i * 256 + salt).to_bytes(8, "little") + self.data[8:]

    def write(self, name, size, salt=0):
        """A new version of name on server A that all regions and server B have."""
        with open(self.a.mount / "new", "wb") as file:
            for i in range(size // MIB):
                file.write(self.block(i, salt))
        os.rename(self.a.mount / "new", self.a.mount / name)
        self.a.flush()
        stamp = os.stat(self.a.mount / name).st_mtime_ns
        wait_until(f"{name} on B", lambda: os.path.exists(self.b.mount / name) and os.stat(self.b.mount / name).st_mtime_ns == stamp, 60)

    def received(self):
        return self.b.status()["counters"]["bytes_received_total"]

    def content(self, name):
        return (self.a.mount / name).read_bytes()

    def expect(self, fd, offset, size, salt=0):
        got = os.pread(fd, size, offset)
        self.assertEqual(len(got), size)
        first = offset // MIB
        want = b"".join(self.block(i, salt) for i in range(first, (offset + size - 1) // MIB + 1))
        self.assertTrue(got == want[offset - first * MIB:][:size], f"other bytes at {offset}")

    def test_1_in_proportion(self):
        self.write("large", SIZE)
        before = self.received()
        start = time.monotonic()
        fd = os.open(self.b.mount / "large", os.O_RDONLY)
        opened = time.monotonic() - start
        self.expect(fd, 0, 4096)
        self.expect(fd, SIZE - 4096, 4096)
        for i in (200, 77, 131, 30):
            self.expect(fd, i * MIB + 5000, 8192)
        time.sleep(0.5)
        got = self.received() - before
        print(f"opened in {opened * 1000:.1f} ms; 6 reads at random took {got / MIB:.1f} MiB")
        self.assertLess(opened, 10)
        self.assertGreaterEqual(got, 6 * MIB)
        self.assertLess(got, 8 * MIB)
        cache = self.b.status()["cache"]
        self.assertEqual((cache["partial_files"], cache["content_files"]), (1, 0))
        self.assertGreaterEqual(cache["partial_bytes"], 6 * MIB)
        self.assertIn("read by blocks", self.b.status_text())
        self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), SIZE)

        # A kill keeps what was there.
        os.close(fd)
        self.b.kill()
        self.b.start()
        fd = os.open(self.b.mount / "large", os.O_RDONLY)
        self.expect(fd, 131 * MIB + 5000, 8192)
        self.expect(fd, 30 * MIB, MIB)
        kept = self.b.status()["cache"]["partial_bytes"] - cache["partial_bytes"]
        self.assertTrue(0 <= kept <= 2 * MIB, f"{kept}: more than what the kernel reads ahead of the last one")

        # In sequence, by two at once: all of it once, and then it is content.
        before = self.received()
        other = os.open(self.b.mount / "large", os.O_RDONLY)
        for i in range(0, SIZE // MIB, 4):
            self.expect(fd, i * MIB, 4 * MIB)
            self.expect(other, i * MIB, MIB)
        def whole():
            cache = self.b.status()["cache"]
            return (cache["content_files"], cache["partial_files"]) == (1, 0)

        wait_until("the whole content", whole, 60)
        self.assertLess(self.received() - before, SIZE - 5 * MIB)
        self.expect(fd, 100 * MIB, MIB)
        os.close(other)
        os.close(fd)
        self.b.closed()
        self.b.run("evict", self.b.mount / "large")
        self.assertEqual(self.b.status()["cache"]["content_files"], 0)

    def test_2_versions(self):
        self.write("versions", 32 * MIB, 1)
        old = os.open(self.b.mount / "versions", os.O_RDONLY)
        self.expect(old, 3 * MIB, 100, 1)
        self.write("versions", 32 * MIB, 2)
        new = os.open(self.b.mount / "versions", os.O_RDONLY)
        self.expect(new, 3 * MIB, 100, 2)
        self.expect(old, 3 * MIB + 500, 100, 1)
        # The old version is nowhere any more: an error, never the other version's bytes.
        start = time.monotonic()
        with self.assertRaises(OSError):
            os.pread(old, 100, 20 * MIB)
        self.assertLess(time.monotonic() - start, 60)
        self.expect(new, 20 * MIB, 100, 2)
        os.close(old)
        # Removed while it is read: the trash has it.
        os.unlink(self.a.mount / "versions")
        self.a.flush()
        wait_until("gone on B", lambda: not os.path.exists(self.b.mount / "versions"), 60)
        self.expect(new, 28 * MIB, 100, 2)
        os.close(new)
        wait_until("nothing left of it", lambda: self.b.status()["cache"]["partial_files"] == 0, 60)

    def test_3_written(self):
        self.write("written", 16 * MIB, 3)
        fd = os.open(self.b.mount / "written", os.O_RDONLY)
        self.expect(fd, 5 * MIB, 100, 3)
        with open(self.b.mount / "written", "r+b") as file:
            file.seek(9 * MIB)
            file.write(b"here")
        self.assertEqual(os.pread(fd, 4, 9 * MIB), b"here")
        self.expect(fd, 15 * MIB, MIB, 3)
        os.close(fd)
        self.b.flush()
        wait_until("the change on A", lambda: self.content("written")[9 * MIB:][:4] == b"here", 60)

        # Emptied, nothing is fetched.
        self.write("emptied", 16 * MIB, 4)
        fd = os.open(self.b.mount / "emptied", os.O_RDONLY)
        self.expect(fd, 0, 100, 4)
        before = self.received()
        with open(self.b.mount / "emptied", "wb") as file:
            file.write(b"short")
        self.assertEqual(os.pread(fd, 100, 0), b"short")
        os.close(fd)
        self.assertLess(self.received() - before, MIB)
        self.b.flush()
        wait_until("the change on A", lambda: self.content("emptied") == b"short", 60)

        # Fetched ahead and given up, as any other.
        self.write("ahead", 16 * MIB, 5)
        self.b.run("warmup", self.b.mount / "ahead")
        before = self.received()
        fd = os.open(self.b.mount / "ahead", os.O_RDONLY)
        self.expect(fd, 0, 16 * MIB, 5)
        os.close(fd)
        self.assertLess(self.received() - before, MIB)

    def spoil(self, n, name, at):
        """The object in region n has another byte there, and says what it said before."""
        client, bucket, key = self.ceph.client(n), self.ceph.buckets[n - 1], f"app/{name}"
        there = client.get_object(Bucket=bucket, Key=key)
        body = bytearray(there["Body"].read())
        body[at] ^= 1
        client.put_object(Bucket=bucket, Key=key, Body=bytes(body), Metadata=there["Metadata"])

    def wrong_bytes(self, n):
        return self.b.region(f"region-{n}")["wrong_bytes"]

    def test_5_wrong_bytes(self):
        self.write("spoilt", 16 * MIB, 8)
        self.spoil(2, "spoilt", 5 * MIB + 100)
        fd = os.open(self.b.mount / "spoilt", os.O_RDONLY)
        self.expect(fd, 0, 4096, 8)
        self.assertEqual(self.wrong_bytes(2), 0)
        self.expect(fd, 5 * MIB, 4096, 8)
        # One more for each request that was under way for that block.
        wait_until("its region is told of", lambda: self.wrong_bytes(2), 60)
        self.assertEqual(self.wrong_bytes(1), 0)
        self.assertRegex(self.b.status_text(), "region-2: gave wrong bytes [1-9][0-9]* times")
        self.expect(fd, 0, 16 * MIB, 8)
        os.close(fd)

        # In all regions: an error for that block, never its bytes.
        self.write("lost", 16 * MIB, 9)
        self.spoil(1, "lost", 5 * MIB)
        self.spoil(2, "lost", 6 * MIB - 1)
        fd = os.open(self.b.mount / "lost", os.O_RDONLY)
        start = time.monotonic()
        with self.assertRaises(OSError) as caught:
            os.pread(fd, 4096, 5 * MIB + 8192)
        self.assertEqual(caught.exception.errno, errno.EIO)
        self.assertLess(time.monotonic() - start, 60)
        self.assertGreaterEqual(self.wrong_bytes(1), 1)
        self.assertGreaterEqual(self.wrong_bytes(2), 2)
        self.expect(fd, 7 * MIB, 4096, 9)
        # Put right in one of them, it can be read.
        self.spoil(1, "lost", 5 * MIB)
        wait_until("the right bytes", lambda: self.readable(fd, 5 * MIB + 8192), 60)
        self.expect(fd, 5 * MIB, MIB, 9)
        os.close(fd)

    @staticmethod
    def readable(fd, offset):
        try:
            return len(os.pread(fd, 4096, offset)) == 4096
        except OSError:
            return False

    def test_4_refreshed(self):
        # Read before, its new version comes by itself; not read before, it does not.
        for name in ("known", "unknown"):
            self.write(name, 12 * MIB, 6)
        self.assertEqual((self.b.mount / "known").read_bytes()[:8], self.block(0, 6)[:8])
        for name in ("known", "unknown"):
            self.write(name, 12 * MIB, 7)
        wait_until("the new version", lambda: self.b.status()["cache"]["partial_files"] == 0 and self.b.status()["refresh"] == 0, 60)
        before = self.received()
        for name, least, most in (("known", 0, MIB), ("unknown", 12 * MIB, 13 * MIB)):
            fd = os.open(self.b.mount / name, os.O_RDONLY)
            self.expect(fd, 0, 12 * MIB, 7)
            os.close(fd)
            got, before = self.received() - before, self.received()
            self.assertTrue(least <= got < most, (name, got))


if __name__ == "__main__":
    main()
