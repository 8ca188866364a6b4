"""Large files go to a store in parts: an upload that a kill -9 cut goes on where it was, the file arrives whole, and nothing is
left in the buckets."""
import os

from harness import Pair, digest, main, wait_until, write_large

SIZE = 300 << 20
PART = 16 << 20


class Upload(Pair):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.clients = [cls.ceph.client(n) for n in (1, 2)]

    def uploads(self, n):
        return self.clients[n].list_multipart_uploads(Bucket=self.ceph.buckets[n]).get("Uploads", [])

    def parts(self, n):
        return sum(len(self.clients[n].list_parts(Bucket=self.ceph.buckets[n], Key=u["Key"], UploadId=u["UploadId"]).get("Parts", []))
                   for u in self.uploads(n))

    def write(self, name, size):
        write_large(self.world.random, self.a.mount / name, size)
        return digest(self.a.mount / name)

    def nothing_is_left(self):
        for n in (0, 1):
            wait_until(lambda: f"no uploads in bucket {n}: {self.uploads(n)}\n{self.a.tail()}", lambda: not self.uploads(n), 60)

    def test_1_killed_in_the_middle(self):
        want = self.write("large", SIZE)
        wait_until(lambda: f"parts in the buckets\n{self.a.status_text()}\n{self.a.tail()}",
                   lambda: self.parts(0) >= 8 or self.parts(1) >= 8, 60, 0.02)
        self.a.kill()
        before = [self.parts(n) for n in (0, 1)]
        self.a.start()
        self.a.flush()
        sent = self.a.status()["counters"]["bytes_sent_total"]
        print(f"parts before the restart {before}, after it {sent >> 20} MiB")
        # The parts that were under way in that moment are sent again.
        self.assertLess(sent, 2 * SIZE - (sum(before) - 10) * PART + (1 << 20))
        self.nothing_is_left()
        wait_until("the file on the other server", lambda: os.path.exists(self.b.mount / "large"), 60)
        self.assertEqual(digest(self.b.mount / "large"), want)
        for n in (0, 1):
            head = self.clients[n].head_object(Bucket=self.ceph.buckets[n], Key="app/large")
            self.assertEqual(head["ContentLength"], SIZE)
            self.assertTrue(head["ETag"].endswith(f'-{-(-SIZE // PART)}"'), head["ETag"])

    def test_2_removed_in_the_middle(self):
        self.write("gone", SIZE)
        wait_until("parts in the buckets", lambda: self.parts(0) and self.parts(1), 60, 0.02)
        os.unlink(self.a.mount / "gone")
        self.a.flush()
        self.nothing_is_left()
        for n in (0, 1):
            found = self.clients[n].list_objects_v2(Bucket=self.ceph.buckets[n], Prefix="app/gone")
            self.assertEqual(found["KeyCount"], 0)


if __name__ == "__main__":
    main()
