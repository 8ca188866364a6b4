"""What must be refused is refused with one clear line that says what to do, and a non-zero exit."""
import errno
import os
import pathlib
import sqlite3
import subprocess
import unittest

from harness import World, Ceph, MERIDIAN, converge, main, wait_until


class Refuse(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.regions = cls.world.directories("east", "west")

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def refused(self, server, *words, options=()):
        code, text = server.start(check=False, options=options)
        self.assertNotEqual(code, 0, text)
        self.assertFalse(server.mounted())
        lines = [line for line in text.splitlines() if "meridian" in line]
        self.assertTrue(lines, text)
        for word in words:
            self.assertIn(word.lower(), text.lower())
        self.assertLessEqual(len(text.strip().splitlines()), 3, f"more than one clear line: {text}")

    def test_wrong_credentials(self):
        ceph = Ceph(self.world, gateways=1)
        server = self.world.server("wrong", {"one": ceph.region(1, profile="wrong")})
        self.refused(server, "one", "hint")
        server = self.world.server("nobucket", {"one": {**ceph.region(1), "url": "s3://no-such-bucket/x"}})
        self.refused(server, "one", "no-such-bucket")
        server = self.world.server("noprofile", {"one": ceph.region(1, profile="absent")})
        self.refused(server, "one", "absent")

    def test_bucket_of_another_volume(self):
        first = self.world.server("first", self.regions)
        first.start()
        (first.mount / "x").write_text("x")
        first.flush()
        self.assertEqual(first.stop(), 0)
        other = self.world.server("other", self.world.directories("elsewhere"))
        other.start()
        (other.mount / "y").write_text("y")
        other.flush()
        self.assertEqual(other.stop(), 0)
        mixed = self.world.server("first", self.world.directories("east", "elsewhere"))
        self.refused(mixed, "elsewhere", "volume")

    def test_second_daemon_on_one_state(self):
        regions = self.world.directories("lock")
        first = self.world.server("holder", regions)
        first.start()
        second = self.world.server("second", regions, state=first.state)
        self.refused(second, str(first.process.pid), str(first.state))
        (first.mount / "alive").write_text("still works")
        self.assertEqual(first.stop(), 0)

    def test_corrupt_database(self):
        server = self.world.server("corrupt", self.world.directories("corrupt"))
        server.start()
        for n in range(300):
            (server.mount / f"f{n}").write_text("x" * 100)
        server.flush()
        server.kill()
        database = server.state / "meridian.db"
        for extra in server.state.glob("meridian.db-*"):
            extra.unlink()
        size = max(database.stat().st_size, 65536)
        database.write_bytes(os.urandom(size))
        self.refused(server, "meridian.db", "hint")

    def test_content_without_database(self):
        server = self.world.server("orphans", self.world.directories("orphans"))
        server.start()
        (server.mount / "f").write_text("never pushed")
        server.kill()
        for file in server.state.glob("meridian.*"):
            file.unlink()
        self.refused(server, "content has files", "hint: restore meridian.db")
        self.refused(server, "content has files")
        self.assertEqual([p.read_text() for p in server.state.glob("content/*/*")], ["never pushed"])

    def test_newer_database(self):
        server = self.world.server("newer", self.world.directories("newer"))
        server.start()
        self.assertEqual(server.stop(), 0)
        database = sqlite3.connect(server.state / "meridian.db")
        database.execute("PRAGMA user_version = 4711")
        database.close()
        self.refused(server, "meridian.db", "4711", "newer")

    def test_state_of_another_volume(self):
        servers = []
        for name in ("mine", "theirs"):
            server = self.world.server(name, self.world.directories(name))
            server.start()
            server.flush()
            self.assertEqual(server.stop(), 0)
            servers.append(server)
        wrong = self.world.server("wrong-state", self.world.directories("theirs"), state=servers[0].state)
        self.refused(wrong, "theirs", "volume")

    def test_missing_content(self):
        server = self.world.server("nocontent", self.world.directories("nocontent"))
        server.start()
        (server.mount / "f").write_text("x")
        server.flush()
        self.assertEqual(server.stop(), 0)
        (server.state / "content").rename(server.state / "elsewhere")
        self.refused(server, "content is missing", "hint")
        (server.state / "elsewhere").rename(server.state / "content")
        server.start()
        self.assertEqual((server.mount / "f").read_text(), "x")
        # One file alone: fetched again, and said.
        self.assertEqual(server.stop(), 0)
        for path in (server.state / "content").glob("*/*"):
            path.unlink()
        server.start()
        self.assertEqual((server.mount / "f").read_text(), "x")
        self.assertIn("was missing", server.status_text())
        self.assertEqual(server.status()["counters"]["content_lost_total"], 1)
        self.assertEqual(server.stop(), 0)

    def test_lost_content_concerns_its_file_alone(self):
        """Missing or too short: fetched again where a region has it; where none has, EIO, and said until it is healed."""
        server = self.world.server("lost", self.world.directories("lost"))
        server.start()
        names = ("short", "missing", "nowhere", "well")
        content = {name: name.encode() * 60000 for name in names}
        inodes = {}
        for name in names:
            (server.mount / name).write_bytes(content[name])
            inodes[name] = (server.mount / name).stat().st_ino
        server.flush()
        self.assertEqual(server.stop(), 0)

        def file_of(name):
            number = f"{inodes[name]:016x}"
            return server.state / "content" / number[12:14] / number
        os.truncate(file_of("short"), 1000)
        file_of("missing").unlink()
        os.truncate(file_of("nowhere"), len(content["nowhere"]) - 1)
        bucket = self.world.dir / "buckets" / "lost"
        (bucket / "nowhere").rename(bucket.parent / "kept aside")
        server.start()
        with self.assertRaises(OSError) as caught:
            (server.mount / "nowhere").read_bytes()
        self.assertEqual(caught.exception.errno, errno.EIO)
        for name in ("short", "missing", "well"):
            self.assertEqual((server.mount / name).read_bytes(), content[name], name)
        self.assertEqual((server.mount / "nowhere").stat().st_size, len(content["nowhere"]))
        self.assertEqual(server.status()["counters"]["content_lost_total"], 3)
        text = server.status_text()
        self.assertIn("nowhere", text)
        self.assertIn("EIO", text)
        for name in ("short", "missing", "well"):
            self.assertNotIn(f" {name}:", text)
        self.assertEqual(server.status()["cache"]["files_lost"], 1)
        (bucket.parent / "kept aside").rename(bucket / "nowhere")
        self.assertEqual((server.mount / "nowhere").read_bytes(), content["nowhere"])
        self.assertEqual(server.status()["cache"]["files_lost"], 0)
        # Written anew, another one needs no region.
        (server.mount / "well").write_bytes(b"new")
        server.flush()
        self.assertEqual((bucket / "well").read_bytes(), b"new")
        self.assertEqual(server.stop(), 0)

    def test_read_only_file_system(self):
        disk = self.world.mount_tmpfs("readonly", "16m")
        state = disk / "state"
        server = self.world.server("readonly-state", self.world.directories("readonly"), state=state)
        server.start()
        self.assertEqual(server.stop(), 0)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        self.refused(server, str(state), "read-only")
        fresh = self.world.server("readonly-fresh", self.world.directories("readonly"), state=disk / "fresh")
        self.refused(fresh, str(disk / "fresh"), "read-only")

    def test_state_in_memory_is_warned_of(self):
        disk = self.world.mount_tmpfs("memory", "64m")
        server = self.world.server("memory-state", self.world.directories("memory"), state=disk / "state")
        self.assertIn("in memory", server.run("config", "check", "--offline", server.config).stdout)
        server.start()
        wait_until("the log says so", lambda: "in memory" in server.tail(), 60)
        self.assertIn("in memory", server.status_text())
        self.assertTrue(server.status()["cache"]["state_volatile"])
        self.assertEqual(server.stop(), 0)
        server = self.world.server("disk-state", self.world.directories("memory"))
        if subprocess.run(["stat", "-f", "-c", "%T", server.root], capture_output=True, text=True, check=True).stdout.strip() != "tmpfs":
            self.assertNotIn("in memory", server.run("config", "check", "--offline", server.config).stdout)

    def test_a_copied_state_becomes_another_server(self):
        """Two of one identity would number their segments alike, and peers would pass over one of them."""
        regions = self.world.directories("copied")
        first = self.world.server("original", regions)
        first.start()
        (first.mount / "before").write_text("before")
        first.flush()
        node = first.status()["node"]
        self.assertEqual(first.stop(), 0)
        copy = self.world.server("copy", regions)
        subprocess.run(["cp", "-a", first.state, copy.state], check=True)
        first.start()
        (first.mount / "after").write_text("after")
        first.flush()
        copy.start()
        self.assertEqual(first.status()["node"], node)
        self.assertNotEqual(copy.status()["node"], node)
        wait_until("the log says so", lambda: "becomes a new server" in copy.tail(), 60)
        (copy.mount / "of the copy").write_text("copy")
        converge(first, copy)
        self.assertEqual({p.name for p in first.mount.iterdir()}, {"before", "after", "of the copy"})
        self.assertEqual(copy.stop(), 0)
        self.assertEqual(first.stop(), 0)

    def test_unwritable_directory(self):
        blocker = self.world.dir / "file"
        blocker.write_text("not a directory")
        server = self.world.server("unwritable", self.world.directories("unwritable"), state=blocker / "state")
        self.refused(server, str(blocker))
        missing = self.world.server("missing", self.world.directories("missing"), state=self.world.dir / "no" / "such" / "state")
        self.refused(missing, "state")

    def test_missing_mount_point(self):
        server = self.world.server("nomount", self.world.directories("nomount"))
        server.mount.rmdir()
        self.refused(server, str(server.mount))

    def test_what_the_mount_would_hide(self):
        regions = self.world.directories("hidden")
        server = self.world.server("hidden", regions)
        server.write_config(regions, None, {"state_dir": server.mount / "state"})
        self.refused(server, "state directory", "lies in it", "hint")
        server.write_config(regions, None, {"state_dir": server.mount})
        self.refused(server, "state directory", "lies in it")
        (self.world.dir / "link").symlink_to(server.mount)
        server.write_config({"hidden": {"url": f"file://{self.world.dir}/link/bucket"}}, None, {})
        self.refused(server, "region", "lies in it")
        server.write_config(regions, None, {"state_dir": f"{server.mount}-state"})  # a name that begins alike
        server.start()
        self.assertEqual(server.stop(), 0)

    def test_unknown_option(self):
        server = self.world.server("unknown", self.world.directories("unknown"))
        self.refused(server, "allow_othr", "allow_other", options=("-o", "allow_othr"))
        server.write_config(self.world.directories("unknown"), None, {"pol_interval": "1s"})
        self.refused(server, "pol_interval", "poll_interval", str(server.config))
        server.write_config({}, "nowhere", {})
        self.refused(server, "region")
        text = subprocess.run([MERIDIAN, "stauts"], capture_output=True, text=True, check=False)
        self.assertEqual(text.returncode, 2)
        self.assertIn("status", text.stderr)

    def test_parent_reports_the_failure(self):
        """In the background too: the parent returns non-zero and the reason is on its standard error."""
        server = self.world.server("background", self.world.directories("background"))
        server.write_config(self.world.directories("background"), None, {"pol_interval": "1s"})
        run = subprocess.run([MERIDIAN, "mount", server.config, server.mount], capture_output=True, text=True, check=False, timeout=120)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("pol_interval", run.stderr)
        run = subprocess.run([MERIDIAN, "mount", pathlib.Path("/no/such.conf"), server.mount], capture_output=True, text=True,
                             check=False, timeout=120)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("/no/such.conf", run.stderr)


if __name__ == "__main__":
    main()
