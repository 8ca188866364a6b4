"""The program as a person, mount(8), systemd and a supervisor use it, over file:// regions."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import unittest

from harness import World, MERIDIAN, main, wait_until


class Cli(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.regions = self.world.directories("east", "west")

    def tearDown(self):
        for mount in self.world.dir.glob("*/mnt"):
            if os.path.ismount(mount):
                subprocess.run([MERIDIAN, "umount", "--force", "--timeout", "1s", mount], check=False)
        self.world.close()

    def run_it(self, *arguments, program=MERIDIAN, env=None):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120,
                              stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})

    def pid(self, server):
        return json.loads(self.run_it("status", "--json", server.mount).stdout)["pid"]

    def ended(self, pid):
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    def test_background_life(self):
        log = self.world.dir / "log"
        server = self.world.server("life", self.regions)
        server.write_config(self.regions, None, {"log_file": log})
        run = self.run_it("mount", server.config, server.mount)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertTrue(server.mounted())  # the parent returns only then
        (server.mount / "d").mkdir()
        (server.mount / "d" / "f").write_text("text")
        self.assertEqual(self.run_it("flush", "--wait", server.mount / "d" / "f").returncode, 0)
        self.assertEqual((self.world.dir / "buckets/west/d/f").read_text(), "text")
        status = json.loads(self.run_it("status", "--json", server.config).stdout)
        self.assertEqual([r["name"] for r in status["regions"]], ["east", "west"])
        self.assertEqual([r["backlog_rows"] for r in status["regions"]], [0, 0])
        self.assertEqual(status["mountpoint"], str(server.mount))
        every = json.loads(self.run_it("status", "--json").stdout)
        self.assertIn(str(server.mount), [s["mountpoint"] for s in every])
        self.assertIn("east *", self.run_it("status", server.mount).stdout)

        with open(server.mount / "d" / "f", encoding="utf-8"):
            run = self.run_it("umount", server.mount)
            self.assertEqual(run.returncode, 1)
            self.assertIn("in use", run.stderr)
        pid = self.pid(server)
        run = self.run_it("umount", server.mount)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertFalse(server.mounted())
        self.assertTrue(self.ended(pid))
        self.assertIn("drained", log.read_text())
        self.assertEqual(self.run_it("umount", server.mount).returncode, 1)

    def test_forced_umount_ends_the_daemon_under_an_open_file(self):
        server = self.world.server("force", self.regions)
        self.assertEqual(self.run_it("mount", server.config, server.mount).returncode, 0)
        (server.mount / "f").write_text("x")
        pid = self.pid(server)
        with open(server.mount / "f", encoding="utf-8"):
            run = self.run_it("umount", "--force", server.mount)
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertFalse(server.mounted())
            wait_until("the daemon ends", lambda: self.ended(pid), 60)

    def test_unmounted_from_outside_it_drains(self):
        server = self.world.server("outside", self.regions)
        self.assertEqual(self.run_it("mount", server.config, server.mount).returncode, 0)
        pid = self.pid(server)
        (server.mount / "late").write_text("late")
        subprocess.run(["umount", server.mount], check=True)
        wait_until("the daemon ends", lambda: self.ended(pid), 60)
        for region in ("east", "west"):
            self.assertEqual((self.world.dir / "buckets" / region / "late").read_text(), "late")

    def test_a_daemon_that_ends_leaves_its_successor_alone(self):
        """One whose mount is detached is ended when another one is on the same mount point: that stays known by it."""
        old, new = (self.world.server(name, self.regions) for name in ("old", "new"))
        self.assertEqual(self.run_it("mount", old.config, old.mount).returncode, 0)
        pid = self.pid(old)
        with open(old.mount / "held", "w", encoding="utf-8") as held:
            subprocess.run(["umount", "-l", old.mount], check=True)
            self.assertEqual(self.run_it("mount", new.config, old.mount).returncode, 0)
            successor = json.loads(self.run_it("status", "--json", old.mount).stdout)["pid"]
            self.assertNotEqual(successor, pid)
            held.write("x")
        wait_until("the first one ends", lambda: self.ended(pid), 60)
        run = self.run_it("status", "--json", old.mount)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(json.loads(run.stdout)["pid"], successor)
        self.assertEqual(self.run_it("umount", old.mount).returncode, 0)
        wait_until("the second one ends", lambda: self.ended(successor), 60)

    def test_backlog_is_told_and_kept(self):
        """A region that does not answer: umount says what is left and leaves the volume mounted; SIGTERM keeps its bound."""
        regions = {**self.world.directories("here"), "away": {"url": "s3://bucket/x", "endpoint": "http://127.0.0.1:1"}}
        server = self.world.server("backlog", regions)
        server.write_config(regions, None, {"drain_timeout": "1s"})
        env = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        self.assertEqual(self.run_it("mount", server.config, server.mount, env=env).returncode, 0)
        (server.mount / "kept").write_text("kept")
        run = self.run_it("umount", "--timeout", "1s", server.mount)
        self.assertEqual(run.returncode, 1)
        self.assertIn("still mounted", run.stderr)
        self.assertIn("not in every region", run.stderr)
        self.assertIn("--force", run.stderr)
        self.assertTrue(server.mounted())
        run = self.run_it("flush", "-w", "--timeout", "500ms", server.mount)
        self.assertEqual(run.returncode, 1)
        wait_until("the status says that it is down", lambda: re.search(r"away +DOWN", self.run_it("status", server.mount).stdout), 60)
        pid = self.pid(server)
        os.kill(pid, signal.SIGTERM)
        wait_until("the daemon ends", lambda: self.ended(pid), 60)
        self.assertFalse(server.mounted())
        self.assertEqual(self.run_it("mount", server.config, server.mount, env=env).returncode, 0)
        self.assertEqual((server.mount / "kept").read_text(), "kept")

    def test_as_mount_calls_it(self):
        helper = self.world.dir / "mount.fuse.meridian"
        helper.symlink_to(pathlib.Path(MERIDIAN).resolve())
        server = self.world.server("helper", self.regions)
        run = self.run_it(server.config, server.mount, "-sn", "-o", "rw,_netdev,nofail,x-systemd.automount,nonsense",
                          "-t", "fuse.meridian", program=helper)
        self.assertEqual(run.returncode, 0, run.stderr)
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            line = next(l for l in table if l.split()[4] == str(server.mount))
        self.assertIn(f" - fuse.meridian {server.config} ", line)  # as in fstab, so that mount -a knows it
        run = self.run_it(server.config, server.mount, program=helper)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("already", run.stderr)
        (server.mount / "f").write_text("x")
        self.assertEqual(self.run_it("umount", server.mount).returncode, 0)
        run = self.run_it(server.config, server.mount, "-o", "nonsense", program=helper)
        self.assertEqual(run.returncode, 2)
        run = self.run_it(server.config, server.mount, "-f", program=helper)  # mount -f: all but the mount
        self.assertEqual(run.returncode, 0)
        self.assertFalse(server.mounted())
        # the short form, read-only, a key of [volume]
        run = self.run_it(server.config, server.mount, "-o", "ro,poll_interval=2s")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual((server.mount / "f").read_text(), "x")
        with self.assertRaises(OSError):
            (server.mount / "g").write_text("x")

    def test_systemd_notify(self):
        path = self.world.dir / "notify.socket"
        server = self.world.server("notify", self.regions)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            notify.settimeout(120)
            with subprocess.Popen([MERIDIAN, "mount", "-f", server.config, server.mount], stderr=subprocess.DEVNULL,
                                  env={**os.environ, "NOTIFY_SOCKET": str(path)}) as process:
                try:
                    self.assertIn(b"READY=1", notify.recv(4096))
                    self.assertTrue(server.mounted())
                    os.kill(process.pid, signal.SIGHUP)  # ignored
                    time.sleep(0.2)
                    self.assertIsNone(process.poll())
                    os.kill(process.pid, signal.SIGTERM)
                    self.assertIn(b"STOPPING=1", notify.recv(4096))
                    self.assertEqual(process.wait(120), 0)
                finally:
                    process.kill()
        self.assertFalse(server.mounted())

    def test_killed_daemon_is_cleared_by_the_next_mount(self):
        server = self.world.server("killed", self.regions)
        self.assertEqual(self.run_it("mount", server.config, server.mount).returncode, 0)
        (server.mount / "f").write_text("x")
        os.kill(self.pid(server), signal.SIGKILL)
        self.assertEqual(self.run_it("status", server.config).returncode, 1)
        # The kernel takes a moment to let go of the lock of a process that dies.
        wait_until("mounted again", lambda: self.run_it("mount", server.config, server.mount).returncode == 0, 60)
        self.assertEqual((server.mount / "f").read_text(), "x")
        pid = self.pid(server)
        os.kill(pid, signal.SIGKILL)
        wait_until("it is dead", lambda: self.ended(pid), 60)
        self.run_it("umount", server.mount)
        self.assertFalse(server.mounted())

    def test_usage(self):
        for arguments in (("stauts",), ("config",), ("mount", "x"), ("umount",), ("status", "--jsno"), ("flush", "--timeout", "5"),
                          ()):
            run = self.run_it(*arguments)
            self.assertEqual(run.returncode, 2, arguments)
            self.assertTrue(run.stderr)
        for arguments in (("--help",), ("help",), ("mount", "--help"), ("help", "config", "check"), ("version",), ("--version",)):
            run = self.run_it(*arguments)
            self.assertEqual((run.returncode, run.stderr), (0, ""), arguments)
            self.assertTrue(run.stdout)
        for arguments in (("config", "--help"), ("help", "config")):
            run = self.run_it(*arguments)
            self.assertEqual((run.returncode, run.stderr), (0, ""))
            self.assertIn("meridian config check", run.stdout)
            self.assertIn("meridian config show", run.stdout)
        for verb in ("evict", "warmup"):
            run = self.run_it(verb, "/etc/passwd")  # no configuration either
            self.assertEqual((run.returncode, run.stdout), (1, ""))
            self.assertEqual(run.stderr, f"meridian: {verb}: /etc/passwd: not on a Meridian mount\n")

    def test_config_check(self):
        server = self.world.server("check", self.regions)
        run = self.run_it("config", "check", server.config)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("region west: ok", run.stdout)
        printed = self.world.dir / "printed.conf"
        printed.write_text(self.run_it("config", "show", server.config).stdout)
        self.assertEqual(self.run_it("config", "check", "--offline", printed).returncode, 0)
        server.write_config({**self.regions, "away": {"url": "s3://b", "endpoint": "http://127.0.0.1:1"}}, None, {})
        run = self.run_it("config", "check", "--timeout", "2s", server.config,
                          env={"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "hunter2"})
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("region away: FAILED", run.stdout)
        self.assertNotIn("hunter2", run.stdout + run.stderr)

    def test_config_check_changes_nothing(self):
        """Not even where a mount would make the directory of a region."""
        buckets = self.world.dir / "unused"
        buckets.mkdir()
        (buckets / "empty").mkdir()
        regions = {name: {"url": f"file://{buckets}/{name}"} for name in ("absent", "empty")}
        server = self.world.server("look", regions)
        run = self.run_it("config", "check", server.config)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual(run.stdout.count("not in use yet"), 2, run.stdout)
        self.assertEqual([str(path.relative_to(buckets)) for path in buckets.rglob("*")], ["empty"])
        server.write_config({"deep": {"url": f"file://{buckets}/no/where"}}, None, {})
        run = self.run_it("config", "check", server.config)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("cannot create the directory", run.stdout)
        server.write_config(regions, None, {})
        server.start()
        self.assertEqual(server.stop(), 0)

        def there():  # but for what excludes others meanwhile
            return sorted(path for path in buckets.rglob("*") if path.parent.name != "lock")
        before = there()
        run = self.run_it("config", "check", server.config)
        self.assertEqual((run.returncode, run.stdout.count("volume: ")), (0, 2), run.stdout + run.stderr)
        self.assertEqual(there(), before)


if __name__ == "__main__":
    main()
