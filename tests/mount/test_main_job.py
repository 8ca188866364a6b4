"""The main job: two servers, three regions on three Ceph gateways; real programs on one side, checked on the other, and every
object read by a client that knows nothing of Meridian."""
import hashlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import unittest

from harness import World, Ceph, converge, main, wait_until, differences


class MainJob(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world)
        cls.regions = {f"region-{n}": cls.ceph.region(n) for n in (1, 2, 3)}
        cls.a = cls.world.server("a", cls.regions, home="region-1")
        cls.b = cls.world.server("b", cls.regions, home="region-2")
        cls.a.start()
        cls.b.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def git(self, *arguments):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*", *arguments],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def make_repository(self):
        source = self.world.dir / "repository"
        source.mkdir()
        self.git("init", "-q", str(source))
        for n in range(120):
            path = source / f"d{n % 7}" / f"file{n}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"line {n}\n" * (n + 1))
        self.git("-C", str(source), "add", ".")
        self.git("-C", str(source), "commit", "-qm", "one")
        return source

    def copy_headers(self):
        """Some 1,500 files that every Debian with a compiler has, beside the mount; the rest of /usr/include may be anything."""
        subprocess.run(["rsync", "-a", "--include=/include/linux/", "--include=/include/asm-generic/", "--include=/include/*-linux-gnu/",
                        "--exclude=/include/*/", "/usr/include", self.world.dir], check=True)
        return self.world.dir / "include"

    def test_1_programs_on_a_seen_on_b(self):
        a, b = self.a.mount, self.b.mount
        self.git("clone", "-q", "--no-hardlinks", str(self.make_repository()), str(a / "clone"))
        with sqlite3.connect(a / "rows.db") as database:
            database.execute("create table t(id integer primary key, v text)")
            database.executemany("insert into t values(?, ?)", ((n, f"value {n}") for n in range(10000)))
        database.close()
        headers = self.copy_headers()
        subprocess.run(["rsync", "-a", headers, str(a)], check=True)
        os.symlink("rows.db", a / "link")
        (a / "big").write_bytes(os.urandom(5 << 20))
        (a / "empty").touch()
        odd = a / "odd names"
        odd.mkdir()
        for name in ("a b+c%25 ü", "100%", "%41", "q?x=1&y", "#", "back\\slash", "tab\there", "x" * 255):
            (odd / name).write_text(name)
        with open(os.fsencode(odd) + b"/latin-\xe9", "wb") as file:
            file.write(b"not UTF-8")
        os.chmod(a / "empty", 0o640)
        os.chown(a / "empty", 1234, 4321)
        converge(self.a, self.b, timeout=240)
        self.git("-C", str(b / "clone"), "fsck", "--full")
        with sqlite3.connect(f"file:{b / 'rows.db'}?mode=ro", uri=True) as database:
            self.assertEqual(database.execute("pragma integrity_check").fetchone(), ("ok",))
            self.assertEqual(database.execute("select count(*) from t").fetchone(), (10000,))
        database.close()
        self.assertEqual(differences(headers, b / "include"), "")

    def objects_of_tree(self):
        """Of each path of the mount its object's key, and its content; None for a directory."""
        mount = self.a.mount
        for directory, directories, files in os.walk(mount):
            for name in files + directories:
                path = pathlib.Path(directory) / name
                key = str(path.relative_to(mount))
                if path.is_symlink():
                    yield key, os.readlink(path).encode()
                elif name in directories:
                    yield key + "/", None
                elif "odd names" not in key:
                    yield key, path.read_bytes()

    def test_2_plain_client_reads_every_object(self):
        """Each object's content is compared by the MD5 that the store made of it (its ETag); some are read as well."""
        objects = []
        for n, bucket in enumerate(self.ceph.buckets, 1):
            client = self.ceph.client(n)
            found = {}
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="app/"):
                for item in page.get("Contents", []):
                    key = item["Key"][len("app/"):]
                    if not key.startswith(".meridian/"):
                        found[key] = (item["Size"], item["ETag"].strip('"'))
            objects.append((bucket, client, found))
        expected = 0
        for key, content in self.objects_of_tree():
            if content is None:
                for bucket, _, found in objects:
                    self.assertTrue(key in found, f"{bucket}: no object for directory {key}")
                continue
            expected += 1
            is_as = (len(content), hashlib.md5(content).hexdigest())
            for bucket, client, found in objects:
                self.assertTrue(key in found, f"{bucket}: no object for {key}")
                self.assertEqual(found[key], is_as, f"{bucket}: {key}")
                if expected % 50 == 0 or len(content) > 1 << 20:
                    body = client.get_object(Bucket=bucket, Key="app/" + key)["Body"].read()
                    self.assertEqual(body, content, f"{bucket}: {key}")
        self.assertGreater(expected, 500)
        for bucket, client, found in objects:
            for key in ("odd names/a b+c%2525 ü", "odd names/100%", "odd names/%2541", "odd names/latin-%E9", "odd names/tab%09here"):
                self.assertTrue(key in found, f"{bucket}: no object for {key}")
                client.get_object(Bucket=bucket, Key="app/" + key)["Body"].read()

    def test_3_changes_on_b_followed_by_a(self):
        a, b = self.a.mount, self.b.mount
        (b / "rows.db").write_bytes(b"replaced")
        (b / "include" / "linux").rename(b / "headers")
        shutil.rmtree(b / "clone" / ".git" / "hooks", ignore_errors=True)
        (b / "clone" / "d0" / "file0.txt").unlink()
        (b / "new").write_text("from b")
        os.chmod(b / "big", 0o600)
        os.unlink(b / "link")
        converge(self.a, self.b, timeout=240)
        self.assertEqual((a / "rows.db").read_bytes(), b"replaced")
        self.assertTrue((a / "headers").is_dir())
        self.assertFalse((a / "include" / "linux").exists())
        self.assertFalse((a / "clone" / "d0" / "file0.txt").exists())
        self.assertEqual(os.stat(a / "big").st_mode & 0o777, 0o600)
        self.assertEqual(differences("/usr/include/linux", a / "headers"), "")

        def gone():
            left = [k for n, bucket in enumerate(self.ceph.buckets, 1)
                    for k in (i["Key"] for i in self.ceph.client(n).list_objects_v2(Bucket=bucket, Prefix="app/include/linux/").get("Contents", []))]
            return not left
        wait_until("objects below the old name are removed", gone, 60, 1)

    def test_4_stops_cleanly(self):
        for server in (self.a, self.b):
            self.assertLess(server.resident_kib(), 150 * 1024)
            self.assertEqual(server.stop(), 0, server.tail())
            self.assertFalse(server.mounted())


if __name__ == "__main__":
    main()
