"""Calls and their corners, each done in a new directory of the mount and in one of the file system below: results and error
numbers are the same. What differs by intention (docs/posix.md) has tests of its own."""
import ctypes
import fcntl
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import time
import unittest

from harness import World, main, skip
from beside import as_user, call, libc, mode, open_to_all, outcome

AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
NOREPLACE, EXCHANGE = 1, 2
IN_MASK = 0xfff | 0x8000  # every event


def rename2(a, b, flags):
    return call("renameat2", AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags)


def linkat(a, b, flags, fd=AT_FDCWD):
    return call("linkat", fd, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags)


def with_open(path, flags, act, permissions=0o644):
    fd = os.open(path, flags, permissions)
    try:
        return act(fd)
    finally:
        os.close(fd)


def each(*functions):
    """What became of each."""
    return [outcome(f) for f in functions]


def touch(path, data=b""):
    path.write_bytes(data)
    return path


def scene(root):
    """A file f, a full directory d with d/x, an empty one e, a symlink l to f, one to nothing, one to d, one to itself."""
    touch(root / "f", b"text")
    (root / "d").mkdir()
    touch(root / "d/x", b"x")
    (root / "e").mkdir()
    os.symlink("f", root / "l")
    os.symlink("nothing", root / "dangling")
    os.symlink("d", root / "ld")
    os.symlink("loop", root / "loop")


def opens(r):
    scene(r)
    found = []
    for name in ("f", "f/", "d", "d/", "l", "l/", "dangling", "dangling/", "ld", "ld/", "loop", "new", "new/", "f/x", "nothing/x", "."):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_RDONLY | os.O_DIRECTORY,
                      os.O_RDONLY | os.O_NOFOLLOW, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_TRUNC,
                      os.O_RDWR | os.O_CREAT | os.O_DIRECTORY, os.O_WRONLY | os.O_APPEND | os.O_TRUNC):
            found.append((name, oct(flags), outcome(with_open, f"{r}/{name}", flags, lambda fd: stat.S_IFMT(os.fstat(fd).st_mode))))
            for made in ("new", "nothing"):
                if os.path.lexists(r / made):
                    os.unlink(r / made)
    return found


def renames(r):
    found = []
    names = ("f", "g", "d", "e", "l", "dangling", "d/x", "d/in", "nothing", "f/x", "e/", "new/", "d/.", "..", "f/", "hard")
    n = 0
    for flags in (0, NOREPLACE, EXCHANGE):
        for a in names:
            for b in names:
                root = r / str(n)
                n += 1
                root.mkdir()
                scene(root)
                touch(root / "g")
                os.link(root / "f", root / "hard")
                result = outcome(rename2, f"{root}/{a}", f"{root}/{b}", flags)
                found.append((a, b, flags, result, sorted(os.path.relpath(os.path.join(p, x), root) for p, ds, fs in os.walk(root) for x in ds + fs)))
                shutil.rmtree(root)
    return found


def removals(r):
    scene(r)
    found = []
    for name in ("d", "d/", "d/.", "e/.", "e/..", "f/", "l/", "ld/", "dangling/", "nothing", "f/x", "loop/x", "", "."):
        found.append((name, *each(lambda n=name: os.rmdir(f"{r}/{n}" if n else ""), lambda n=name: os.unlink(f"{r}/{n}" if n else ""))))
    found += each(lambda: os.rmdir(r / "ld"), lambda: os.unlink(r / "ld"), lambda: os.rmdir(r / "e/"), lambda: os.unlink(r / "l"))
    return found, sorted(os.listdir(r))


def makings(r):
    scene(r)
    found = []
    for name in ("f", "d", "l", "dangling", "loop", "new/", "new", "dangling/", "f/x", "nothing/x", ".", ".."):
        found.append((name, *each(lambda n=name: os.mkdir(f"{r}/{n}"), lambda n=name: os.symlink("t", f"{r}/{n}"),
                                  lambda n=name: os.mkfifo(f"{r}/{n}"), lambda n=name: linkat(r / "f", f"{r}/{n}", 0),
                                  lambda n=name: linkat(f"{r}/{n}", r / "linked", 0), lambda n=name: linkat(f"{r}/{n}", r / "followed", AT_SYMLINK_FOLLOW))))
        for made in ("linked", "followed"):
            if os.path.lexists(r / made):
                os.unlink(r / made)
    found += each(lambda: os.symlink("", r / "empty"), lambda: os.symlink("x" * 4095, r / "long"), lambda: os.symlink("x" * 4096, r / "longer"))
    return found, {n: (stat.S_IFMT(os.lstat(r / n).st_mode), os.lstat(r / n).st_size if os.path.islink(r / n) else None) for n in os.listdir(r)}


def links_by_descriptor(r):
    scene(r)
    fd = os.open(r / "f", os.O_RDONLY)
    path = os.open(r / "l", os.O_PATH | os.O_NOFOLLOW)
    found = each(lambda: linkat("", r / "by-fd", AT_EMPTY_PATH, fd), lambda: linkat(f"/proc/self/fd/{fd}", r / "by-proc", AT_SYMLINK_FOLLOW),
                 lambda: linkat("", r / "link-by-path", AT_EMPTY_PATH, path))
    os.unlink(r / "f")
    found += each(lambda: os.fstat(fd).st_nlink, lambda: os.readlink("", dir_fd=path), lambda: os.fstat(path).st_nlink)
    os.close(fd)
    os.close(path)
    return found, sorted(os.listdir(r))


def path_handles(r):
    """O_PATH handles of directories and special files that are removed."""
    scene(r)
    os.mkfifo(r / "fifo")
    found = []
    for name in ("e", "fifo"):
        fd = os.open(r / name, os.O_PATH | os.O_NOFOLLOW)
        if name == "e":
            os.rmdir(r / name)
        else:
            os.unlink(r / name)
        found.append((name, outcome(lambda fd=fd: (os.fstat(fd).st_nlink, stat.S_IFMT(os.fstat(fd).st_mode)))))
        os.close(fd)
    return found


def file_positions(r):
    touch(r / "f", b"0123456789")
    found = []
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND):
        fd = os.open(r / "f", flags)
        found += [oct(flags), *each(lambda: os.read(fd, 3), lambda: os.write(fd, b"ab"), lambda: os.lseek(fd, 0, os.SEEK_CUR),
                                    lambda: os.pread(fd, 5, 8), lambda: os.pwrite(fd, b"Z", 1), lambda: os.lseek(fd, -3, os.SEEK_END),
                                    lambda: os.lseek(fd, -1, os.SEEK_SET), lambda: os.pread(fd, 1, -1), lambda: os.pwrite(fd, b"", 50),
                                    lambda: os.lseek(fd, 100, os.SEEK_SET), lambda: os.read(fd, 1), lambda: os.lseek(fd, 0, os.SEEK_DATA),
                                    lambda: os.lseek(fd, 1000, os.SEEK_DATA), lambda: os.lseek(fd, 1000, os.SEEK_HOLE), lambda: os.lseek(fd, 1, 17),
                                    lambda: os.ftruncate(fd, -1), lambda: os.ftruncate(fd, 12), lambda: os.fstat(fd).st_size,
                                    lambda: os.pwrite(fd, b"x", (1 << 44) + 5), lambda: os.pwrite(fd, b"x", (1 << 63) - 2),
                                    lambda: os.ftruncate(fd, 1 << 62), lambda: os.posix_fallocate(fd, 0, 0), lambda: os.posix_fallocate(fd, -1, 5),
                                    lambda: call("fallocate", fd, 64, ctypes.c_long(0), ctypes.c_long(4096)) if flags == os.O_RDONLY else None,
                                    lambda: os.fsync(fd), lambda: os.fdatasync(fd))]
        os.close(fd)
    return found, (r / "f").read_bytes()


def truncations(r):
    scene(r)
    os.mkfifo(r / "fifo")
    return each(lambda: os.truncate(r / "d", 0), lambda: os.truncate(r / "nothing", 0), lambda: os.truncate(r / "dangling", 0), lambda: os.truncate(r / "fifo", 0),
                lambda: os.truncate(r / "l", 2), lambda: os.truncate(r / "loop", 0), lambda: os.truncate(r / "f", -1), lambda: os.truncate(f"{r}/f/", 0),
                lambda: with_open(r / "f", os.O_RDONLY, lambda fd: os.ftruncate(fd, 0)), lambda: (r / "f").read_bytes())


def flags_change(r):
    """O_APPEND, set and cleared by fcntl; a single write that appends, that is synchronous."""
    path = touch(r / "f", b"0123456789")
    fd = os.open(path, os.O_RDWR)
    found = []
    os.pwrite(fd, b"A", 0)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    found += [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND, os.write(fd, b"end"), os.lseek(fd, 0, os.SEEK_CUR), os.pwrite(fd, b"X", 0)]
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.lseek(fd, 2, os.SEEK_SET)
    found += [os.write(fd, b"BB"), path.read_bytes()]
    found += each(lambda: os.pwritev(fd, [b"more"], 0, os.RWF_APPEND), lambda: os.pwritev(fd, [b"sync"], 0, os.RWF_DSYNC), lambda: os.pwritev(fd, [b"both"], 1, os.RWF_SYNC),
                  lambda: os.pwritev(fd, [b"x"], 0, 1 << 20))
    os.close(fd)
    return found, path.read_bytes()


def size_limit(r):
    """RLIMIT_FSIZE: the signal, the error, the short write."""
    def within():
        signal.signal(signal.SIGXFSZ, lambda *_: found.append("SIGXFSZ"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        path = r / "f"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        found.extend(each(lambda: os.write(fd, b"x" * 8000), lambda: os.write(fd, b"y" * 8000), lambda: os.write(fd, b"z"),
                          lambda: os.pwrite(fd, b"z", 20000), lambda: os.ftruncate(fd, 10001), lambda: os.ftruncate(fd, 10000),
                          lambda: os.truncate(path, 20000), lambda: os.posix_fallocate(fd, 0, 20000), lambda: os.fstat(fd).st_size))
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        found.extend(each(lambda: os.write(fd, b"z")))
        os.close(fd)
        return found
    found = []
    return as_user(0, 0, [], within)


def mappings(r):
    path = touch(r / "f", b"a" * 5000)
    fd = os.open(path, os.O_RDWR)
    found = []
    with mmap.mmap(fd, 5000, mmap.MAP_SHARED) as m:
        m[4999:5000] = b"E"
        os.ftruncate(fd, 4096)
        os.ftruncate(fd, 5000)
        found.append(m[4096:5000] == b"\0" * 904)
        found += each(lambda: m.madvise(mmap.MADV_DONTNEED), lambda: m.madvise(9, 0, 4096), lambda: m[0:3])  # 9: MADV_REMOVE
    os.close(fd)
    for flags, prot in ((os.O_RDONLY, mmap.PROT_WRITE), (os.O_WRONLY, mmap.PROT_READ), (os.O_RDONLY, mmap.PROT_READ), (os.O_RDWR | os.O_APPEND, mmap.PROT_WRITE)):
        found.append(outcome(with_open, path, flags, lambda fd, p=prot: mmap.mmap(fd, 100, mmap.MAP_SHARED, p).close()))

    def beyond():
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            fd = os.open(path, os.O_RDWR)
            m = mmap.mmap(fd, 5000)
            os.ftruncate(fd, 0)
            m[0:1] = b"x"
            os._exit(0)
        return os.WTERMSIG(os.waitpid(pid, 0)[1])
    found.append(beyond())
    return found, path.read_bytes()


def advice(r):
    path = touch(r / "f", b"a" * 100000)
    return [with_open(path, os.O_RDWR, lambda fd: each(
        *(lambda a=a: os.posix_fadvise(fd, 0, 0, a) for a in range(6)), lambda: call("readahead", fd, ctypes.c_long(0), ctypes.c_long(100000)),
        lambda: call("sync_file_range", fd, ctypes.c_long(0), ctypes.c_long(0), 7), lambda: call("syncfs", fd)))]


def removed_directory(r):
    """From inside a directory that is gone."""
    (r / "gone/sub").mkdir(parents=True)

    def inside():
        os.chdir(r / "gone/sub")
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(r / "gone/sub")
        found = each(lambda: os.listdir("."), lambda: os.mkdir("x"), lambda: os.open("x", os.O_CREAT | os.O_WRONLY), lambda: os.symlink("a", "b"),
                     lambda: os.stat(".").st_nlink, lambda: os.rename(r / "f", "f"), lambda: os.getcwd(), lambda: os.listdir(fd),
                     lambda: os.stat("x"), lambda: os.chmod(".", 0o700), lambda: stat.S_IMODE(os.fstat(fd).st_mode), lambda: os.utime(fd),
                     lambda: os.path.samefile("..", r / "gone"), lambda: os.fsync(fd))
        os.chdir("/")
        return found
    touch(r / "f")
    return as_user(0, 0, [], inside)


def unlinked_file(r):
    """All that can be done with a descriptor only."""
    path = touch(r / "f", b"text")
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    found = each(lambda: os.fchmod(fd, 0o4711), lambda: oct(os.fstat(fd).st_mode), lambda: os.fchown(fd, 7, 8), lambda: (os.fstat(fd).st_uid, os.fstat(fd).st_gid),
                 lambda: os.utime(fd, ns=(5, 6)), lambda: os.fstat(fd).st_mtime_ns, lambda: os.setxattr(fd, "user.a", b"b"), lambda: os.getxattr(fd, "user.a"),
                 lambda: os.listxattr(fd), lambda: os.removexattr(fd, "user.a"), lambda: os.ftruncate(fd, 100000), lambda: os.posix_fallocate(fd, 0, 200000),
                 lambda: os.fsync(fd), lambda: os.fstat(fd).st_size, lambda: os.fstat(fd).st_nlink,
                 lambda: with_open(f"/proc/self/fd/{fd}", os.O_RDONLY, lambda again: os.read(again, 4)),
                 lambda: os.truncate(f"/proc/self/fd/{fd}", 2), lambda: os.fstat(fd).st_size, lambda: mmap.mmap(fd, 2)[0:2],
                 lambda: os.pwrite(fd, b"late", 10), lambda: os.pread(fd, 20, 0))
    os.close(fd)
    return found, os.listdir(r)


def listings(r):
    """What a listing says of each name is what stat says."""
    scene(r)
    os.mkfifo(r / "fifo")
    call("mknod", os.fsencode(r / "sock"), stat.S_IFSOCK | 0o600, 0)
    call("mknod", os.fsencode(r / "null"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    found = []
    with os.scandir(r) as entries:
        for entry in entries:
            found.append((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False), entry.is_symlink(),
                          entry.inode() == os.lstat(entry.path).st_ino))
    fd = os.open(r / "d", os.O_RDONLY)
    found.append(each(lambda: os.read(fd, 10), lambda: os.pread(fd, 10, 0), lambda: os.ftruncate(fd, 0), lambda: os.write(fd, b"x"), lambda: os.fsync(fd)))
    os.close(fd)
    return sorted(map(str, found))


def events(r):
    """inotify: the same events in the same order."""
    (r / "w").mkdir()
    path = r / "w/f"
    touch(path, b"text")
    fd = libc.inotify_init1(os.O_NONBLOCK)
    watches = {call("inotify_add_watch", fd, os.fsencode(r / "w"), IN_MASK): "w", call("inotify_add_watch", fd, os.fsencode(path), IN_MASK): "f"}
    touch(path, b"more")
    with_open(path, os.O_RDWR | os.O_APPEND, lambda f: (os.write(f, b"x"), os.read(f, 1), os.ftruncate(f, 1), os.pread(f, 1, 0)))
    path.read_bytes()
    os.chmod(path, 0o600)
    os.utime(path, (1, 2))
    os.setxattr(path, "user.a", b"b")
    os.rename(path, r / "w/g")
    os.link(r / "w/g", r / "w/h")
    os.truncate(r / "w/g", 0)
    touch(r / "out")
    os.rename(r / "out", r / "w/h")
    (r / "w/d").mkdir()
    os.symlink("a", r / "w/s")
    os.listdir(r / "w/d")
    os.rmdir(r / "w/d")
    os.unlink(r / "w/g")
    os.unlink(r / "w/h")
    os.unlink(r / "w/s")
    os.rmdir(r / "w")
    found, data = [], b""
    while select.select([fd], [], [], 0.1)[0]:
        data += os.read(fd, 65536)
    os.close(fd)
    while data:
        watch, mask, _, length = struct.unpack_from("iIII", data)
        found.append((watches.get(watch, watch), hex(mask), data[16:16 + length].rstrip(b"\0")))
        data = data[16 + length:]
    return found


def leases(r):
    path = touch(r / "f", b"text")

    def lease(flags, kind):
        return outcome(with_open, path, flags, lambda fd: fcntl.fcntl(fd, fcntl.F_SETLEASE, kind))
    return [lease(os.O_RDONLY, fcntl.F_RDLCK), lease(os.O_RDONLY, fcntl.F_WRLCK), lease(os.O_RDWR, fcntl.F_WRLCK), lease(os.O_RDWR, fcntl.F_RDLCK)]


def record_locks(r):
    """What F_GETLK says, a deadlock, and that any close of the process lets go."""
    path = touch(r / "f", b"x" * 100)
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)

    def other():
        fd = os.open(path, os.O_RDWR)
        kind, _, start, length, _ = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))
        return kind, start, length, *each(lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 25), lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 30))
    found = [as_user(0, 0, [], other)]
    os.close(os.open(path, os.O_RDONLY))
    found.append(as_user(0, 0, [], other))
    os.close(fd)
    ready, back = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
        os.write(ready[1], b"1")
        os.read(back[0], 1)
        code = outcome(fcntl.lockf, fd, fcntl.LOCK_EX, 1, 0)  # waits for the parent, or is the one that deadlocks
        os._exit(35 if code == "EDEADLK" else 0)
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
    os.read(ready[0], 1)
    os.write(back[1], b"1")
    time.sleep(0.1)
    ours = outcome(fcntl.lockf, fd, fcntl.LOCK_EX, 1, 1)
    os.close(fd)
    theirs = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # Whoever asks last: mostly it is us.
    found.append((ours == "EDEADLK") + (theirs == 35))
    return found


def sockets(r):
    """Bound, connected through another name, gone."""
    path = str(r / "s")
    server, client, other = (socket.socket(socket.AF_UNIX) for _ in range(3))
    short = f"/proc/self/fd/{os.open(r, os.O_RDONLY)}"
    found = each(lambda: server.bind(f"{short}/s"), lambda: other.bind(f"{short}/s"), lambda: other.connect(f"{short}/s"),
                 server.listen, lambda: os.rename(path, r / "t"), lambda: client.connect(f"{short}/t"))
    peer = server.accept()[0]
    client.sendall(b"through")
    found += [peer.recv(10), stat.S_ISSOCK(os.lstat(r / "t").st_mode), *each(lambda: os.open(r / "t", os.O_RDONLY))]
    for s in (server, client, peer):
        s.close()
    found += each(lambda: other.connect(f"{short}/t"), lambda: os.unlink(r / "t"), lambda: other.connect(f"{short}/t"))
    other.close()
    os.close(int(short.rsplit("/", 1)[1]))
    return found


def fifos(r):
    """Between two processes, and the errors of a FIFO without a reader."""
    path = r / "p"
    os.mkfifo(path)
    found = each(lambda: os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    pid = os.fork()
    if pid == 0:
        with open(path, "wb") as f:
            f.write(b"x" * 200000)
        os._exit(0)
    with open(path, "rb") as f:
        found.append(len(f.read()))
    os.waitpid(pid, 0)
    found += [os.stat(path).st_size, *each(lambda: with_open(path, os.O_RDWR | os.O_NONBLOCK, lambda fd: os.lseek(fd, 0, os.SEEK_SET)),
                                           lambda: with_open(path, os.O_RDWR, lambda fd: os.fsync(fd)))]
    return found


def devices(r):
    call("mknod", os.fsencode(r / "zero"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
    call("mknod", os.fsencode(r / "none"), stat.S_IFBLK | 0o666, os.makedev(120, 200))
    found = each(lambda: with_open(r / "zero", os.O_RDONLY, lambda fd: os.read(fd, 4)), lambda: os.open(r / "none", os.O_RDONLY), lambda: os.stat(r / "zero").st_rdev, lambda: os.stat(r / "none").st_rdev)
    found.append(as_user(1000, 1000, [], call, "mknod", os.fsencode(r / "mine"), stat.S_IFCHR | 0o666, os.makedev(1, 5)))
    return found


def attribute_errors(r):
    scene(r)
    path = r / "f"
    os.setxattr(path, "user.a", b"12345")

    def get(name, room):
        buffer = ctypes.create_string_buffer(max(room, 1))
        return call("getxattr", os.fsencode(path), os.fsencode(name), buffer, room)

    def listed(room):
        return call("listxattr", os.fsencode(path), ctypes.create_string_buffer(max(room, 1)), room)
    return each(lambda: get("user.a", 0), lambda: get("user.a", 3), lambda: get("user.a", 5), lambda: get("user.none", 5), lambda: listed(0), lambda: listed(3), lambda: listed(7),
                lambda: os.setxattr(path, "user.", b""), lambda: os.setxattr(path, "user", b""), lambda: os.setxattr(path, "", b""), lambda: os.setxattr(path, "user." + "n" * 250, b"x"),
                lambda: os.setxattr(path, "user." + "n" * 251, b"x"), lambda: os.setxattr(path, "user.a", b"x", os.XATTR_CREATE), lambda: os.setxattr(path, "user.b", b"x", os.XATTR_REPLACE),
                lambda: os.setxattr(path, "user.c", b""), lambda: os.getxattr(path, "user.c"), lambda: os.setxattr(path, "user.a", b"x" * 65537), lambda: os.removexattr(path, "user.none"),
                lambda: os.setxattr(path, "nonsense", b""), lambda: os.setxattr(r / "l", "user.x", b"", follow_symlinks=False), lambda: os.listxattr(r / "l", follow_symlinks=False),
                lambda: os.setxattr(r / "d", "user.x", b"y"), lambda: os.getxattr(r / "d", "user.x"), lambda: os.getxattr(r / "d", "system.posix_acl_default"),
                lambda: os.setxattr(path, "system.nonsense", b"y"), lambda: os.getxattr(path, "system.nonsense"))


def modes_of_links(r):
    scene(r)
    os.lchown(r / "l", 5, 6)
    return each(lambda: os.chmod(r / "l", 0o600), lambda: mode(r / "f"), lambda: os.lstat(r / "l").st_uid, lambda: os.stat(r / "f").st_uid, lambda: os.chmod(r / "dangling", 0o600),
                lambda: call("fchmodat", AT_FDCWD, os.fsencode(r / "l"), 0o600, 0x100), lambda: os.chmod(r / "f", 0o7777), lambda: mode(r / "f"), lambda: os.chmod(r / "d", 0o7777),
                lambda: mode(r / "d"), lambda: as_user(1000, 1000, [], os.chmod, r / "f", 0o600), lambda: with_open(r / "l", os.O_PATH, lambda fd: os.fchmod(fd, 0o600)),
                lambda: with_open(r / "f", os.O_PATH, lambda fd: os.read(fd, 1)))


def asynchronous(r):
    """splice and tee through pipes, vectors, a write larger than any request."""
    path = touch(r / "f")
    data = os.urandom(3 << 20)
    fd = os.open(path, os.O_RDWR)
    found = [os.write(fd, data), os.pread(fd, 4 << 20, 0) == data]
    found.append(os.pwritev(fd, [data[:100]] * 500, 7))
    parts = [bytearray(1000) for _ in range(100)]
    found += [os.preadv(fd, parts, 7), b"".join(parts) == (data[:100] * 1000)[:50000] + data[50007:100007]]
    a, b = os.pipe()
    found += [os.splice(fd, b, 5000, offset_src=100), len(os.read(a, 5000)), os.write(b, b"spliced"), os.splice(a, fd, 7, offset_dst=0), os.pread(fd, 7, 0)]
    for n in (fd, a, b):
        os.close(n)
    return found


def copies(r):
    a, b = os.open(touch(r / "a", os.urandom(100000)), os.O_RDWR), os.open(touch(r / "b"), os.O_RDWR)
    appending = os.open(r / "b", os.O_WRONLY | os.O_APPEND)
    reading = os.open(r / "b", os.O_RDONLY)
    found = each(lambda: os.copy_file_range(a, b, 100, 99990, 0), lambda: os.copy_file_range(a, b, 100, 200000, 0), lambda: os.copy_file_range(a, a, 100, 0, 50),
                 lambda: os.copy_file_range(a, a, 100, 0, 200), lambda: os.copy_file_range(a, appending, 10, 0), lambda: os.copy_file_range(a, reading, 10, 0),
                 lambda: os.copy_file_range(a, b, 0, 0, 0), lambda: os.fstat(b).st_size)
    for fd in (a, b, appending, reading):
        os.close(fd)
    with open(r / "pairs", "wb+") as f:
        f.write(b"x" * 4096)
        f.flush()
        found += each(lambda: os.copy_file_range(f.fileno(), f.fileno(), 4096, 0, 4096), lambda: os.fstat(f.fileno()).st_size)
    return found


def access_checks(r):
    """What search, read and write permissions of directories allow a user."""
    (r / "dir").mkdir()
    touch(r / "dir/f", b"x")
    found = []
    for bits in range(8):
        os.chmod(r / "dir", 0o700 | bits)
        found.append(as_user(1000, 1000, [], each_in, str(r / "dir"), bits))
    os.chmod(r / "dir", 0o755)
    return found


def each_in(path, bits):
    return bits, *each(lambda: os.listdir(path), lambda: os.stat(f"{path}/f").st_size, lambda: os.open(f"{path}/n", os.O_CREAT | os.O_WRONLY) and None, lambda: os.unlink(f"{path}/n"),
                       lambda: os.chdir(path), lambda: os.rename(f"{path}/f", f"{path}/f"), lambda: os.access(path, os.W_OK | os.X_OK), lambda: os.readlink(f"{path}/f"))


def counts(r):
    """Hard links: the count everywhere, and what is shared."""
    touch(r / "f", b"x")
    for n in range(300):
        os.link(r / "f", r / f"n{n}")
    os.chmod(r / "n7", 0o640)
    with_open(r / "n8", os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"yz"))
    os.setxattr(r / "n9", "user.x", b"y")
    found = {(os.stat(p).st_ino == os.stat(r / "f").st_ino, os.stat(p).st_nlink, mode(p), p.read_bytes(), os.getxattr(p, "user.x")) for p in r.iterdir()}
    for n in range(300):
        os.unlink(r / f"n{n}")
    return found, os.stat(r / "f").st_nlink


CALLS = [opens, renames, removals, makings, links_by_descriptor, path_handles, file_positions, truncations, flags_change, size_limit, mappings, advice, removed_directory,
         unlinked_file, listings, events, leases, record_locks, sockets, fifos, devices, attribute_errors, modes_of_links, asynchronous, copies, access_checks, counts]


class Calls(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        if os.geteuid() != 0:
            skip("needs root")
        cls.a = cls.world.server("a", cls.world.directories("east"))
        cls.native = open_to_all(cls.world, cls.a)
        cls.a.start(options=("-o", "dev"))

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def test_each_as_below(self):
        for function in CALLS:
            with self.subTest(function.__name__):
                results = []
                for root in (self.a.mount / function.__name__, self.native / function.__name__):
                    root.mkdir()
                    root.chmod(0o755)
                    results.append(outcome(function, root))
                if isinstance(results[0], list) and isinstance(results[1], list) and len(results[0]) == len(results[1]):
                    self.assertEqual([(n, a, b) for n, (a, b) in enumerate(zip(*results)) if a != b], [], "number, ours, below")
                self.assertEqual(results[0], results[1])
        self.a.flush()


if __name__ == "__main__":
    main()
