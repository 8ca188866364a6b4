"""What the kernel builds on files: loop devices, bind mounts, overlays, locks, many open files; and files that go away while
they are open, here and through another server."""
import fcntl
import multiprocessing
import os
import resource
import shutil
import struct
import subprocess
import time
import unittest

from harness import main, wait_until
from programs import Programs, need, need_root

F_OFD_SETLK, F_OFD_SETLKW = 37, 38


def ofd(kind, start, length):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def hold(path, how, ready, stop):
    with open(path, "r+b") as file:
        if how == "flock":
            fcntl.flock(file, fcntl.LOCK_EX)
        elif how == "fcntl":
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 100)
        else:
            fcntl.fcntl(file, F_OFD_SETLKW, ofd(fcntl.F_WRLCK, 100, 10))
        ready.set()
        stop.wait(30)


def add_one(path, how, times):
    for _ in range(times):
        with open(path, "r+b") as file:
            if how == "flock":
                fcntl.flock(file, fcntl.LOCK_EX)
            elif how == "fcntl":
                fcntl.lockf(file, fcntl.LOCK_EX)
            else:
                fcntl.fcntl(file, F_OFD_SETLKW, ofd(fcntl.F_WRLCK, 0, 0))
            value = int(file.read())
            file.seek(0)
            file.write(b"%d" % (value + 1))
            file.flush()


class Kernel(Programs):
    def mount(self, *arguments):
        """Mounts on a new directory, which is unmounted at the end."""
        target = self.native / "mnt"
        target.mkdir()
        run = subprocess.run(["mount", *map(str, arguments), str(target)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, check=False)
        if run.returncode:
            self.fail(f"mount {arguments}: {run.stdout}")
        self.addCleanup(subprocess.run, ["umount", "-l", target], stderr=subprocess.DEVNULL, check=False)
        return target

    def test_loop_device(self):
        need_root()
        need("losetup", "mkfs.ext4", "fsck.ext4")
        image = self.dir / "image"
        with open(image, "wb") as file:
            file.truncate(48 << 20)
        self.run_it("mkfs.ext4", "-q", image)
        run = subprocess.run(["losetup", "-f", "--show", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             check=False)
        if run.returncode:
            self.skipTest(f"no loop device: {run.stdout.strip()}")
        device = run.stdout.strip()
        try:
            target = self.mount(device)
            for n in range(300):
                (target / f"f{n}").write_bytes(os.urandom(20000))
            shutil.copytree(target, self.native / "copy", ignore=shutil.ignore_patterns("lost+found"))
            self.run_it("umount", target, cwd="/")
            self.run_it("fsck.ext4", "-fn", device)
            self.run_it("mount", "-o", "ro", device, target, cwd="/")
            for n in range(300):
                self.assertEqual((target / f"f{n}").read_bytes(), (self.native / "copy" / f"f{n}").read_bytes())
            self.run_it("umount", target, cwd="/")
        finally:
            subprocess.run(["losetup", "-d", device], check=False)
        self.run_it("fsck.ext4", "-fn", image)
        self.assert_in_bucket(self.dir)

    def test_bind_mount(self):
        need_root()
        (self.dir / "in").mkdir()
        target = self.mount("--bind", self.dir / "in")
        (target / "f").write_text("through the bind mount")
        self.assertEqual((self.dir / "in" / "f").read_text(), "through the bind mount")
        (self.dir / "in" / "f").rename(self.dir / "in" / "g")
        self.assertEqual(os.listdir(target), ["g"])
        self.assertEqual(os.stat(target / "g").st_dev, os.stat(self.dir).st_dev)
        self.run_it("mount", "-o", "remount,bind,ro", target, cwd="/")
        with self.assertRaises(OSError):
            (target / "h").write_text("read-only")
        (self.dir / "in" / "h").write_text("not here")

    def test_overlay_lower_layer(self):
        need_root()
        with open("/proc/filesystems", encoding="ascii") as file:
            if "overlay" not in file.read():
                self.skipTest("this kernel has no overlayfs")
        lower, upper, work = self.dir / "lower", self.native / "upper", self.native / "work"
        for path in (lower / "sub", upper, work):
            path.mkdir(parents=True)
        for n in range(50):
            (lower / "sub" / f"f{n}").write_text(f"lower {n}")
        target = self.mount("-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}")
        (target / "sub" / "f1").write_text("upper")
        (target / "sub" / "f2").unlink()
        (target / "sub" / "new").write_text("new")
        self.assertEqual(len(os.listdir(target / "sub")), 50)
        self.assertEqual((target / "sub" / "f3").read_text(), "lower 3")
        self.assertEqual((target / "sub" / "f1").read_text(), "upper")
        self.assertEqual((lower / "sub" / "f1").read_text(), "lower 1")
        self.assertTrue((lower / "sub" / "f2").exists())

    def test_locks(self):
        path = self.dir / "locked"
        path.write_bytes(b"\0" * 200)
        for how in ("flock", "fcntl", "ofd"):
            ready, stop = multiprocessing.Event(), multiprocessing.Event()
            holder = multiprocessing.Process(target=hold, args=(path, how, ready, stop))
            holder.start()
            self.assertTrue(ready.wait(60))
            with open(path, "r+b") as file:
                with self.assertRaises(OSError, msg=how):
                    if how == "flock":
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    elif how == "fcntl":
                        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105)
                    else:
                        fcntl.fcntl(file, F_OFD_SETLK, ofd(fcntl.F_WRLCK, 105, 1))
                if how != "flock":  # beside the range
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
                    fcntl.lockf(file, fcntl.LOCK_UN, 10, 0)
                holder.kill()  # who dies leaves no lock
                holder.join()
                fcntl.flock(file, fcntl.LOCK_EX)
                fcntl.lockf(file, fcntl.LOCK_EX)
        # A waiter can be killed.
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            waiter = multiprocessing.Process(target=hold, args=(path, "flock", multiprocessing.Event(), multiprocessing.Event()))
            waiter.start()
            time.sleep(0.3)
            waiter.kill()
            waiter.join(60)
            self.assertFalse(waiter.is_alive())

    def test_counting_under_locks(self):
        for how in ("flock", "fcntl", "ofd"):
            path = self.dir / how
            path.write_bytes(b"0")
            workers = [multiprocessing.Process(target=add_one, args=(path, how, 200)) for _ in range(4)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(60)
                self.assertEqual(worker.exitcode, 0)
            self.assertEqual(path.read_bytes(), b"800", how)

    def test_appenders(self):
        """O_APPEND: what several processes append is all there, each write in one piece."""
        path = self.dir / "appended"
        code = "import os,sys\nf = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n" \
               "for n in range(1000): os.write(f, b'%s %d\\n' % (sys.argv[2].encode() * (1 + n % 90), n))"
        workers = [subprocess.Popen(["python3", "-c", code, path, letter]) for letter in "abcd"]
        for worker in workers:
            self.assertEqual(worker.wait(60), 0)
        lines = path.read_text().splitlines()
        self.assertEqual(sorted(lines), sorted(f"{letter * (1 + n % 90)} {n}" for letter in "abcd" for n in range(1000)))

    def test_ten_thousand_open_files(self):
        """Within a limit of 20,000 descriptors for the daemon, which inherits ours."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 20000:
            self.skipTest(f"the limit of descriptors here is {hard}")
        self.a.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (20000, hard))
        files = []
        try:
            self.a.start(options=("-o", "dev"))
            for n in range(10000):
                directory = self.dir / str(n // 1000)
                directory.mkdir(exist_ok=True)
                files.append(os.open(directory / str(n), os.O_RDWR | os.O_CREAT))
                os.write(files[-1], b"%d" % n)
            for n in range(0, 10000, 7):
                self.assertEqual(os.pread(files[n], 10, 0), b"%d" % n)
                os.unlink(self.dir / str(n // 1000) / str(n))
            with open(f"/proc/{self.a.process.pid}/limits", encoding="ascii") as limits:
                line = next(l for l in limits if l.startswith("Max open files"))
            self.assertLessEqual(int(line.split()[3]), 20000)
            for n in range(10000):
                self.assertEqual(os.pread(files[n], 10, 0), b"%d" % n)
        finally:
            for file in files:
                os.close(file)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(len(os.listdir(self.dir / "0")), 1000 - 143)
        self.run_it("rm", "-rf", self.dir, cwd="/")

    def test_gone_while_open(self):
        path = self.dir / "f"
        with open(path, "w+b") as file:
            file.write(b"before")
            file.flush()
            path.rename(self.dir / "g")
            file.write(b" renamed")
            file.flush()
            self.assertEqual((self.dir / "g").read_bytes(), b"before renamed")
            (self.dir / "g").unlink()
            self.assertEqual(os.fstat(file.fileno()).st_nlink, 0)
            file.write(b" removed")
            file.flush()
            path.write_bytes(b"another of that name")
            file.seek(0)
            self.assertEqual(file.read(), b"before renamed removed")
            os.ftruncate(file.fileno(), 3)
            os.fchmod(file.fileno(), 0o600)
            self.assertEqual(os.fstat(file.fileno()).st_size, 3)
        self.assertEqual(path.read_bytes(), b"another of that name")
        # a directory that one is in
        (self.dir / "d").mkdir()
        handle = os.open(self.dir / "d", os.O_RDONLY | os.O_DIRECTORY)
        (self.dir / "d").rmdir()
        self.assertEqual(os.fstat(handle).st_nlink, 0)
        with self.assertRaises(FileNotFoundError):
            os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=handle)
        os.close(handle)
        # a FIFO that is open: the kernel has it to itself
        os.mkfifo(self.dir / "fifo")
        handle = os.open(self.dir / "fifo", os.O_RDWR | os.O_NONBLOCK)
        os.unlink(self.dir / "fifo")
        self.assertEqual(os.fstat(handle).st_nlink, 0)
        os.write(handle, b"through")
        self.assertEqual(os.read(handle, 10), b"through")
        os.close(handle)

    def test_replaced_by_another_server(self):
        b = self.world.server("b", self.regions)
        b.start(options=("-o", "dev"))
        try:
            for size in (100, 300000):  # in the segment, and as an object
                here, there = self.dir / f"f{size}", b.mount / self.dir.name / f"f{size}"
                here.write_bytes(b"1" * size)
                self.a.flush()
                wait_until("the other server has it", there.exists, 30)
                with open(here, "rb") as reader, open(here, "rb") as mapped:
                    self.assertEqual(reader.read(10), b"1" * 10)
                    with open(there.with_name("new"), "wb") as file:
                        file.write(b"2" * (size + 1))
                    there.with_name("new").rename(there)
                    b.flush()
                    wait_until("the new content shows", lambda: here.stat().st_size == size + 1, 30)
                    self.assertEqual(reader.read(), b"1" * (size - 10))
                    self.assertEqual(os.fstat(mapped.fileno()).st_size, size)
                    self.assertEqual(mapped.read(), b"1" * size)
                self.assertEqual(here.read_bytes(), b"2" * (size + 1))
                # removed there
                with open(here, "rb") as reader:
                    there.unlink()
                    b.flush()
                    wait_until("it is gone", lambda: not here.exists(), 30)
                    wait_until("it has no name", lambda: os.fstat(reader.fileno()).st_nlink == 0, 60)
                    self.assertEqual(reader.read(), b"2" * (size + 1))
        finally:
            b.stop()


if __name__ == "__main__":
    main()
