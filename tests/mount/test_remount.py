"""After an unclean death: the dead mount point is cleared by the next mount, by whatever name it is called."""
import ctypes
import errno
import os
import pathlib
import signal
import socket
import subprocess
import threading
import unittest

from harness import MERIDIAN, World, main, wait_until
from programs import ROOT


class Remount(unittest.TestCase):
    def setUp(self):
        if not ROOT:
            self.skipTest("needs root")
        self.world = World()
        self.server = self.world.server("a", self.world.directories("east"))
        self.helper = self.world.dir / "mount.fuse.meridian"
        self.helper.symlink_to(pathlib.Path(MERIDIAN).resolve())

    def tearDown(self):
        subprocess.run([MERIDIAN, "umount", "--force", "--timeout", "1s", self.server.mount], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.world.close()

    def die(self):
        """kill -9, and what is left: a mount point that answers ENOTCONN."""
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()
        self.assertTrue(self.server.mounted())

        def dead():
            try:
                os.statvfs(self.server.mount)
            except OSError as error:
                return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            return False
        wait_until("the mount is dead", dead, 60)

    def mounts(self):
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            return sum(line.split()[4] == str(self.server.mount) for line in table)

    def run_it(self, *arguments):
        return subprocess.run([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120, stdin=subprocess.DEVNULL, check=False)

    def test_who_sees_the_mount_finds_its_daemon(self):
        """From the first moment on, also after a kill -9 that left an old socket."""
        seen = []

        def look():
            while not self.server.mounted():
                pass
            with socket.socket(socket.AF_UNIX) as control:
                seen.append(control.connect_ex(str(self.server.state / "control")))
                if seen[-1] == 0:
                    control.sendall(b"status\n")
                    seen.append(control.recv(1))

        for _ in range(5):
            looking = threading.Thread(target=look)
            looking.start()
            self.server.start()
            looking.join()
            run = self.run_it(MERIDIAN, "status", self.server.mount)
            self.assertEqual(run.returncode, 0, run.stdout)
            self.server.kill()
        self.assertEqual(seen, [0, b"="] * 5)

    def test_a_region_whose_disk_is_not_mounted(self):
        """At a restart its directory is empty, or not there: it is held and gets nothing, the others go on, and it catches up."""
        regions = self.world.directories("home", "share")
        share, away = self.world.dir / "buckets" / "share", self.world.dir / "buckets" / "away"
        server = self.world.server("held", regions, home="home", volume={"drain_timeout": "1s"})
        server.start()
        (server.mount / "before").write_text("before")
        server.flush()
        for number, made in enumerate((True, False)):
            server.kill()
            share.rename(away)
            if made:
                share.mkdir()
            server.start()
            (server.mount / f"meanwhile{number}").write_text("meanwhile")
            wait_until("the other region has it", lambda: server.region("home")["backlog_rows"] == 0
                       and (share.parent / "home" / f"meanwhile{number}").exists(), 60)
            def held():
                region = server.region("share")
                return not region["up"] and region["backlog_rows"] and f"{share}: the directory is gone, is its disk mounted?" in region["error"]

            wait_until(server.status_text, held, 60)
            self.assertIn("is its disk mounted?", server.status_text())
            self.assertEqual(list(share.iterdir()) if made else share.exists(), [] if made else False)
            if made:
                share.rmdir()
            away.rename(share)
            server.flush()
            self.assertEqual((share / f"meanwhile{number}").read_text(), "meanwhile")
            self.assertTrue(server.region("share")["up"])
        # One that holds another store is no better.
        self.assertEqual(server.stop(), 0)
        share.rename(away)
        share.mkdir()
        (share / ".meridian-tmp").mkdir()
        (share / ".meridian-tmp" / "store").write_text("meridian-dir 1 sidecar 0123456789abcdef0123456789abcdef\n")
        server.start()
        (server.mount / "last").write_text("last")
        wait_until("it is held", lambda: "volume.json is gone from" in server.region("share")["error"], 60)
        wait_until("it lacks something", lambda: server.region("share")["backlog_rows"], 60)
        self.assertFalse((share / ".meridian").exists())
        self.assertFalse((share / "last").exists())
        # A new name is a new region: it gets everything.
        server.kill()
        server.write_config({"home": regions["home"], "renamed": regions["share"]}, "home", {})
        code, text = server.start(check=False)
        self.assertNotEqual(code, 0, text)
        self.assertRegex(text, "still lacks [0-9]+ changes(.|\n)*hint: .*--drop-regions")
        server.start(options=("--drop-regions",))
        server.flush()
        for name in ("before", "meanwhile0", "meanwhile1", "last"):
            self.assertEqual((share / name).read_text(), (server.mount / name).read_text())
        self.assertEqual(server.stop(), 0)

    def test_the_next_mount_clears_it(self):
        ways = [(MERIDIAN, "mount", self.server.config, self.server.mount),
                (self.helper, self.server.config, self.server.mount, "-o", "rw,_netdev")]
        for number, way in enumerate(ways):
            self.server.start()
            (self.server.mount / f"f{number}").write_text("written before the death")
            self.die()
            run = self.run_it(*way)
            self.assertEqual((run.returncode, run.stdout.count("removed a dead mount")), (0, 1), run.stdout)
            self.assertEqual(self.mounts(), 1, "nothing lies below the new mount")
            self.assertEqual((self.server.mount / f"f{number}").read_text(), "written before the death")
            self.assertEqual(self.run_it(MERIDIAN, "umount", self.server.mount).returncode, 0)
            self.assertEqual(self.mounts(), 0)

    def test_while_somebody_is_in_it(self):
        """A program whose working directory is in the dead mount does not keep it from being cleared."""
        self.server.start()
        (self.server.mount / "d").mkdir()
        with subprocess.Popen(["sleep", "60"], cwd=self.server.mount / "d") as inside:
            try:
                self.die()
                run = self.run_it(MERIDIAN, "mount", self.server.config, self.server.mount)
                self.assertEqual(run.returncode, 0, run.stdout)
                self.assertEqual(os.listdir(self.server.mount), ["d"])
            finally:
                inside.kill()

    def guard(self):
        """The process id of the daemon's guard (fs/guard.c)."""
        children = pathlib.Path(f"/proc/{self.server.process.pid}/task/{self.server.process.pid}/children").read_text().split()
        names = {child: pathlib.Path(f"/proc/{child}/comm").read_text().strip() for child in children}
        return next(int(child) for child, name in names.items() if name == "meridian-guard")

    def test_a_late_guard_leaves_the_next_mount_alone(self):
        """It gets to run only when the next mount is there, with the same device number."""
        self.server.start()
        (self.server.mount / "f").write_text("before")
        device, guard = os.stat(self.server.mount).st_dev, self.guard()
        os.kill(guard, signal.SIGSTOP)
        try:
            self.server.kill()
            self.server.start()
            if os.stat(self.server.mount).st_dev != device:
                self.skipTest("another device number")
            inside = os.open(self.server.mount / "f", os.O_RDWR)
        finally:
            os.kill(guard, signal.SIGCONT)

        def gone():
            try:
                return pathlib.Path(f"/proc/{guard}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
            except FileNotFoundError:
                return True
        wait_until("the guard has ended", gone, 60)
        os.close(inside)
        self.assertEqual((self.server.mount / "f").read_text(), "before")

    def test_the_guard_ends_what_outlives_the_daemon(self):
        """A connection that something else still holds, as a thread that the kernel does not let die would."""
        self.server.start()
        pid = self.server.process.pid
        device = next(int(fd) for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/fuse")
        libc, pidfd = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
        held = libc.syscall(438, pidfd, device, 0)  # pidfd_getfd
        os.close(pidfd)
        if held < 0:
            self.skipTest(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
        try:
            # Not by us: with nobody to answer, it would wait as long as we hold the connection.
            with subprocess.Popen(["stat", "-f", self.server.mount], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as before:
                self.assertEqual(before.wait(60), 0)
            self.server.process.send_signal(signal.SIGKILL)
            self.server.process.wait()
            with subprocess.Popen(["stat", "-f", self.server.mount], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as after:
                try:
                    self.assertEqual(after.wait(60), 1)
                finally:
                    after.kill()
        finally:
            os.close(held)
        self.assertTrue(self.server.mounted())

    def test_umount_clears_it(self):
        self.server.start()
        self.die()
        run = self.run_it(MERIDIAN, "umount", self.server.mount)
        self.assertEqual(self.mounts(), 0, run.stdout)

    def test_what_is_not_dead_stays(self):
        self.server.start()
        run = self.run_it(self.helper, self.server.config, self.server.mount)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("mounted there already", run.stdout)
        self.assertEqual(self.mounts(), 1)
        (self.server.mount / "f").write_text("still there")


if __name__ == "__main__":
    main()
