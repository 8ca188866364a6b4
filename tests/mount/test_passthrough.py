"""Data that the kernel passes straight to the content file: what calls answer, what set-id bits become, what reaches
the region, what survives kill -9, and that neither reads nor writes ask the daemon. The same calls with passthrough
switched off, and for a user without privileges."""
import ctypes
import errno
import hashlib
import mmap
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

from harness import MERIDIAN, World, main, skip, wait_until

OTHER = 12345  # a user and group that own nothing
NOBODY = 65534  # fusermount3 wants one with a name
LIBC = ctypes.CDLL(None, use_errno=True)


def as_other(act):
    """Runs act in a process of an ordinary user; its exception's text or None."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = b""
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            act()
        except BaseException as error:  # pylint: disable=broad-exception-caught
            text = repr(error).encode()
        os.write(writer, text)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text or None


def mode(path):
    return oct(os.stat(path).st_mode & 0o7777)


def with_fd(path, flags, act):
    fd = os.open(path, flags)
    try:
        return act(fd)
    finally:
        os.close(fd)


def store_in_map(path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0:1] = b"m"


CHANGES = {
    "write": lambda p: with_fd(p, os.O_WRONLY, lambda fd: os.write(fd, b"x")),
    "append": lambda p: with_fd(p, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x")),
    "truncate": lambda p: os.truncate(p, 3),
    "ftruncate": lambda p: with_fd(p, os.O_RDWR, lambda fd: os.ftruncate(fd, 2)),
    "O_TRUNC": lambda p: with_fd(p, os.O_WRONLY | os.O_TRUNC, lambda fd: None),
    "fallocate": lambda p: with_fd(p, os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 10000)),
    "mapping": store_in_map,
    "read": lambda p: with_fd(p, os.O_RDONLY, lambda fd: os.read(fd, 10)),
}


def setid_table(root):
    """What each change by root and by another user makes of set-id bits."""
    table = {}
    for name, change in CHANGES.items():
        for bits in (0o6777, 0o4766, 0o2777, 0o2766):
            for who in ("root", "other"):
                path = os.path.join(root, "setid")
                with open(path, "wb") as file:
                    file.write(b"abcdefgh")
                os.chmod(path, bits)
                failed = as_other(lambda c=change, p=path: c(p)) if who == "other" else change(path)
                table[name, oct(bits), who] = (mode(path), failed if who == "other" else None)
                os.unlink(path)
    path = os.path.join(root, "setid")
    with open(path, "wb") as file:
        file.write(b"abc")
    for bits in (0o6777, 0o6766):
        os.chmod(path, bits)
        os.chown(path, OTHER, OTHER)
        table["chown", oct(bits), "root"] = mode(path)
        os.chmod(path, bits)
        table["chgrp", oct(bits), "owner"] = (as_other(lambda: os.chown(path, -1, OTHER)), mode(path))
    os.unlink(path)
    table["late"] = setid_late(root)
    return table


def setid_late(root):
    """Bits that come while another user has the file open for writing already."""
    path = os.path.join(root, "late")
    with open(path, "wb") as file:
        file.write(b"abc")
    os.chmod(path, 0o666)
    opened, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        fd = os.open(path, os.O_WRONLY)
        os.write(opened[1], b"1")
        os.read(go[0], 1)
        os.write(fd, b"zzz")
        os._exit(0)
    os.read(opened[0], 1)
    os.chmod(path, 0o6777)
    before = mode(path)
    os.write(go[1], b"1")
    os.waitpid(pid, 0)
    after = mode(path)
    os.unlink(path)
    return before, after


class Passthrough(unittest.TestCase):
    PASSTHROUGH = "auto"
    ON = True

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.bucket = cls.world.dir / "buckets" / "a"
        cls.server = cls.world.server("one", cls.world.directories("a"),
                                      volume={"passthrough": cls.PASSTHROUGH, "seal_after": "300ms"})
        cls.server.start()
        cls.root = cls.server.mount
        os.chmod(cls.root, 0o777)
        state = cls.server.status()["fs"]["passthrough"]
        if cls.ON and state != "on":
            cls.world.close()
            skip(f"passthrough is {state}")
        cls.native = pathlib.Path(tempfile.mkdtemp(prefix="meridian-native.", dir=cls.world.dir))
        os.chmod(cls.world.dir, 0o755)
        os.chmod(cls.native, 0o777)
        os.chmod(cls.server.root, 0o755)

    @classmethod
    def tearDownClass(cls):
        try:
            assert cls.server.stop() == 0, cls.server.tail()
        finally:
            cls.world.close()

    def requests(self):
        return self.server.status()["fs"]["requests"]

    def object_is(self, name, data):
        path = self.bucket / name
        wait_until(lambda: f"{name} in the region as written", lambda: path.exists() and path.read_bytes() == data, 60)

    def test_status(self):
        want = "passthrough: on" if self.ON else "passthrough: off (as set)"
        self.assertIn(want, self.server.status_text())

    def test_no_requests(self):
        path = self.root / "counted"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.write(fd, b"x" * 4096)
        before = self.requests()
        for n in range(1000):
            os.pwrite(fd, b"y" * 4096, n * 4096)
        written = self.requests() - before
        for n in range(1000):
            self.assertEqual(os.pread(fd, 4096, n * 4096), b"y" * 4096)
        read = self.requests() - before - written
        os.close(fd)
        if self.ON:
            self.assertLess(written + read, 10)
        else:
            self.assertGreaterEqual(written, 1000)
            self.assertLess(written, 1010, "more than one request a write")

    def test_no_requests_for_new_files(self):
        directory = self.root / "many"
        directory.mkdir()
        before = self.requests()
        for n in range(200):
            fd = os.open(directory / str(n), os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"z" * 4096)
            os.close(fd)
        each = (self.requests() - before) / 200
        # The directory's attributes, lookup, create, security.capability once for an inode, flush, release; and the
        # write where it is a request.
        self.assertLess(each, 6.2 if self.ON else 7.2)

    def test_set_id_bits(self):
        self.assertEqual(setid_table(self.root), setid_table(self.native))

    def test_attributes_follow_writes(self):
        path = self.root / "follow"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        size = 0
        last = os.stat(path).st_mtime_ns
        for n in (1, 4096, 70000):
            time.sleep(0.02)
            os.write(fd, b"a" * n)
            size += n
            now = os.stat(path)
            self.assertEqual(now.st_size, size)
            self.assertGreater(now.st_mtime_ns, last)
            self.assertGreaterEqual(now.st_ctime_ns, now.st_mtime_ns)
            last = now.st_mtime_ns
        os.truncate(path, 10)
        self.assertEqual(os.fstat(fd).st_size, 10)
        os.ftruncate(fd, 5000)
        self.assertEqual(os.stat(path).st_size, 5000)
        self.assertEqual(os.pread(fd, 5001, 0), b"a" * 10 + b"\0" * 4990)
        os.utime(path, ns=(10**18 + 1, 10**18 + 2))
        self.assertEqual(os.fstat(fd).st_mtime_ns, 10**18 + 2)
        os.close(fd)
        self.assertEqual(os.stat(path).st_mtime_ns, 10**18 + 2)

    def test_many_handles_of_one_file(self):
        path = self.root / "handles"
        path.write_bytes(b"0" * 8192)
        readers = [os.open(path, os.O_RDONLY) for _ in range(3)]
        writer = os.open(path, os.O_WRONLY)
        both = os.open(path, os.O_RDWR | os.O_APPEND)
        os.pwrite(writer, b"1" * 100, 4000)
        os.write(both, b"2" * 100)
        for fd in readers:
            self.assertEqual(os.pread(fd, 100, 4000), b"1" * 100)
            self.assertEqual(os.pread(fd, 200, 8192), b"2" * 100)
            os.close(fd)
        os.unlink(path)
        os.pwrite(writer, b"3", 0)
        self.assertEqual(os.pread(both, 1, 0), b"3")
        os.close(writer)
        os.close(both)

    def test_append_by_many(self):
        path = self.root / "log"
        path.touch()

        def append(who):
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            for n in range(300):
                os.write(fd, f"{who} {n}\n".encode())
            os.close(fd)

        threads = [threading.Thread(target=append, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = path.read_text(encoding="ascii").splitlines()
        self.assertEqual(sorted(lines), sorted(f"{who} {n}" for who in range(4) for n in range(300)))
        self.object_is("log", path.read_bytes())

    def test_direct(self):
        path = self.root / "direct"
        buffer = mmap.mmap(-1, 8192)
        buffer[:] = bytes(range(256)) * 32
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        self.assertEqual(os.pwritev(fd, [buffer], 4096), 8192)
        back = mmap.mmap(-1, 8192)
        self.assertEqual(os.preadv(fd, [back], 4096), 8192)
        self.assertEqual(back[:], buffer[:])
        os.close(fd)
        self.assertEqual(path.read_bytes(), b"\0" * 4096 + buffer[:])

    def test_holes(self):
        path = self.root / "sparse"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"d" * 4096, 1 << 20)
        os.ftruncate(fd, 4 << 20)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
        self.assertEqual(os.lseek(fd, 1 << 20, os.SEEK_HOLE), (1 << 20) + 4096)
        os.posix_fallocate(fd, 4 << 20, 4096)
        self.assertEqual(os.fstat(fd).st_size, (4 << 20) + 4096)
        os.close(fd)

    def test_fallocate(self):
        """Each mode as the file system below does it, size, content and answer."""
        keep, punch, zero, collapse, insert = 1, 2, 16, 8, 32
        LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        results = []
        for root in (self.root, pathlib.Path(self.server.state)):
            path = root / "allocated"
            path.write_bytes(b"f" * 20000)
            fd = os.open(path, os.O_RDWR)
            result = []
            for mode, offset, length in ((keep, 0, 100000), (punch | keep, 4096, 8192), (zero, 1000, 500),
                                         (zero | keep, 19000, 5000), (0, 30000, 1000), (zero, 40000, 10),
                                         (punch | keep, 100, 50)):
                code = LIBC.fallocate(fd, mode, offset, length)
                error = ctypes.get_errno() if code else 0
                result.append((mode, error, os.fstat(fd).st_size, hashlib.sha256(os.pread(fd, 60000, 0)).hexdigest()))
            result.append([os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 4096, os.SEEK_DATA)])
            results.append(result)
            if root == self.root:
                for mode in (collapse, insert):
                    self.assertEqual(LIBC.fallocate(fd, mode, 4096, 4096), -1)
                    self.assertEqual(ctypes.get_errno(), errno.EOPNOTSUPP)
                data = os.pread(fd, 60000, 0)
            os.close(fd)
            if root != self.root:
                os.unlink(path)
        self.assertEqual(*results)
        self.object_is("allocated", data)

    def test_copies(self):
        source, target = self.root / "from", self.root / "to"
        data = os.urandom(300_000)
        source.write_bytes(data)
        a, b = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
        done = 0
        while done < len(data):
            done += os.copy_file_range(a, b, len(data) - done, done, done)
        self.assertEqual(os.pread(b, len(data) + 1, 0), data)
        os.ftruncate(b, 0)
        os.lseek(b, 0, os.SEEK_SET)
        reader, writer = os.pipe()
        done = 0
        while done < len(data):
            n = os.splice(a, writer, min(65536, len(data) - done), offset_src=done)
            while n:
                m = os.splice(reader, b, n)
                n -= m
                done += m
        self.assertEqual(target.read_bytes(), data)
        os.ftruncate(b, 0)
        os.lseek(b, 0, os.SEEK_SET)
        done = 0
        while done < len(data):
            done += os.sendfile(b, a, done, len(data) - done)
        for fd in (a, b, reader, writer):
            os.close(fd)
        self.assertEqual(target.read_bytes(), data)
        self.object_is("to", data)

    def test_synchronous_opens_flush_the_log(self):
        """Of writes to an O_SYNC handle the daemon hears nothing: the name is durable before there can be one."""
        if not shutil.which("strace"):
            self.skipTest("strace is not installed")
        time.sleep(1)  # what earlier tests removed is flushed
        trace = self.root.parent / "trace"
        with open(trace, "wb") as out:
            tracer = subprocess.Popen(["strace", "-f", "-e", "trace=fdatasync", "-p", str(self.server.process.pid)],
                                      stderr=out)
        try:
            wait_until("strace", lambda: b"attached" in trace.read_bytes(), 60)
            os.close(os.open(self.root / "plain", os.O_WRONLY | os.O_CREAT))
            before = trace.read_bytes().count(b"fdatasync(")
            fd = os.open(self.root / "synced", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
            self.assertGreater(trace.read_bytes().count(b"fdatasync("), before)
            os.close(fd)
        finally:
            tracer.terminate()
            tracer.wait()
            trace.unlink()

    def test_sparse_file_of_terabytes(self):
        """Nobody waits for it but its own directory, and when it is removed nothing does."""
        (self.root / "vast").mkdir()
        with open(self.root / "vast" / "file", "wb") as file:
            file.truncate(15 << 40)
        time.sleep(1)
        (self.root / "beside").write_bytes(b"x")
        self.object_is("beside", b"x")
        self.assertEqual(self.server.run("status", str(self.server.config), check=False).returncode, 0)
        (self.root / "vast" / "file").unlink()
        (self.root / "vast" / "next").write_bytes(b"y")
        self.object_is("vast/next", b"y")
        self.server.flush()

    def test_exec(self):
        path = self.root / "true"
        shutil.copy("/bin/true", path)
        self.assertEqual(subprocess.run([path], check=False).returncode, 0)

    def test_maps(self):
        path = self.root / "mapped"
        path.write_bytes(b"a" * 10000)
        with open(path, "r+b") as file:
            with mmap.mmap(file.fileno(), 0) as shared, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as private:
                private[0:1] = b"p"
                shared[5000:5001] = b"s"
                file.seek(5000)
                self.assertEqual(os.pread(file.fileno(), 1, 5000), b"s")
                self.assertEqual(os.pread(file.fileno(), 1, 0), b"a")
                os.pwrite(file.fileno(), b"w", 9999)
                self.assertEqual(shared[9999:], b"w")
        self.assertEqual(path.read_bytes(), b"a" * 5000 + b"s" + b"a" * 4998 + b"w")
        self.object_is("mapped", path.read_bytes())

    def test_map_outlives_the_open_file(self):
        path = self.root / "outlives"
        path.write_bytes(b"a" * 10000)
        with open(path, "r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        # Python keeps a descriptor of its own; what is wanted is a mapping without one.
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}") == str(path):
                    os.close(int(name))
            except OSError:
                pass
        self.object_is("outlives", b"a" * 10000)
        before = os.stat(path).st_mtime_ns
        mapping[0:1] = b"b"
        self.object_is("outlives", b"b" + b"a" * 9999)
        # The page is writable by now: these leave no trace in its times before it is written back.
        mapping[1:3] = b"bb"
        self.assertEqual(path.read_bytes(), b"bbb" + b"a" * 9997)
        wait_until("a later mtime", lambda: os.stat(path).st_mtime_ns > before, 60)
        pages = (len(mapping) + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self.assertEqual(LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(pages)), 0)
        # The object must not unmap again what may be somebody else's by now.
        LIBC.mmap.restype = ctypes.c_void_p
        LIBC.mmap(ctypes.c_void_p(address), ctypes.c_size_t(pages), 0, 0x32, -1, ctypes.c_long(0))
        self.server.closed()  # the kept one is let go
        self.object_is("outlives", b"bbb" + b"a" * 9997)

    def test_nothing_stays_open(self):
        for n in range(50):
            (self.root / f"open{n}").write_bytes(b"x")
            with open(self.root / f"open{n}", "r+b") as file:
                file.write(b"y")
        self.server.closed()

    def test_opens_race(self):
        """An inode is in one mode whatever order opens and releases come in: no open fails."""
        path = self.root / "race"
        path.write_bytes(b"r" * 100)
        failed = []
        end = time.monotonic() + 1.5

        def work(seed):
            flags = (os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_APPEND)
            n = seed
            try:
                while time.monotonic() < end:
                    n += 1
                    fd = os.open(path, flags[n % len(flags)])
                    if n % len(flags):
                        os.pwrite(fd, b"q" * 100, 0)
                    os.close(fd)
            except OSError as error:
                failed.append(repr(error))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])

    def test_kill(self):
        path = self.root / "killed"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        data = b""
        for n in range(100):
            block = hashlib.sha256(str(n).encode()).digest() * 64
            os.write(fd, block)
            data += block
        self.server.kill()
        with self.assertRaises(OSError):
            os.close(fd)
        self.server.start()
        self.assertEqual(path.read_bytes(), data)
        self.object_is("killed", data)

    def test_written_through_a_dead_mount(self):
        """A program that keeps its file open over the death of the daemon still writes past it: that is not lost either."""
        path = self.root / "survivor"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"before\n")
        self.server.kill()
        self.assertEqual(os.write(fd, b"without a daemon\n"), 17)
        self.server.start()
        data = b"before\nwithout a daemon\n"
        self.assertEqual(path.read_bytes(), data)
        self.object_is("survivor", data)
        for n in range(2):
            self.assertEqual(os.write(fd, b"past the new one\n"), 17)
            data += b"past the new one\n"
            wait_until("it shows", lambda: path.read_bytes() == data, 60)
            self.object_is("survivor", data)
        os.write(fd, b"end\n")
        with self.assertRaises(OSError):
            os.fsync(fd)
        with self.assertRaises(OSError):
            os.close(fd)
        wait_until("it shows", lambda: path.read_bytes() == data + b"end\n", 60)
        self.object_is("survivor", data + b"end\n")

    def test_an_orderly_stop_between(self):
        """The same where the daemon after that one was stopped meanwhile."""
        path = self.root / "survivor2"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"before\n")
        self.server.kill()
        self.server.start()
        self.assertEqual(self.server.stop(), 0)
        os.write(fd, b"while nobody looks\n")
        self.server.start()
        self.assertEqual(path.read_bytes(), b"before\nwhile nobody looks\n")
        os.write(fd, b"and after that\n")
        with self.assertRaises(OSError):
            os.close(fd)
        data = b"before\nwhile nobody looks\nand after that\n"
        wait_until("it shows", lambda: path.read_bytes() == data, 60)
        self.object_is("survivor2", data)


class Off(Passthrough):
    PASSTHROUGH = "off"
    ON = False

    # What is stored in pages of this file system reaches the content when the kernel writes them back.
    test_map_outlives_the_open_file = None
    # The kernel asks for a flush after each write.
    test_synchronous_opens_flush_the_log = None
    # A handle of a dead mount reaches nothing.
    test_written_through_a_dead_mount = test_an_orderly_stop_between = None


class User(unittest.TestCase):
    """A daemon without CAP_SYS_ADMIN: the ordinary way, and it says why."""

    def test_ordinary_user(self):
        if not shutil.which("fusermount3") or not shutil.which("setpriv"):
            self.skipTest("fusermount3 or setpriv is not installed")
        world = World()
        try:
            root = pathlib.Path(tempfile.mkdtemp(prefix="user.", dir=world.dir))
            for path in (world.dir, root):
                os.chmod(path, 0o755)
            for name in ("state", "mnt", "bucket", "run"):
                (root / name).mkdir()
                os.chown(root / name, NOBODY, NOBODY)
            # The build directory may be below one that this user cannot enter.
            meridian = shutil.copy(shutil.which(MERIDIAN), root / "meridian")
            config = root / "m.conf"
            config.write_text(f"[volume]\nname = user\nstate_dir = {root}/state\nhome = a\n"
                              f'[region "a"]\nurl = file://{root}/bucket\n')
            # A device that this user may open, in a mount namespace of its own.
            device = f"{world.dir}/fuse"
            prepare = f"mknod {device} c 10 229 && chmod 666 {device} && mount --bind {device} /dev/fuse"
            steps = (f"{meridian} mount {config} {root}/mnt && echo text > {root}/mnt/f && cat {root}/mnt/f; "
                     f"{meridian} status {config}; {meridian} umount {root}/mnt")
            user = (f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups env HOME={root}/run "
                    f"XDG_RUNTIME_DIR={root}/run sh -c '{steps}'")
            run = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", f"{prepare} && {user}"],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)
            if "failed to open /dev/fuse" in run.stdout or "fusermount3: " in run.stdout:
                self.skipTest(f"a user cannot mount here: {run.stdout.strip()}")
            self.assertIn("text\n", run.stdout)
            self.assertIn("passthrough: off (no privileges", run.stdout)
        finally:
            world.close()


if __name__ == "__main__":
    if os.geteuid() != 0:
        skip("passthrough needs root")
    main()
