"""Other tools in the buckets: what they put, overwrite and remove in one region is found by a scan and comes to every server and
every region; the guard against mass deletions; a bucket that Meridian never saw."""
import os
import stat

from harness import Pair, main, wait_until


class Reconcile(Pair):
    VOLUME = {"reconcile_interval": "1h", "reconcile_grace": "1s", "max_delete": "5"}

    @classmethod
    def make(cls):
        cls.clients = [cls.ceph.client(n) for n in (1, 2)]
        cls.put(0, "before/hello.txt", b"was here first")
        cls.put(0, "before/run.sh", b"#!/bin/sh\n", mode=str(0o100750), uid="1234", gid="1235", mtime="1600000000")
        cls.put(0, "before/link", b"hello.txt", mode=str(0o120777))
        cls.put(0, "before/empty/", b"", mode=str(0o040700))
        cls.put(0, "large", b"L" * 300000)
        super().make()

    @classmethod
    def put(cls, n, key, body, **metadata):
        cls.clients[n].put_object(Bucket=cls.ceph.buckets[n], Key=f"app/{key}", Body=body, Metadata=metadata)

    def body(self, n, key):
        try:
            got = self.clients[n].get_object(Bucket=self.ceph.buckets[n], Key=f"app/{key}")
        except self.clients[n].exceptions.NoSuchKey:
            return None
        return got["Body"].read(), "meridian-stamp" in got["Metadata"]

    def remove(self, n, key):
        self.clients[n].delete_object(Bucket=self.ceph.buckets[n], Key=f"app/{key}")

    def everywhere(self, path, content):
        """On both servers, and in both buckets with Meridian's metadata; None: nowhere."""
        def there():
            for server in (self.a, self.b):
                try:
                    if (server.mount / path).read_bytes() != content:
                        return False
                except FileNotFoundError:
                    if content is not None:
                        return False
            return all(self.body(n, path) == (None if content is None else (content, True)) for n in (0, 1))

        wait_until(lambda: f"{path} everywhere: {[self.body(n, path) for n in (0, 1)]}\n{self.a.status_text()}\n{self.a.tail()}\n{self.b.tail()}",
                   there, 60, 0.3)

    def reconcile(self, server, *options, code=0):
        run = server.run("reconcile", *options, str(server.mount), check=False)
        self.assertEqual(run.returncode, code, run.stdout + run.stderr + server.tail())
        return run.stdout

    def conflicts(self):
        return sum(server.status()["conflicts"] for server in (self.a, self.b))

    def test_1_a_bucket_that_was_there_before(self):
        self.everywhere("before/hello.txt", b"was here first")
        self.everywhere("before/run.sh", b"#!/bin/sh\n")
        self.everywhere("large", b"L" * 300000)
        for server in (self.a, self.b):
            run = os.stat(server.mount / "before/run.sh")
            self.assertEqual((stat.S_IMODE(run.st_mode), run.st_uid, run.st_gid, run.st_mtime), (0o750, 1234, 1235, 1600000000))
            wait_until("the link", lambda server=server: os.path.islink(server.mount / "before/link"), 60)
            self.assertEqual(os.readlink(server.mount / "before/link"), "hello.txt")
            self.assertEqual(stat.S_IMODE(os.stat(server.mount / "before/empty").st_mode), 0o700)
        self.assertEqual(self.conflicts(), 0)
        region = wait_until("the scan is over", lambda: next(
            (r["reconcile"] for s in (self.a, self.b) for r in s.status()["regions"]
             if r["name"] == "region-1" and r["reconcile"]["last_ms"] and not r["reconcile"]["running"]
             and not r["reconcile"]["elsewhere"]), None), 60)
        self.assertGreaterEqual(region["new"] + region["missed"], 1)

    def test_2_put_overwrite_remove(self):
        a, b = self.a.mount, self.b.mount
        (a / "mine").write_bytes(b"first version")
        (a / "stays").write_bytes(b"as it is")
        (a / "goes").write_bytes(b"to be removed")
        os.chmod(a / "mine", 0o640)
        self.a.flush()
        for path, content in (("mine", b"first version"), ("stays", b"as it is"), ("goes", b"to be removed")):
            self.everywhere(path, content)
        self.put(0, "mine", b"other version")
        self.put(1, "new/of/west", b"west")
        self.remove(1, "goes")
        said = self.reconcile(self.a, "--dry-run")
        for line in ("overwritten mine", "new         new/of/west", "removed     goes", "nothing was changed"):
            self.assertIn(line, said)
        self.assertEqual((b / "mine").read_bytes(), b"first version")
        self.assertEqual((b / "goes").read_bytes(), b"to be removed")
        before = self.conflicts()
        self.reconcile(self.a)
        self.reconcile(self.b)  # sees the same
        self.everywhere("mine", b"other version")
        self.everywhere("new/of/west", b"west")
        self.everywhere("goes", None)
        self.everywhere("stays", b"as it is")
        self.assertEqual(stat.S_IMODE(os.stat(b / "mine").st_mode), 0o640)
        self.assertEqual(self.conflicts(), before)
        for server in (self.a, self.b):
            wait_until(lambda: f"nothing left: {server.status_text()}", lambda server=server: server.backlog() == 0, 60)
        said = self.reconcile(self.a)
        for word in ("new ", "overwritten ", "removed ", "missed ", "stale ", "missing "):
            self.assertNotIn(word, said)

    def test_3_orphans_and_copies(self):
        (self.a.mount / "orphan").write_bytes(b"only in one region")
        self.a.flush()
        self.everywhere("orphan", b"only in one region")
        self.remove(1, "orphan")
        # This server never knew it to be there; its writer's silence is taken for a delay at first.
        self.assertIn("under way", self.reconcile(self.b, "--region", "region-2"))
        self.assertEqual((self.a.mount / "orphan").read_bytes(), b"only in one region")
        # With all metadata, over another file of the volume and to a new name.
        source = {"Bucket": self.ceph.buckets[0], "Key": "app/orphan"}
        for key in ("stays", "copy"):
            self.clients[0].copy_object(Bucket=self.ceph.buckets[0], Key=f"app/{key}", CopySource=source)
        self.reconcile(self.a, "--region", "region-1")
        self.everywhere("copy", b"only in one region")
        self.everywhere("stays", b"only in one region")

    def test_4_guard(self):
        (self.a.mount / "many").mkdir()
        for n in range(12):
            (self.a.mount / "many" / f"f{n}").write_bytes(b"%d" % n)
        self.a.flush()
        self.everywhere("many/f11", b"11")
        for n in range(8):
            self.remove(0, f"many/f{n}")
        run = self.a.run("reconcile", str(self.a.mount), check=False)
        self.assertEqual(run.returncode, 7, run.stdout + run.stderr)
        self.assertIn("held        many/f0", run.stdout)
        self.assertIn("--accept-deletes", run.stderr)
        self.assertIn("8 objects are gone", self.a.status_text())
        self.assertEqual(self.a.region("region-1")["reconcile"]["held"], 8)
        self.assertEqual((self.b.mount / "many/f0").read_bytes(), b"0")
        self.assertIn("missing     many/f0", self.reconcile(self.a, "--restore", "--region", "region-1"))
        self.everywhere("many/f0", b"0")
        self.everywhere("many/f7", b"7")
        self.assertNotIn("objects are gone", self.a.status_text())
        for n in range(8):
            self.remove(0, f"many/f{n}")
        self.assertIn("removed     many/f0", self.reconcile(self.a, "--accept-deletes"))
        self.everywhere("many/f0", None)
        self.everywhere("many/f7", None)
        self.everywhere("many/f11", b"11")

    def test_5_region_down(self):
        self.ceph.kill(2)
        try:
            run = self.a.run("reconcile", "--region", "region-2", str(self.a.mount), check=False)
            self.assertEqual(run.returncode, 1)
            self.assertIn("region-2", run.stderr)
            self.reconcile(self.a, "--region", "region-1")
        finally:
            self.ceph.restart(2)
        self.everywhere("many/f11", b"11")


if __name__ == "__main__":
    main()
