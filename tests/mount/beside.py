"""For tests that compare the mount with the file system below the temporary directory: the same operations on both must
give the same results. Operations run as any user."""
import ctypes
import errno
import os
import pathlib
import pickle
import signal
import stat
import unittest

from harness import World, skip

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A function of libc; raises OSError."""
    result = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def as_user(uid, gid, groups, function, *arguments, umask=0o022):
    """Runs function in a process of that user; returns its result, or the name of the errno it failed with."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.umask(umask)
            result = function(*arguments)
        except OSError as e:
            result = errno.errorcode[e.errno]
        except BaseException as e:  # the parent reports it
            result = f"failed: {e!r}"
        with os.fdopen(write_end, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        result = pickle.load(pipe)
    os.waitpid(child, 0)
    return result


def outcome(function, *arguments):
    """The result, or the name of the errno."""
    try:
        return function(*arguments)
    except OSError as e:
        return errno.errorcode[e.errno]


def mode(path):
    return oct(stat.S_IMODE(os.lstat(path).st_mode))


def owner(path):
    st = os.lstat(path)
    return f"{st.st_uid}:{st.st_gid} {oct(stat.S_IMODE(st.st_mode))}"


def open_to_all(world, *servers):
    """Lets other users reach the mounts, and returns an empty directory on the file system below."""
    world.dir.chmod(0o755)
    for server in servers:
        server.root.chmod(0o755)
    native = world.dir / "native"
    native.mkdir(exist_ok=True)
    return pathlib.Path(native)


class Beside(unittest.TestCase):
    """Two servers over two directories, and an empty directory on the file system below (native)."""

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        if os.geteuid() != 0:
            skip("needs root")
        regions = cls.world.directories("east", "west")
        cls.a = cls.world.server("a", regions, home="east")
        cls.b = cls.world.server("b", regions, home="west")
        cls.native = open_to_all(cls.world, cls.a, cls.b)
        cls.a.start()
        cls.b.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()


def filesystem_type(path):
    best = ("", "?")
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            left, right = line.split(" - ")
            point = left.split()[4]
            if (str(path) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
                best = (point, right.split()[0])
    return best[1]
