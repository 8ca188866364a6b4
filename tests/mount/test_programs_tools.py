"""What people and their servers do with files all day: git, make, rsync, tar, editors, mail, log rotation."""
import glob
import mailbox
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import socket
import stat
import subprocess
import time
import unittest

from harness import converge, main, wait_until
from programs import ROOT, Programs, need, need_root

GIT = {**os.environ, "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "n@example.com", "GIT_COMMITTER_NAME": "n",
       "GIT_COMMITTER_EMAIL": "n@example.com", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}


def deliver(root, number, count):
    """As maildir(5) says: written and flushed in tmp, linked into new, unlinked from tmp."""
    for n in range(count):
        name = f"{time.time():.6f}.{number}_{n}.{socket.gethostname()}"
        with open(f"{root}/tmp/{name}", "x", encoding="ascii") as file:
            file.write(f"Message-ID: <{number}.{n}@example.com>\n\n{number} {n}\n")
        if n % 2:
            os.link(f"{root}/tmp/{name}", f"{root}/new/{name}")
            os.unlink(f"{root}/tmp/{name}")
        else:
            os.rename(f"{root}/tmp/{name}", f"{root}/new/{name}")


def write_log(path, stop, written, reopen):
    """Numbered lines, appended; follows the name when it was renamed, if reopen."""
    file = open(path, "a", buffering=1, encoding="ascii")
    n = 0
    while not stop.is_set():
        if reopen and os.fstat(file.fileno()).st_nlink and not same_file(path, file):
            try:  # the rotation makes the new one
                new = open(os.open(path, os.O_WRONLY | os.O_APPEND), "a", buffering=1, encoding="ascii")
                file.close()
                file = new
            except FileNotFoundError:
                pass
        file.write(f"line {n} {'.' * (n % 50)}\n")
        n += 1
        if n % 20 == 0:
            time.sleep(0.001)
    written.value = n
    file.close()


def same_file(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


class Tools(Programs):
    def tearDown(self):
        self.a.flush()

    @classmethod
    def tearDownClass(cls):
        """All that the tests left has to be on a second server, too."""
        try:
            b = cls.world.server("b", cls.regions)
            b.start(options=("-o", "dev"))
            converge(cls.a, b)
        finally:
            super().tearDownClass()

    def make_tree(self, root):
        """Something of everything that an archive can hold."""
        rng = random.Random(self.world.seed)
        for d in range(10):
            directory = root / f"d{d}" / "sub"
            directory.mkdir(parents=True)
            for n in range(20):
                path = directory / f"file {n} \u00e9"
                path.write_bytes(rng.randbytes(rng.choice((0, 10, 3000, 90000))))
                path.chmod(rng.choice((0o644, 0o600, 0o755, 0o444)))
                os.utime(path, ns=(1, rng.randrange(10**18)))
                os.setxattr(path, "user.note", rng.randbytes(20))
            os.symlink("file 1 \u00e9", directory / "link")
            os.symlink("nowhere", directory / "dangling")
            os.link(directory / "file 2 \u00e9", root / f"d{d}" / "hard")
            if ROOT:
                subprocess.run(["setfacl", "-m", "u:1000:rw,g:1001:r", directory / "file 3 \u00e9"], check=True)
                subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", directory], check=True)
                os.chown(directory / "file 4 \u00e9", 1000, 1001)
                os.chmod(directory / "file 4 \u00e9", 0o4755)
        with open(root / "sparse", "wb") as file:
            file.seek(1 << 20)
            file.write(b"end")

    def same_archive(self, a, b):
        """Nothing that rsync could still transfer: owners, times, attributes, lists and links included."""
        self.assertEqual(self.run_it("rsync", "-aHAXni", "--checksum", "--delete", f"{a}/", f"{b}/"), "")

    def test_git(self):
        need("git")
        work, copy = self.dir / "work", self.dir / "copy"
        self.run_it("git", "init", "-q", work, env=GIT)
        rng = random.Random(self.world.seed)
        for commit in range(12):
            for n in range(60):
                path = work / f"d{n % 7}" / f"f{rng.randrange(200)}"
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join(f"{rng.random()}\n" for _ in range(rng.randrange(100))))
            self.run_it("git", "add", "-A", cwd=work, env=GIT)
            self.run_it("git", "commit", "-q", "-m", f"commit {commit}", cwd=work, env=GIT)
            if commit == 5:
                self.run_it("git", "checkout", "-q", "-b", "side", cwd=work, env=GIT)
        self.run_it("git", "checkout", "-q", "side~3", cwd=work, env=GIT)
        self.run_it("git", "checkout", "-q", "side", cwd=work, env=GIT)
        self.run_it("git", "gc", "-q", "--aggressive", "--prune=now", cwd=work, env=GIT)
        self.run_it("git", "clone", "-q", work, copy, env=GIT)  # hard links
        for repository in (work, copy):
            self.assertNotIn("error", self.run_it("git", "fsck", "--full", "--strict", cwd=repository, env=GIT))
            self.assertEqual(self.run_it("git", "status", "--porcelain", cwd=repository, env=GIT), "")
        self.assertEqual(self.run_it("git", "rev-list", "--count", "HEAD", cwd=copy, env=GIT), "12\n")

    def test_build(self):
        need("make", "gcc")
        lines = []
        for n in range(100):
            (self.dir / f"part{n}.h").write_text(f"int part{n}(void);\n")
            (self.dir / f"part{n}.c").write_text(f'#include "part{n}.h"\nint part{n}(void) {{ return {n}; }}\n')
            lines.append(f"sum += part{n}();")
        (self.dir / "main.c").write_text("".join(f'#include "part{n}.h"\n' for n in range(100)) +
                                         "int main(void) { int sum = 0; " + " ".join(lines) + " return sum != 4950; }\n")
        (self.dir / "Makefile").write_text(
            "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: libparts.a main.o\n\tgcc -o $@ main.o libparts.a\n"
            "libparts.a: $(filter-out main.o,$(OBJECTS))\n\tar rcs $@ $^\n%.o: %.c\n\tgcc -O1 -MMD -c -o $@ $<\n-include *.d\n")
        self.run_it("make", "-j2")
        self.run_it("./program")
        self.assertIn("up to date", self.run_it("make"))
        time.sleep(0.02)
        os.utime(self.dir / "part7.h")
        text = self.run_it("make", "-j2")
        self.assertEqual(text.count("-MMD"), 2, text)  # that part and main
        self.run_it("./program")

    def test_rsync(self):
        need("rsync", "setfacl")
        self.make_tree(self.native)
        self.run_it("rsync", "-aHAX", f"{self.native}/", f"{self.dir}/to/")
        self.assertEqual(self.run_it("rsync", "-aHAXi", f"{self.native}/", f"{self.dir}/to/"), "", "the second run transfers")
        self.same_archive(self.native, self.dir / "to")
        (self.native / "d1/sub/file 1 \u00e9").write_text("changed")
        self.run_it("rsync", "-aHAX", "--inplace", "--sparse", "--delete", f"{self.native}/", f"{self.dir}/to/")
        self.same_archive(self.native, self.dir / "to")

    def test_tar(self):
        need("tar", "setfacl")
        self.make_tree(self.native)
        (self.dir / "in").mkdir()
        flags = ["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner", "-p"]
        self.run_it("tar", *flags, "-C", self.native, "-cf", self.dir / "archive", ".")
        self.run_it("tar", *flags, "-C", self.dir / "in", "-xf", self.dir / "archive")
        self.same_archive(self.native, self.dir / "in")
        out = self.world.dir / "native" / "out"
        out.mkdir()
        self.run_it("tar", *flags, "-C", self.dir / "in", "-czf", self.dir / "archive.gz", ".")
        self.run_it("tar", *flags, "-C", out, "-xf", self.dir / "archive.gz")
        self.same_archive(self.native, out)
        self.run_it("tar", "-C", self.dir / "in", "-df", self.dir / "archive")

    def test_editors(self):
        path = self.dir / "config"

        def fresh():
            path.write_text("".join(f"key{n} = old\n" for n in range(1000)))
            path.chmod(0o640)
            if ROOT:
                os.chown(path, 1000, 1001)

        def check(value):
            self.assertEqual(path.read_text(), "".join(f"key{n} = {value}\n" for n in range(1000)))
            info = path.stat()
            self.assertEqual(stat.S_IMODE(info.st_mode), 0o640)
            if ROOT:
                self.assertEqual((info.st_uid, info.st_gid), (1000, 1001))
        fresh()
        self.run_it("sed", "-i", "s/old/sed/", path)
        check("sed")
        self.run_it("sed", "-i.bak", "s/sed/again/", path)
        check("again")
        self.assertIn("sed", (self.dir / "config.bak").read_text())
        # written beside it and renamed over it; and the old one renamed away first
        for way in ("rename", "backup"):
            fresh()
            with open(self.dir / ".config.tmp", "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), 0o640)
                if ROOT:
                    os.fchown(file.fileno(), 1000, 1001)
                file.write(path.read_text().replace("old", way))
                file.flush()
                os.fsync(file.fileno())
            if way == "backup":
                path.rename(self.dir / "config~")
            (self.dir / ".config.tmp").rename(path)
            check(way)
        if shutil.which("vim"):
            for backup in ("no", "yes", "auto"):
                fresh()
                self.run_it("vim", "-u", "NONE", "-i", "NONE", "-es", "-c", f"set backup backupcopy={backup}", "-c", "%s/old/vim/",
                            "-c", "wq", path)
                check("vim")
        self.assertEqual([p.name for p in self.dir.iterdir() if p.name.endswith((".swp", ".tmp"))], [])

    def test_maildir(self):
        box = mailbox.Maildir(self.dir / "box", create=True)
        deliverers = [multiprocessing.Process(target=deliver, args=(self.dir / "box", n, 250)) for n in range(4)]
        for process in deliverers:
            process.start()
        seen = []

        def read():
            for name in os.listdir(self.dir / "box" / "new"):
                os.rename(self.dir / "box" / "new" / name, self.dir / "box" / "cur" / f"{name}:2,S")
                seen.append((self.dir / "box" / "cur" / f"{name}:2,S").read_text().splitlines()[-1])
        while any(process.is_alive() for process in deliverers):
            read()
        for process in deliverers:
            process.join()
            self.assertEqual(process.exitcode, 0)
        read()
        self.assertEqual(sorted(seen), sorted(f"{p} {n}" for p in range(4) for n in range(250)))
        self.assertEqual(len(box), 1000)
        self.assertEqual(os.listdir(self.dir / "box" / "tmp"), [])

    def rotate(self, name, how):
        log, stop, written = self.dir / name, multiprocessing.Event(), multiprocessing.Value("q")
        config = self.native / name
        config.write_text(f"{log} {{\n  rotate 20\n  {how}\n  missingok\n  nomail\n  su root root\n}}\n")
        config.chmod(0o644)
        log.touch()
        writer = multiprocessing.Process(target=write_log, args=(log, stop, written, how == "create"))
        writer.start()
        for _ in range(8):
            time.sleep(0.15)
            self.run_it("logrotate", "-f", "-s", self.native / f"{name}.state", config)
        stop.set()
        writer.join(60)
        self.assertEqual(writer.exitcode, 0)
        lines = []
        rotated = sorted(glob.glob(f"{log}.*"), key=lambda p: -int(p.rsplit(".", 1)[1]))
        self.assertEqual(len(rotated), 8)
        for path in [*rotated, str(log)]:
            with open(path, "rb") as file:
                content = file.read()
            self.assertNotIn(b"\0", content, f"{path}: a hole where the log was truncated")
            lines += [int(line.split()[1]) for line in content.decode().splitlines() if len(line.split()) > 1]
        return lines, written.value

    def test_logrotate_rename(self):
        need("logrotate")
        need_root()
        lines, written = self.rotate("renamed", "create")
        self.assertEqual(lines, list(range(written)), "no line is lost, none out of order")

    def test_logrotate_copytruncate(self):
        """What is written between the copy and the truncation is lost, as on any file system, and nothing else."""
        need("logrotate")
        need_root()
        lines, written = self.rotate("copied", "copytruncate")
        self.assertEqual(lines, sorted(set(lines)))
        gaps = sum(after != before + 1 for before, after in zip([-1, *lines], [*lines, written]))
        self.assertLessEqual(gaps, 8, "one for each rotation")
        self.assertGreater(len(lines), 0)

    def test_exec(self):
        program = self.dir / "sleep"
        shutil.copy2(shutil.which("sleep"), program)
        self.run_it(program, "0")
        process = subprocess.Popen([program, "30"])
        try:
            with self.assertRaises(OSError) as caught:
                open(program, "r+b").close()
            self.assertEqual(os.strerror(caught.exception.errno), "Text file busy")
            os.unlink(program)
            self.assertIsNone(process.poll())
        finally:
            process.kill()
            process.wait()
        script = self.dir / "script"
        script.write_text("#!/bin/sh\necho ran \"$0\"\n")
        script.chmod(0o755)
        self.assertEqual(self.run_it(script), f"ran {script}\n")
        script.chmod(0o644)
        with self.assertRaises(PermissionError):
            subprocess.run([script], check=True)

    def test_core_dump(self):
        with open("/proc/sys/kernel/core_pattern", encoding="ascii") as file:
            pattern = file.read().strip()
        if pattern[:1] in ("|", "/", "@"):
            self.skipTest(f"cores go elsewhere: {pattern}")
        process = subprocess.Popen(["sh", "-c", "ulimit -c unlimited; exec sleep 30"], cwd=self.dir)
        wait_until("it sleeps", lambda: pathlib.Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 60)
        process.send_signal(signal.SIGSEGV)
        self.assertEqual(process.wait(), -signal.SIGSEGV)
        cores = list(self.dir.glob("core*"))
        self.assertEqual(len(cores), 1)
        head = cores[0].read_bytes()[:18]
        self.assertEqual((head[:4], head[16]), (b"\x7fELF", 4))  # ET_CORE
        self.assertGreater(cores[0].stat().st_size, 50000)


if __name__ == "__main__":
    main()
