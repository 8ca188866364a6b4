"""What must be refused is refused with one clear line that says what to do, and a non-zero exit."""
import os
import pathlib
import subprocess
import unittest

from harness import World, Ceph, MERIDIAN, main


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
        run = subprocess.run([MERIDIAN, "mount", server.config, server.mount], capture_output=True, text=True, check=False, timeout=30)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("pol_interval", run.stderr)
        run = subprocess.run([MERIDIAN, "mount", pathlib.Path("/no/such.conf"), server.mount], capture_output=True, text=True,
                             check=False, timeout=30)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("/no/such.conf", run.stderr)


if __name__ == "__main__":
    main()
