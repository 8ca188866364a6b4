#!/usr/bin/env python3
"""POSIX behaviour of a real mount over the cache alone: fs_smoke.py DAEMON [unittest arguments].

The daemon (fs_smoke_main.c) takes the replicator's part on command. Every mount made here is unmounted and every
process ended by its pid, also after a failure."""
import ctypes
import errno
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest

DAEMON = sys.argv.pop(1) if len(sys.argv) > 1 and os.path.exists(sys.argv[1]) else None
LIBC = ctypes.CDLL(None, use_errno=True)


def renameat2(old, new, flags):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


class Mount:
    """One daemon on a state directory and a mountpoint below root."""

    def __init__(self, root):
        self.state = os.path.join(root, "state")
        self.path = os.path.join(root, "mnt")
        os.makedirs(self.path, exist_ok=True)
        self.start()

    def start(self):
        self.daemon = subprocess.Popen([DAEMON, self.state, self.path], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
        if self.daemon.stdout.readline() != "ready\n":
            raise AssertionError("the daemon did not mount")

    def tell(self, line):
        self.daemon.stdin.write(line + "\n")
        self.daemon.stdin.flush()
        answer = self.daemon.stdout.readline().strip()
        while answer != "ok":
            if not answer or answer.startswith("error"):
                raise AssertionError(f"{line}: {answer or 'the daemon is gone'}")
            self.said = answer
            answer = self.daemon.stdout.readline().strip()

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        """Ends the daemon whatever state it is in; returns its exit code, None when it had to be killed."""
        code = None
        if self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                code = self.daemon.wait(60)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
        else:
            code = self.daemon.returncode
        for command in (["fusermount3", "-u", "-z", self.path], ["umount", "-l", self.path]):
            if is_mount(self.path):
                subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        self.daemon.wait(60)
        self.close_pipes()
        return code

    def close_pipes(self):
        for pipe in (self.daemon.stdin, self.daemon.stdout):
            try:
                pipe.close()
            except OSError:
                pass  # what was not written any more


def is_mount(path):
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split()[1] == path for line in f)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Case(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="fs-smoke-")
        self.addCleanup(shutil.rmtree, self.root)
        self.mount = Mount(self.root)
        self.addCleanup(self.mount.stop)
        self.d = self.mount.path

    def p(self, *names):
        return os.path.join(self.d, *names)

    def write(self, name, data, mode="wb"):
        with open(self.p(name), mode) as f:
            f.write(data)

    def read(self, name):
        with open(self.p(name), "rb") as f:
            return f.read()

    def fails(self, code, fn, *args, **kw):
        with self.assertRaises(OSError) as caught:
            fn(*args, **kw)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[code])

    def as_nobody(self, fn, *args):
        if os.geteuid() != 0:
            self.skipTest("needs root to become another user")
        os.chmod(self.root, 0o755)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                fn(*args)
                code = 0
            except BaseException as e:  # pylint: disable=broad-except
                print(f"as nobody: {e!r}", file=sys.stderr)
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)


class Files(Case):
    def test_create_append_truncate(self):
        self.write("a", b"hello")
        self.write("a", b" world", "ab")
        self.assertEqual(self.read("a"), b"hello world")
        os.truncate(self.p("a"), 5)
        self.assertEqual(self.read("a"), b"hello")
        os.truncate(self.p("a"), 8)
        self.assertEqual(self.read("a"), b"hello\0\0\0")
        self.write("a", b"new")
        self.assertEqual((self.read("a"), os.stat(self.p("a")).st_size), (b"new", 3))

    def test_large(self):
        data = os.urandom(5 * 1024 * 1024 + 123)
        self.write("big", data)
        self.assertEqual(self.read("big"), data)
        with open(self.p("big"), "r+b") as f:
            f.seek(1000001)
            f.write(b"middle")
        data = data[:1000001] + b"middle" + data[1000007:]
        self.assertEqual(self.read("big"), data)

    def test_exclusive(self):
        fd = os.open(self.p("x"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
        os.close(fd)
        self.assertEqual(stat.S_IMODE(os.stat(self.p("x")).st_mode), 0o640 & ~umask())
        self.fails(errno.EEXIST, os.open, self.p("x"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def test_sparse_and_fallocate(self):
        with open(self.p("s"), "wb") as f:
            f.seek(1 << 20)
            f.write(b"end")
        fd = os.open(self.p("s"), os.O_RDWR)
        self.addCleanup(os.close, fd)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 0)
        os.posix_fallocate(fd, 0, 2 << 20)
        self.assertEqual(os.fstat(fd).st_size, 2 << 20)
        self.assertEqual(os.pread(fd, 3, 1 << 20), b"end")
        os.fsync(fd)
        os.fdatasync(fd)

    def test_unlink_while_open(self):
        with open(self.p("u"), "w+b") as f:
            f.write(b"still")
            f.flush()
            os.unlink(self.p("u"))
            self.assertFalse(os.path.exists(self.p("u")))
            f.write(b" here")
            f.flush()
            self.assertEqual(os.fstat(f.fileno()).st_size, 10)
            os.ftruncate(f.fileno(), 7)
            f.seek(0)
            self.assertEqual(f.read(), b"still h")
            self.write("u", b"another")
            f.seek(0)
            self.assertEqual(f.read(), b"still h")
        self.assertEqual(self.read("u"), b"another")

    def test_mmap(self):
        self.write("m", b"a" * 10000)
        with open(self.p("m"), "r+b") as f, mmap.mmap(f.fileno(), 10000) as m:
            m[5000:5003] = b"XYZ"
            m.flush()
            f.seek(4999)
            self.assertEqual(f.read(5), b"aXYZa")
        self.assertEqual(self.read("m")[5000:5003], b"XYZ")

    def test_concurrent_appends(self):
        def run(tag):
            fd = os.open(self.p("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for i in range(200):
                os.write(fd, b"%c%06d\n" % (tag, i))
            os.close(fd)
        threads = [threading.Thread(target=run, args=(65 + i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        lines = self.read("log").splitlines()
        self.assertEqual((len(lines), len(set(lines))), (800, 800))

    def test_suid_is_cleared_by_write(self):
        self.write("suid", b"x")
        os.chmod(self.p("suid"), 0o6777)
        self.as_nobody(self.write, "suid", b"y", "r+b")
        self.assertEqual(stat.S_IMODE(os.stat(self.p("suid")).st_mode) & 0o6000, 0)


def umask():
    old = os.umask(0)
    os.umask(old)
    return old


class Names(Case):
    def test_rename(self):
        self.write("a", b"1")
        self.write("b", b"2")
        os.rename(self.p("a"), self.p("b"))
        self.assertEqual((self.read("b"), os.listdir(self.d)), (b"1", ["b"]))
        self.write("c", b"3")
        self.fails(errno.EEXIST, renameat2, self.p("b"), self.p("c"), 1)
        renameat2(self.p("b"), self.p("c"), 2)
        self.assertEqual((self.read("b"), self.read("c")), (b"3", b"1"))
        self.fails(errno.EINVAL, renameat2, self.p("b"), self.p("c"), 4)
        renameat2(self.p("b"), self.p("d"), 1)
        self.assertEqual(sorted(os.listdir(self.d)), ["c", "d"])
        self.fails(errno.ENOENT, os.rename, self.p("none"), self.p("e"))

    def test_rename_over_open_file(self):
        self.write("old", b"old")
        self.write("new", b"new")
        with open(self.p("old"), "rb") as f:
            os.rename(self.p("new"), self.p("old"))
            self.assertEqual(f.read(), b"old")
        self.assertEqual(self.read("old"), b"new")

    def test_rename_directory(self):
        os.makedirs(self.p("d/e"))
        self.write("d/e/f", b"deep")
        os.mkdir(self.p("empty"))
        os.rename(self.p("d"), self.p("empty"))
        self.assertEqual(self.read("empty/e/f"), b"deep")
        os.mkdir(self.p("g"))
        self.fails(errno.ENOTEMPTY, os.rename, self.p("g"), self.p("empty"))
        self.fails(errno.EINVAL, os.rename, self.p("empty"), self.p("empty/e/x"))
        self.write("file", b"")
        self.fails(errno.ENOTDIR, os.rename, self.p("g"), self.p("file"))
        self.fails(errno.EISDIR, os.rename, self.p("file"), self.p("g"))

    def test_errors(self):
        os.mkdir(self.p("d"))
        self.write("d/f", b"")
        self.fails(errno.ENOENT, os.stat, self.p("none"))
        self.fails(errno.ENOENT, os.unlink, self.p("none"))
        self.fails(errno.EEXIST, os.mkdir, self.p("d"))
        self.fails(errno.ENOTEMPTY, os.rmdir, self.p("d"))
        self.fails(errno.EISDIR, os.unlink, self.p("d"))
        self.fails(errno.ENOTDIR, os.rmdir, self.p("d/f"))
        self.fails(errno.ENOTDIR, os.stat, self.p("d/f/g"))
        self.fails(errno.EISDIR, os.open, self.p("d"), os.O_WRONLY)
        self.fails(errno.ENAMETOOLONG, self.write, "n" * 256, b"")
        self.fails(errno.EEXIST, os.link, self.p("d/f"), self.p("d"))
        self.fails(errno.EPERM, os.link, self.p("d"), self.p("hard"))
        self.fails(errno.EPERM, os.mkdir, self.p(".meridian"))
        os.unlink(self.p("d/f"))
        os.rmdir(self.p("d"))
        self.assertEqual(os.listdir(self.d), [])

    def test_symlink(self):
        self.write("target", b"t")
        os.symlink("target", self.p("link"))
        self.assertEqual(os.readlink(self.p("link")), "target")
        self.assertEqual(self.read("link"), b"t")
        self.assertTrue(stat.S_ISLNK(os.lstat(self.p("link")).st_mode))
        self.assertEqual(os.lstat(self.p("link")).st_size, 6)
        self.fails(errno.EINVAL, os.readlink, self.p("target"))
        os.unlink(self.p("link"))
        self.assertEqual(self.read("target"), b"t")

    def test_any_bytes(self):
        name = os.fsdecode(b"\xff\xfe\x01%41 \n")
        self.write(name, b"odd")
        self.assertEqual(os.listdir(self.d), [name])
        self.assertEqual(self.read(name), b"odd")

    def test_negative_entries(self):
        for _ in range(3):
            self.assertFalse(os.path.exists(self.p("late")))
        self.write("late", b"now")
        self.assertEqual(self.read("late"), b"now")
        os.rename(self.p("late"), self.p("moved"))
        self.assertFalse(os.path.exists(self.p("late")))


class Attributes(Case):
    def test_mode_owner_times(self):
        self.write("f", b"x")
        os.chmod(self.p("f"), 0o4751)
        self.assertEqual(stat.S_IMODE(os.stat(self.p("f")).st_mode), 0o4751)
        if os.geteuid() == 0:
            os.chown(self.p("f"), 1234, 4321)
            st = os.stat(self.p("f"))
            self.assertEqual((st.st_uid, st.st_gid), (1234, 4321))
            self.assertEqual(stat.S_IMODE(st.st_mode), 0o751)
        for ns in (1234567890123456789, 0, -1500000000):
            os.utime(self.p("f"), ns=(ns + 7, ns))
            st = os.stat(self.p("f"))
            self.assertEqual((st.st_atime_ns, st.st_mtime_ns), (ns + 7, ns))
        before = time.time_ns()
        os.utime(self.p("f"))
        self.assertGreaterEqual(os.stat(self.p("f")).st_mtime_ns, before - 50_000_000)

    def test_write_changes_mtime(self):
        self.write("f", b"x")
        os.utime(self.p("f"), ns=(1, 1))
        self.write("f", b"y", "ab")
        self.assertGreater(os.stat(self.p("f")).st_mtime_ns, 1)

    def test_directory_mtime(self):
        os.mkdir(self.p("d"))
        first = os.stat(self.p("d")).st_mtime_ns
        time.sleep(0.02)
        self.write("d/f", b"")
        self.assertGreater(os.stat(self.p("d")).st_mtime_ns, first)

    def test_umask_and_setgid(self):
        old = os.umask(0o027)
        self.addCleanup(os.umask, old)
        os.mkdir(self.p("d"))
        self.assertEqual(stat.S_IMODE(os.stat(self.p("d")).st_mode), 0o750)
        if os.geteuid() == 0:
            os.chown(self.p("d"), -1, 777)
            os.chmod(self.p("d"), 0o2775)
            self.write("d/f", b"")
            os.mkdir(self.p("d/e"))
            self.assertEqual(os.stat(self.p("d/f")).st_gid, 777)
            self.assertTrue(os.stat(self.p("d/e")).st_mode & stat.S_ISGID)

    def test_permissions_and_owner(self):
        self.write("secret", b"")
        os.chmod(self.p("secret"), 0o600)
        os.chmod(self.d, 0o777)
        self.as_nobody(self.fails, errno.EACCES, open, self.p("secret"))
        self.as_nobody(self.write, "mine", b"")
        self.assertEqual(os.stat(self.p("mine")).st_uid, 65534)

    def test_xattrs(self):
        self.write("f", b"x")
        f = self.p("f")
        self.fails(errno.ENODATA, os.getxattr, f, "user.a")
        os.setxattr(f, "user.a", b"1")
        os.setxattr(f, "user.b", b"")
        self.fails(errno.EEXIST, os.setxattr, f, "user.a", b"2", os.XATTR_CREATE)
        self.fails(errno.ENODATA, os.setxattr, f, "user.c", b"2", os.XATTR_REPLACE)
        self.assertEqual((os.getxattr(f, "user.a"), os.getxattr(f, "user.b")), (b"1", b""))
        os.setxattr(f, "user.a", b"v" * 60000)
        self.assertEqual(os.getxattr(f, "user.a"), b"v" * 60000)
        self.assertEqual(sorted(os.listxattr(f)), ["user.a", "user.b"])
        os.removexattr(f, "user.a")
        self.assertEqual(os.listxattr(f), ["user.b"])
        os.setxattr(f, "system.posix_acl_access",
                    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff")
        self.assertEqual(os.stat(f).st_mode & 0o777, 0o644)
        self.assertEqual(os.listxattr(f), ["user.b"])  # the mode says it all
        if os.geteuid() == 0:
            os.setxattr(f, "trusted.t", b"t")
            self.assertEqual(os.getxattr(f, "trusted.t"), b"t")

    def test_capability_is_cleared_by_write(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to set a capability")
        capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        self.write("f", b"x")
        self.write("f", b"x", "ab")  # the daemon now knows that there is none
        os.setxattr(self.p("f"), "security.capability", capability)
        self.assertEqual(os.getxattr(self.p("f"), "security.capability"), capability)
        self.write("f", b"y", "ab")
        self.fails(errno.ENODATA, os.getxattr, self.p("f"), "security.capability")

    def test_statfs(self):
        st = os.statvfs(self.d)
        self.assertGreater(st.f_blocks, 0)
        self.assertEqual(st.f_namemax, 255)


class Listings(Case):
    def test_many_with_deletions(self):
        os.mkdir(self.p("d"))
        names = [f"{i:05d}" for i in range(5000)]
        for n in names:
            os.close(os.open(self.p("d", n), os.O_CREAT | os.O_WRONLY))
        self.assertEqual(sorted(os.listdir(self.p("d"))), names)
        self.assertEqual(sorted(os.listdir(self.p("d"))), names)  # from the kernel's cache
        seen = []
        with os.scandir(self.p("d")) as it:
            for e in it:
                seen.append(e.name)
                self.assertTrue(e.is_file())
                if len(seen) % 2:
                    os.unlink(self.p("d", e.name))
                if len(seen) % 100 == 0:
                    os.close(os.open(self.p("d", "~new" + e.name), os.O_CREAT | os.O_WRONLY))
        old = [n for n in seen if not n.startswith("~")]
        self.assertEqual(sorted(old), names)
        self.assertEqual(len(set(seen)), len(seen))
        left = [n for i, n in enumerate(seen, 1) if i % 2 == 0]
        self.assertTrue(set(left) <= set(os.listdir(self.p("d"))))
        shutil.rmtree(self.p("d"))
        self.assertEqual(os.listdir(self.d), [])

    def test_dots(self):
        os.mkdir(self.p("d"))
        out = subprocess.run(["ls", "-fi", self.p("d")], capture_output=True, text=True, check=True).stdout
        inodes = {line.split()[1]: int(line.split()[0]) for line in out.splitlines()}
        self.assertEqual(inodes, {".": os.stat(self.p("d")).st_ino, "..": os.stat(self.d).st_ino})

    def test_seekdir(self):
        for i in range(3000):
            os.close(os.open(self.p(f"{i:04d}"), os.O_CREAT | os.O_WRONLY))
        LIBC.opendir.restype = ctypes.c_void_p
        LIBC.readdir.restype = ctypes.c_void_p
        LIBC.telldir.restype = ctypes.c_long
        LIBC.readdir.argtypes = LIBC.telldir.argtypes = LIBC.closedir.argtypes = [ctypes.c_void_p]
        LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
        dirp = LIBC.opendir(os.fsencode(self.d))
        self.addCleanup(LIBC.closedir, dirp)
        def name():
            e = LIBC.readdir(dirp)
            return ctypes.string_at(e + 19) if e else None
        places = []
        while True:
            at = LIBC.telldir(dirp)
            n = name()
            if not n:
                break
            places.append((at, n))
        self.assertEqual(len(places), 3002)
        for at, n in places[::-97]:
            LIBC.seekdir(dirp, at)
            self.assertEqual(name(), n)


class Lives(Case):
    def test_kill_and_remount(self):
        os.makedirs(self.p("d/e"))
        for i in range(50):
            self.write(f"d/f{i}", b"%d" % i * 100)
        os.symlink("f1", self.p("d/l"))
        os.setxattr(self.p("d/f1"), "user.x", b"v")
        os.chmod(self.p("d/f2"), 0o600)
        open_file = open(self.p("d/open"), "wb", buffering=0)
        open_file.write(b"written, not closed")
        os.rename(self.p("d/f3"), self.p("d/g3"))
        before = os.stat(self.p("d/f1"))
        self.mount.kill()
        self.fails(errno.ENOTCONN, os.statvfs, self.d)
        try:
            open_file.close()
        except OSError:
            pass
        self.mount.close_pipes()
        self.mount.start()
        for i in range(50):
            self.assertEqual(self.read(f"d/{'g' if i == 3 else 'f'}{i}"), b"%d" % i * 100)
        self.assertEqual(self.read("d/open"), b"written, not closed")
        self.assertEqual(os.readlink(self.p("d/l")), "f1")
        self.assertEqual(os.getxattr(self.p("d/f1"), "user.x"), b"v")
        self.assertEqual(stat.S_IMODE(os.stat(self.p("d/f2")).st_mode), 0o600)
        after = os.stat(self.p("d/f1"))
        self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))
        self.assertEqual(len(os.listdir(self.p("d"))), 53)

    def test_kill_while_names_change_from_both_sides(self):
        """The notifier waits for a directory that a request has locked: the kill must free both."""
        stop = threading.Event()

        def local(tag):
            i = 0
            while not stop.is_set():
                try:
                    os.close(os.open(self.p(f"{tag}{i}"), os.O_CREAT | os.O_WRONLY))
                except OSError:
                    return
                i += 1

        def merging():
            i = 0
            try:
                while not stop.is_set():
                    self.mount.tell(f"put a{i} x")
                    i += 1
            except (AssertionError, OSError, ValueError):
                return

        for _ in range(5):
            threads = [threading.Thread(target=local, args=(t,)) for t in "ab"]
            threads.append(threading.Thread(target=merging))
            for t in threads:
                t.start()
            time.sleep(0.3)
            self.mount.daemon.kill()
            self.mount.daemon.wait(60)
            stop.set()
            for t in threads:
                t.join(60)
                self.assertFalse(t.is_alive(), "a call hangs after kill -9")
            stop.clear()
            self.mount.close_pipes()
            self.mount.start()
            self.write("again", b"x")

    def test_stop_with_open_files(self):
        f = open(self.p("f"), "wb", buffering=0)
        f.write(b"x")
        self.assertEqual(self.mount.stop(), 0)
        self.assertFalse(is_mount(self.d))
        try:
            f.close()
        except OSError:
            pass

    def test_unmount_from_outside(self):
        self.write("f", b"x")
        subprocess.run(["umount", self.d], check=True)
        self.assertEqual(self.mount.daemon.wait(60), 0)

    def test_refusals(self):
        def refused(*args):
            r = subprocess.run([DAEMON, *args], capture_output=True, text=True, timeout=20, check=False)
            self.assertEqual(r.returncode, 1)
            return r.stderr
        other = os.path.join(self.root, "other")
        self.assertIn("does not exist", refused(other, os.path.join(self.root, "none")))
        self.assertIn("is not a directory", refused(other, DAEMON))
        self.assertIn("already mounted", refused(other, self.d))


class Elsewhere(Case):
    """Changes that come from other regions reach the kernel's caches."""

    def sees(self, name, data):
        def there():
            try:
                return self.read(name) == data
            except FileNotFoundError:
                return False
        self.assertTrue(until(there), f"{name} is not {data!r}")

    def test_new_changed_removed(self):
        self.assertFalse(os.path.exists(self.p("n")))
        self.assertEqual(os.listdir(self.d), [])
        self.mount.tell("put n one")
        self.sees("n", b"one")
        self.assertTrue(until(lambda: os.listdir(self.d) == ["n"]))
        ino = os.stat(self.p("n")).st_ino
        with open(self.p("n"), "rb") as f:
            self.mount.tell("put n second")
            self.sees("n", b"second")
            self.assertEqual(f.read(), b"one")
        self.assertNotEqual(os.stat(self.p("n")).st_ino, ino)
        self.mount.tell("remove n")
        self.assertTrue(until(lambda: not os.path.exists(self.p("n"))))
        self.assertTrue(until(lambda: os.listdir(self.d) == []))

    def test_below_new_directories(self):
        self.assertFalse(os.path.exists(self.p("a/b/c")))
        self.mount.tell("put a/b/c deep")
        self.sees("a/b/c", b"deep")

    def test_listing_while_names_come(self):
        os.mkdir(self.p("d"))
        stop = threading.Event()
        def reader():
            while not stop.is_set():
                os.listdir(self.p("d"))
        threads = [threading.Thread(target=reader) for _ in range(2)]
        for t in threads:
            t.start()
        try:
            for i in range(100):
                self.mount.tell(f"put d/n{i} x")
            self.mount.tell("many d 2000")
        finally:
            stop.set()
            for t in threads:
                t.join()
        self.assertTrue(until(lambda: len(os.listdir(self.p("d"))) == 2100))

    def test_replaced_under_load(self):
        """A name that is replaced all the time is there all the time."""
        self.mount.tell("put hot 0")
        self.sees("hot", b"0")
        stop = threading.Event()
        failures = []
        def reader():
            while not stop.is_set():
                try:
                    self.read("hot")
                    os.stat(self.p("hot"))
                except OSError as e:
                    failures.append(e)
                    return
        t = threading.Thread(target=reader)
        t.start()
        for i in range(300):
            self.mount.tell(f"put hot {i}")
        stop.set()
        t.join()
        self.assertEqual(failures, [])
        self.sees("hot", b"299")

    def test_fetch(self):
        self.mount.tell("remote far content from elsewhere")
        self.assertTrue(until(lambda: os.path.exists(self.p("far"))))
        self.assertEqual(os.stat(self.p("far")).st_size, 22)
        self.assertEqual(self.read("far"), b"content from elsewhere")
        self.mount.tell("remote far again and longer than that")
        self.sees("far", b"again and longer than that")
        self.mount.tell("remote cut 0123456789")
        self.assertTrue(until(lambda: os.path.exists(self.p("cut"))))
        os.truncate(self.p("cut"), 4)
        self.assertEqual(self.read("cut"), b"0123")
        self.mount.tell("remote fresh not wanted")
        self.assertTrue(until(lambda: os.path.exists(self.p("fresh"))))
        self.write("fresh", b"mine")
        self.assertEqual(self.read("fresh"), b"mine")

    def test_fetch_fails(self):
        self.mount.tell("broken far text")
        self.assertTrue(until(lambda: os.path.exists(self.p("far"))))
        self.fails(errno.EIO, open, self.p("far"))

    def test_waiting_fetch_blocks_nobody_and_can_be_interrupted(self):
        self.mount.tell("hang far text")
        self.assertTrue(until(lambda: os.path.exists(self.p("far"))))
        readers = [subprocess.Popen(["cat", self.p("far")], stderr=subprocess.DEVNULL) for _ in range(8)]
        def waiting():
            self.mount.tell("stats")
            return "waiting 8 " in self.mount.said
        try:
            self.assertTrue(until(waiting))
            self.write("near", b"x")
            self.assertEqual(self.read("near"), b"x")
        finally:
            for r in readers[:4]:
                r.kill()
        for r in readers[:4]:
            r.wait(5)
        # The others end with the mount.
        self.assertEqual(self.mount.stop(), 0)
        for r in readers[4:]:
            self.assertNotEqual(r.wait(5), 0)

    def test_range_outlives_its_reader(self):
        """The partial content that a range is asked of stays open until the asking is over, though the read was interrupted and its
        file released."""
        self.mount.tell("ranged far text")
        self.assertTrue(until(lambda: os.path.exists(self.p("far"))))
        # So the kernel reads one page, and waits for it: what it reads ahead is not interrupted.
        reader = subprocess.Popen([sys.executable, "-c", "import mmap, os, sys\n"
                                   "m = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n"
                                   "m.madvise(mmap.MADV_RANDOM)\nm[0]", self.p("far")])
        def waiting():
            self.mount.tell("stats")
            return "waiting 1 " in self.mount.said
        def descriptors():
            return len(os.listdir(f"/proc/{self.mount.daemon.pid}/fd"))
        try:
            self.assertTrue(until(waiting))
            before = descriptors()
        finally:
            reader.kill()
        reader.wait(5)
        self.assertTrue(until(lambda: descriptors() < before))
        self.mount.tell("go")
        self.assertEqual(self.mount.said, "missing 0")


if __name__ == "__main__":
    if not os.path.exists("/dev/fuse"):
        print("skipped: /dev/fuse is not there")
        sys.exit(77)
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        print("skipped: fusermount3 is not installed")
        sys.exit(77)
    if DAEMON is None:
        sys.exit("usage: fs_smoke.py DAEMON [unittest arguments]")
    unittest.main(verbosity=2)
