"""Times: which of atime, mtime and ctime each call changes, beside the file system below; dates far away, here and on
another server; access times by relatime."""
import mmap
import os
import time

from harness import main, wait_until
from beside import Beside, outcome

SECOND = 10 ** 9
DATES = [0, 1, -1, -SECOND - 1, -5_000_000_123_456_789, 2 ** 31 * SECOND, 2 ** 31 * SECOND - 1, 2 ** 32 * SECOND + 999_999_999,
         9_000_000_000 * SECOND + 7, 1_700_000_000_123_456_789]


def written(path, flags, data=b"data", offset=None):
    fd = os.open(path, flags)
    os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    os.close(fd)


def through_mapping(path):
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 4) as m:
        m[0:1] = b"X"
        m.flush()


def truncated(path, size):
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, size)
    os.close(fd)


def unlinked_open(root):
    fd = os.open(root / "f", os.O_RDONLY)
    os.unlink(root / "f")
    os.close(fd)


# Each starts with a file f of 4 bytes, another g, an empty directory d, a full one e (with e/x), a symlink l; all of their
# times are long ago. What is looked at afterwards: ".", d, e, f, g, l, as far as they are there.
OPERATIONS = {
    "nothing": lambda r: None,
    "create": lambda r: (r / "new").touch(),
    "create in d": lambda r: (r / "d/new").touch(),
    "open O_CREAT of an existing one": lambda r: os.close(os.open(r / "f", os.O_CREAT | os.O_WRONLY)),
    "write": lambda r: written(r / "f", os.O_WRONLY),
    "write of nothing": lambda r: written(r / "f", os.O_WRONLY, b""),
    "write at an offset": lambda r: written(r / "f", os.O_WRONLY, offset=5000),
    "append": lambda r: written(r / "f", os.O_WRONLY | os.O_APPEND),
    "O_TRUNC": lambda r: os.close(os.open(r / "f", os.O_WRONLY | os.O_TRUNC)),
    "O_TRUNC of an empty one": lambda r: os.close(os.open(r / "g", os.O_WRONLY | os.O_TRUNC)),
    "truncate": lambda r: os.truncate(r / "f", 1),
    "truncate to the same size": lambda r: os.truncate(r / "f", 4),
    "truncate up": lambda r: os.truncate(r / "f", 9999),
    "ftruncate to the same size": lambda r: truncated(r / "f", 4),
    "fallocate": lambda r: _fallocate(r / "f"),
    "mmap": lambda r: through_mapping(r / "f"),
    "chmod": lambda r: os.chmod(r / "f", 0o600),
    "chmod to the same": lambda r: os.chmod(r / "f", 0o644),
    "chmod of d": lambda r: os.chmod(r / "d", 0o700),
    "chown": lambda r: os.chown(r / "f", 5, 5),
    "chown -1 -1": lambda r: os.chown(r / "f", -1, -1),
    "lchown of l": lambda r: os.lchown(r / "l", 5, 5),
    "link": lambda r: os.link(r / "f", r / "d/f2"),
    "unlink": lambda r: os.unlink(r / "f"),
    "unlink while open": unlinked_open,
    "rename": lambda r: os.rename(r / "f", r / "f2"),
    "rename to d": lambda r: os.rename(r / "g", r / "d/g"),
    "rename over": lambda r: os.rename(r / "g", r / "f"),
    "rename of e": lambda r: os.rename(r / "e", r / "e2"),
    "rename of e to d": lambda r: os.rename(r / "e", r / "d/e"),
    "rename to itself": lambda r: os.rename(r / "f", r / "f"),
    "mkdir": lambda r: (r / "d/n").mkdir(),
    "rmdir": lambda r: (r / "d").rmdir(),
    "rmdir of a full one": lambda r: outcome((r / "e").rmdir),
    "symlink": lambda r: os.symlink("x", r / "d/l"),
    "mknod": lambda r: os.mknod(r / "d/n", 0o644),
    "setxattr": lambda r: os.setxattr(r / "f", "user.x", b"y"),
    "setxattr of d": lambda r: os.setxattr(r / "d", "user.x", b"y"),
    "utime": lambda r: os.utime(r / "f"),
    "utime to dates": lambda r: os.utime(r / "f", ns=(12345, 67890)),
    "utime of d": lambda r: os.utime(r / "d", ns=(12345, 67890)),
    "utime of l": lambda r: os.utime(r / "l", ns=(12345, 67890), follow_symlinks=False),
    "utimensat OMIT atime": lambda r: _utimensat(r / "f", UTIME_OMIT, 42),
    "utimensat OMIT mtime": lambda r: _utimensat(r / "f", 42, UTIME_OMIT),
    "utimensat OMIT both": lambda r: _utimensat(r / "f", UTIME_OMIT, UTIME_OMIT),
    "utimensat NOW atime": lambda r: _utimensat(r / "f", UTIME_NOW, UTIME_OMIT),
    "utimensat NOW mtime": lambda r: _utimensat(r / "f", UTIME_OMIT, UTIME_NOW),
    "utimensat NOW both": lambda r: _utimensat(r / "f", UTIME_NOW, UTIME_NOW),
    "write, then utime": lambda r: (written(r / "f", os.O_WRONLY), os.utime(r / "f", ns=(1, 2))),
    "utime, then write": lambda r: (os.utime(r / "f", ns=(1, 2)), written(r / "f", os.O_WRONLY)),
    "read": lambda r: (r / "f").read_bytes(),
    "read of an older one": lambda r: (os.utime(r / "f", ns=(5, 9)), (r / "f").read_bytes()),
    "list": lambda r: os.listdir(r / "e"),
    "readlink": lambda r: os.readlink(r / "l"),
    "open O_NOATIME": lambda r: _read_noatime(r / "f"),
    "stat": lambda r: os.stat(r / "f"),
    "access": lambda r: os.access(r / "f", os.R_OK),
}

UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def _utimensat(path, atime, mtime):
    """Nanoseconds, or one of the two above."""
    import ctypes
    from beside import call

    class Time(ctypes.Structure):
        _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]

    call("utimensat", -100, os.fsencode(path), (Time * 2)(Time(0, atime), Time(0, mtime)), 0)


def _fallocate(path):
    fd = os.open(path, os.O_WRONLY)
    os.posix_fallocate(fd, 0, 100)
    os.close(fd)


def _read_noatime(path):
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    os.read(fd, 10)
    os.close(fd)


def stamps(path):
    st = os.lstat(path)
    return st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns


class Times(Beside):
    maxDiff = None

    @staticmethod
    def scene(root):
        (root / "d").mkdir(parents=True)
        (root / "e").mkdir()
        (root / "e/x").touch()
        (root / "f").write_bytes(b"text")
        (root / "g").touch()
        os.symlink("nowhere", root / "l")
        for path in (root / "e/x", root / "d", root / "e", root / "f", root / "g", root / "l", root):
            os.utime(path, ns=(2 * SECOND, 3 * SECOND), follow_symlinks=False)

    @staticmethod
    def look(root):
        paths = (".", "d", "e", "f", "g", "l", "f2", "e2", "d/g", "d/e")
        return {p: stamps(root / p) for p in paths if os.path.lexists(root / p)}

    def changed(self, before, after, start):
        """For each file and each time: kept, now, or the value."""
        result = {}
        for path, times in after.items():
            old = before.get({"f2": "f", "e2": "e", "d/g": "g", "d/e": "e"}.get(path, path), (0, 0, 0))
            result[path] = tuple("kept" if new == was else "now" if new >= start else new for new, was in zip(times, old))
        return result

    def test_each_call_as_below(self):
        different = {}
        for name, operation in OPERATIONS.items():
            found = []
            for root in (self.a.mount, self.native):
                root = root / name.replace(" ", "-")
                self.scene(root)
                before = self.look(root)
                start = time.time_ns() - 10_000_000  # the clock of a file system ticks
                time.sleep(0.012)
                result = outcome(operation, root)
                failed = result if isinstance(result, str) else None
                found.append((failed, self.changed(before, self.look(root), start)))
            if found[0] != found[1]:
                different[name] = [{p: (found[0][1].get(p), found[1][1].get(p)) for p in {*found[0][1], *found[1][1]}
                                    if found[0][1].get(p) != found[1][1].get(p)}, found[0][0], found[1][0]]
        self.assertEqual(different, {}, "ours, below (atime, mtime, ctime)")

    def test_dates_far_away_reach_the_other_server(self):
        small, large, directory = (self.a.mount / f"dates-{kind}" for kind in ("small", "large", "directory"))
        for root in (small, large, directory):
            root.mkdir()
        for n, date in enumerate(DATES):
            (small / str(n)).write_text("x")
            (large / str(n)).write_bytes(b"x" * 70_000)
            (directory / str(n)).mkdir()
            os.symlink("x", small / f"l{n}")
            for path in (small / str(n), large / str(n), directory / str(n), small / f"l{n}"):
                os.utime(path, ns=(date, date), follow_symlinks=False)
                self.assertEqual(os.lstat(path).st_mtime_ns, date)
                self.assertEqual(os.lstat(path).st_atime_ns, date)
        self.a.flush()

        def there():
            return [(path, os.lstat(self.b.mount / path).st_mtime_ns) for path in wanted
                    if os.path.lexists(self.b.mount / path)]

        wanted = {f"dates-{kind}/{prefix}{n}": date for n, date in enumerate(DATES)
                  for kind, prefix in (("small", ""), ("small", "l"), ("large", ""), ("directory", ""))}
        wait_until(lambda: f"the dates: {set(wanted.items()) ^ set(there())}",
                   lambda: dict(there()) == wanted, 60)
        for n in range(len(DATES)):
            (self.b.mount / f"dates-large/{n}").read_bytes()
        self.assertEqual(dict(there()), wanted)
        self.a.kill()
        self.a.start()
        self.assertEqual({p: os.lstat(self.a.mount / p).st_mtime_ns for p in wanted}, wanted)

    def test_status_time_is_the_clocks(self):
        directory, file = self.a.mount / "changed", self.a.mount / "ahead"
        directory.mkdir()
        (directory / "x").touch()
        for change in (lambda: directory.chmod(0o700), lambda: os.setxattr(directory, "user.x", b"x")):
            time.sleep(0.02)
            start = time.time_ns() - 10_000_000
            change()
            st = os.stat(directory)
            self.assertLess(st.st_mtime_ns, start, "the names did not change")
            self.assertGreaterEqual(st.st_ctime_ns, start)
        changed = os.stat(directory).st_ctime_ns
        self.a.flush()
        self.assertEqual(os.stat(directory).st_ctime_ns, changed)
        with open(file, "w") as f:
            f.write("x")
            f.flush()
            os.utime(file, (4_000_000_000, 4_000_000_000))
            self.assertLessEqual(os.fstat(f.fileno()).st_ctime_ns, time.time_ns())
        self.assertEqual(os.stat(file).st_mtime, 4_000_000_000)
        self.assertLessEqual(os.stat(file).st_ctime_ns, time.time_ns())
        self.a.flush()
        self.assertLessEqual(os.stat(file).st_ctime_ns, time.time_ns())

    def test_access_times(self):
        path = self.a.mount / "accessed"
        path.write_text("x")
        day = 86400 * SECOND
        now = time.time_ns()

        def after(atime, mtime):
            os.utime(path, ns=(atime, mtime))
            os.setxattr(path, "user.x", b"x")  # ctime is now
            with open(path, "rb") as f:
                f.read()
            return os.stat(path).st_atime_ns

        self.assertGreaterEqual(after(now - 2 * day, now - day), now)
        first = os.stat(path).st_atime_ns
        with open(path, "rb") as f:
            f.read()
        self.assertEqual(os.stat(path).st_atime_ns, first, "a second read changes nothing")
        written(path, os.O_WRONLY)
        time.sleep(0.02)
        with open(path, "rb") as f:
            f.read()
        self.assertGreater(os.stat(path).st_atime_ns, first, "one after a change does")
        last = os.stat(path).st_atime_ns
        self.assertEqual(self.a.stop(), 0)
        self.a.start()
        self.assertEqual(os.stat(path).st_atime_ns, last)
        rows = self.a.status()["journal_rows"]
        with open(path, "rb") as f:
            f.read()
        self.assertEqual(self.a.status()["journal_rows"], rows)
        self.assertEqual(self.a.stop(), 0)
        self.a.start(options=["-o", "noatime"])
        os.utime(path, ns=(5, now))
        with open(path, "rb") as f:
            f.read()
        self.assertEqual(os.stat(path).st_atime_ns, 5)


if __name__ == "__main__":
    main()
