"""Where a mount differs from the file system below, and says so (docs/posix.md): limits, refusals, options of the mount."""
import ctypes
import fcntl
import os
import pathlib
import re
import shutil
import stat
import struct
import subprocess
import time
import unittest

from harness import MERIDIAN, World, main, skip, wait_until
from beside import as_user, call, libc, open_to_all, outcome
from test_posix_calls import rename2, touch, with_open

WHITEOUT = 4
FICLONE, GETFLAGS, FIEMAP, ENABLE_VERITY = 0x40049409, 0x80086601, 0xc020660b, 0x40806685


def ioctl(path, number, argument=0):
    return with_open(path, os.O_RDONLY, lambda fd: fcntl.ioctl(fd, number, argument))


def written_by(pid):
    """Bytes that the process wrote, wherever."""
    for line in pathlib.Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("no wchar")


class Limits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        if os.geteuid() != 0:
            skip("needs root")
        regions = cls.world.directories("east")
        cls.a = cls.world.server("a", regions)
        cls.b = cls.world.server("b", regions)
        open_to_all(cls.world, cls.a, cls.b)
        cls.a.start()
        cls.b.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def setUp(self):
        self.dir = self.a.mount / self.id().rsplit(".", 1)[1]
        self.dir.mkdir()
        self.there = self.b.mount / self.dir.name

    def wait_there(self, what, condition):
        self.a.flush()
        wait_until(lambda: f"{what} on the other server\n{self.b.tail()}", condition, 60)

    def test_what_is_refused(self):
        path = touch(self.dir / "f", b"x" * 8192)
        touch(self.dir / "g")
        fd = os.open(path, os.O_RDWR)
        for operation in (8, 32, 64):  # collapse, insert, unshare
            self.assertEqual(outcome(call, "fallocate", fd, operation, ctypes.c_long(0), ctypes.c_long(4096)), "ENOTSUP")
        os.close(fd)
        self.assertEqual(outcome(rename2, path, self.dir / "h", WHITEOUT), "EINVAL")
        self.assertEqual(outcome(lambda: with_open(path, os.O_RDONLY, lambda a: with_open(self.dir / "g", os.O_RDWR, lambda b: fcntl.ioctl(b, FICLONE, a)))), "ENOTSUP")
        subprocess.run(["cp", "--reflink=auto", path, self.dir / "copy"], check=True)
        self.assertEqual((self.dir / "copy").read_bytes(), path.read_bytes())
        for number in (GETFLAGS, ENABLE_VERITY):
            self.assertIn(outcome(ioctl, path, number, bytes(128)), ("ENOTTY", "ENOTSUP"), hex(number))
        self.assertIn(outcome(ioctl, path, FIEMAP, bytes(32)), ("ENOTTY", "ENOTSUP"))
        if shutil.which("mkswap"):
            with open(self.dir / "swap", "wb") as swap:
                swap.write(bytes(1 << 20))
            os.chmod(self.dir / "swap", 0o600)
            subprocess.run(["mkswap", self.dir / "swap"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.assertEqual(outcome(call, "swapon", os.fsencode(self.dir / "swap"), 0), "EINVAL")
        self.assertEqual(outcome(with_open, path, os.O_RDONLY, lambda fd: os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)), "ENOTSUP")
        for make in (os.mkdir, os.mkfifo, lambda p: os.symlink("x", p), lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY)),
                     lambda p: os.rename(path, p), lambda p: os.link(path, p)):
            self.assertEqual(outcome(make, self.a.mount / ".meridian"), "EPERM")
        (self.dir / ".meridian").mkdir()  # in the root only
        self.wait_there(".meridian below the root", (self.there / ".meridian").is_dir)

    def test_attributes(self):
        path, directory = touch(self.dir / "f"), self.dir / "d"
        (directory / "sub/sub").mkdir(parents=True)
        self.assertEqual(os.stat(directory).st_nlink, 2)
        os.truncate(path, 1_000_001)
        self.assertEqual(os.stat(path).st_blocks, 1_000_001 // 512 + 1)
        for n in range(2):
            os.setxattr(path, f"user.{n}", bytes([n]) * (65536 - 100 * n))
            self.assertEqual(os.getxattr(path, f"user.{n}"), bytes([n]) * (65536 - 100 * n))
        self.assertEqual(outcome(os.setxattr, path, "user.2", b"x" * 200), "ENOSPC")
        self.assertIn(outcome(os.setxattr, path, "user.1", b"x" * 65537), ("E2BIG", "ERANGE"))
        self.wait_there("large attributes", lambda: outcome(os.getxattr, self.there / "f", "user.1") == b"\1" * 65436)
        self.assertEqual(outcome(os.getxattr, path, "system.other"), "ENOTSUP")

    def test_path_handles_of_what_is_removed(self):
        """One that opens nothing does not keep a file or a symbolic link."""
        touch(self.dir / "f")
        os.symlink("f", self.dir / "l")
        for name in ("f", "l"):
            fd = os.open(self.dir / name, os.O_PATH | os.O_NOFOLLOW)
            os.unlink(self.dir / name)
            self.assertEqual(outcome(os.fstat, fd), "ESTALE", name)
            os.close(fd)

    def test_dates(self):
        """The last that can be told stands for those beyond."""
        low, high = -(1 << 63), (1 << 63) - 1
        path, directory = touch(self.dir / "f"), self.dir / "d"
        directory.mkdir()
        native = touch(self.world.dir / "date")
        for date in (low, high):
            os.utime(directory, ns=(date, date))
            self.assertEqual(os.stat(directory).st_mtime_ns, date)
            for p in (path, native):
                os.utime(p, ns=(date, date))
            self.assertEqual(os.stat(path).st_mtime_ns // 10**9, os.stat(native).st_mtime_ns // 10**9)
        for year_3000 in (32503680000, -32503680000):
            libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
            call("utimensat", -100, os.fsencode(directory), struct.pack("4q", year_3000, 0, year_3000, 0), 0)
            self.assertEqual(os.stat(directory).st_mtime_ns, high if year_3000 > 0 else low)

    def test_largest_file(self):
        path, native = touch(self.dir / "f"), touch(self.world.dir / "large")
        for size in ((1 << 44) - 4096, (1 << 44) - 1, 1 << 44, 1 << 45, (1 << 63) - 1):
            below = outcome(os.truncate, native, size)
            self.assertEqual(outcome(os.truncate, path, size), "EFBIG" if size > 1 << 44 else below, size)
        for offset in (1 << 44, 1 << 45):
            self.assertEqual(outcome(with_open, path, os.O_WRONLY, lambda fd, o=offset: os.pwrite(fd, b"x", o)), "EFBIG", offset)
        path.unlink()
        native.unlink()

    def test_paths(self):
        """As long as an object's key may be, with what is escaped there, and what a rename would make of it."""
        top, name = self.dir / "top", "n" * 200
        deep = top
        for _ in range(4):
            deep = deep / name
        deep.mkdir(parents=True)
        room = 1024 - len(os.fsencode(deep.relative_to(self.a.mount))) - 1
        self.assertEqual(outcome(touch, deep / ("f" * (room + 1))), "ENAMETOOLONG")
        touch(deep / ("f" * room), b"longest")
        self.assertEqual(outcome((deep / ("d" * room)).mkdir), "ENAMETOOLONG")
        (deep / ("d" * (room - 1))).mkdir()
        self.assertEqual(outcome(touch, deep / os.fsdecode(b"\xff" * (room // 3 + 1))), "ENAMETOOLONG")
        touch(deep / os.fsdecode(b"\xff" * (room // 3)))
        self.assertEqual(outcome(os.symlink, "x", deep / ("l" * (room + 1))), "ENAMETOOLONG")
        self.assertEqual(outcome(os.link, deep / ("f" * room), deep / ("h" * (room + 1))), "ENAMETOOLONG")
        self.assertEqual(outcome(os.rename, top, self.dir / "top1"), "ENAMETOOLONG")
        self.assertTrue((deep / ("f" * room)).exists())
        os.rename(top, self.dir / "to")
        os.rename(self.dir / "to", top)
        there = self.b.mount / deep.relative_to(self.a.mount)
        self.wait_there("the longest path", lambda: (there / ("f" * room)).exists() and len(os.listdir(there)) == 3)
        self.assertEqual((there / ("f" * room)).read_bytes(), b"longest")

    def test_reads_write_nothing(self):
        """Access times that change are kept in memory: one read of each of many files costs no write of the database."""
        for n in range(3000):
            touch(self.dir / str(n), b"x")
            os.utime(self.dir / str(n), ns=(n + 1, n + 2))
        self.a.flush()
        wait_until("the daemon rests", self.rests, 60, 1)
        before, start = written_by(self.a.process.pid), time.time_ns() - 10**8
        for n in range(3000):
            (self.dir / str(n)).read_bytes()
        wrote = written_by(self.a.process.pid) - before
        self.assertGreater(os.stat(self.dir / "2999").st_atime_ns, start)
        self.assertGreater(os.stat(self.dir / "0").st_atime_ns, start)
        print(f"{wrote} bytes written for 3,000 access times")
        self.assertLess(wrote, 3000 * 100)  # the answers to the kernel are such bytes too

    def rests(self):
        before = written_by(self.a.process.pid)
        time.sleep(1)
        return written_by(self.a.process.pid) - before < 4096


class Options(unittest.TestCase):
    """What the options of a mount change."""

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("needs root")
        self.world = World()
        self.a = self.world.server("a", self.world.directories("east"))
        open_to_all(self.world, self.a)

    def tearDown(self):
        self.world.close()

    def again(self, *options):
        if self.a.process:
            self.assertEqual(self.a.stop(), 0)
        self.a.start(options=[word for option in options for word in ("-o", option)])
        return self.a.mount

    def test_set_id_programs_and_devices(self):
        root = self.again()
        shutil.copy(shutil.which("id"), root / "id")
        os.chmod(root / "id", 0o4755)
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))

        def effective():
            return as_user(1000, 1000, [], lambda: subprocess.run([root / "id", "-u"], stdout=subprocess.PIPE, check=True).stdout)

        def zero():
            return outcome(with_open, root / "zero", os.O_RDONLY, lambda fd: os.read(fd, 2))
        self.assertEqual((effective(), zero()), (b"1000\n", "EACCES"))
        self.again("suid")
        self.assertEqual((effective(), zero()), (b"0\n", "EACCES"))
        self.again("dev,noexec")
        self.assertEqual(zero(), b"\0\0")
        self.assertEqual(outcome(subprocess.run, [root / "id"]), "EACCES")

    def test_synchronous(self):
        """What must be on disk when a call returns has been flushed: seen in the daemon's calls."""
        if not shutil.which("strace"):
            self.skipTest("strace is not installed")
        names = {"create": lambda r: touch(r / "f"), "mkdir": lambda r: (r / "d").mkdir(), "symlink": lambda r: os.symlink("x", r / "l"),
                 "mkfifo": lambda r: os.mkfifo(r / "p"), "link": lambda r: os.link(r / "f", r / "g"), "rename": lambda r: os.rename(r / "g", r / "h"),
                 "unlink": lambda r: os.unlink(r / "h"), "rmdir": lambda r: (r / "d").rmdir()}
        attributes = {"chmod": lambda r: os.chmod(r / "f", 0o600), "setxattr": lambda r: os.setxattr(r / "f", "user.x", b"y"),
                      "removexattr": lambda r: os.removexattr(r / "f", "user.x")}
        content = {"write": lambda r: os.write(self.fd, b"x" * 5000), "write again": lambda r: os.pwrite(self.fd, b"y", 0),
                   "ftruncate": lambda r: os.ftruncate(self.fd, 3000), "truncate": lambda r: os.truncate(r / "data", 6000),
                   "fallocate": lambda r: os.posix_fallocate(self.fd, 0, 20000), "utime": lambda r: os.utime(r / "data", ns=(1, 2)),
                   "copy": lambda r: os.copy_file_range(self.source, self.fd, 4096, 0, 0), "truncating open": lambda r: touch(r / "data")}
        synced = {f"{name} to one opened so": content[name] for name in ("write", "fallocate", "copy")}
        for option, flushed, flushed_content in (("dirsync", set(names), set(synced)), ("sync", {*names, *attributes}, {*content, *synced})):
            root = self.again(option) / option
            root.mkdir()
            touch(root / "data")
            touch(root / "source", b"s" * 8192)
            self.a.flush()
            time.sleep(1)
            self.fd, self.source = os.open(root / "data", os.O_WRONLY), os.open(root / "source", os.O_RDONLY)
            counts = self.flushes(root, {**names, **attributes, **content})
            os.close(self.fd)
            self.fd = os.open(root / "data", os.O_WRONLY | os.O_SYNC)
            if option == "sync" or self.a.status()["fs"]["passthrough"] != "on":  # else the kernel flushes
                counts |= self.flushes(root, synced)
            else:
                counts |= {"write to one opened so": [True], **self.flushes(root, {name: synced[name] for name in synced if "write" not in name})}
            os.close(self.fd)
            os.close(self.source)
            self.assertLessEqual(flushed, {name for name, files in counts.items() if files}, (option, counts))
            self.assertLessEqual(flushed_content, {name for name, files in counts.items() if any(files)}, (option, counts))

    def flushes(self, root, operations):
        """What the daemon flushes while each is done: True for a file's content."""
        trace, counts = self.world.dir / "trace", {}
        with open(trace, "wb") as out, subprocess.Popen(["strace", "-f", "-y", "-e", "trace=fdatasync,fsync", "-p", str(self.a.process.pid)], stderr=out) as tracer:
            try:
                wait_until("strace", lambda: b"attached" in trace.read_bytes(), 60)
                for name, operation in operations.items():
                    before = len(trace.read_bytes())
                    operation(root)
                    counts[name] = [bool(re.search(rb"/content/\w\w/\w+>", call)) for call in trace.read_bytes()[before:].split(b"sync(")[1:]]
            finally:
                tracer.terminate()
        return counts

    def test_listings_leave_directories_alone(self):
        for option in ("nodiratime", "noatime", "relatime"):
            root = self.again(option) / option
            root.mkdir()
            touch(root / "f")
            os.utime(root, ns=(1, 2))
            os.utime(root / "f", ns=(1, 2))
            os.listdir(root)
            (root / "f").read_bytes()
            self.assertEqual((os.stat(root).st_atime_ns == 1, os.stat(root / "f").st_atime_ns == 1),
                             {"nodiratime": (True, False), "noatime": (True, True), "relatime": (False, False)}[option], option)

    def test_read_only(self):
        root = self.again()
        touch(root / "f", b"before")
        self.again("ro")
        for change in (lambda: touch(root / "g"), lambda: os.chmod(root / "f", 0o600), lambda: os.unlink(root / "f"), lambda: os.utime(root / "f"),
                       lambda: os.setxattr(root / "f", "user.x", b"y"), lambda: os.mkdir(root / "d"), lambda: os.rename(root / "f", root / "g"),
                       lambda: os.truncate(root / "f", 0), lambda: os.open(root / "f", os.O_WRONLY)):
            self.assertEqual(outcome(change), "EROFS")
        self.assertEqual((root / "f").read_bytes(), b"before")
        other = self.world.server("b", self.world.directories("east"))
        other.start()
        wait_until("the other has it", lambda: (other.mount / "f").exists(), 30)
        touch(other.mount / "f", b"changed there")
        other.flush()
        wait_until("changes of others arrive", lambda: (root / "f").read_bytes() == b"changed there", 30)
        self.assertEqual(other.stop(), 0)

    def test_others_are_kept_out(self):
        root = self.again("allow_other=no")
        touch(root / "f")
        self.assertEqual(as_user(1000, 1000, [], os.listdir, root), "EACCES")
        self.again()
        self.assertEqual(as_user(1000, 1000, [], os.listdir, root), ["f"])

    def test_remount_is_refused(self):
        root = self.again()
        touch(root / "f")
        run = subprocess.run(["bash", "-c", 'exec -a mount.fuse.meridian "$0" "$@"', MERIDIAN, self.a.config, root, "-o", "remount,ro"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("remount", run.stdout)
        touch(root / "f", b"x")
        self.assertEqual((root / "f").read_bytes(), b"x")


if __name__ == "__main__":
    main()
