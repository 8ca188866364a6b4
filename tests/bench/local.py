"""The local side beside native file systems and other mounts, in one run:

    MERIDIAN=build/src/meridian BENCH=build/tests/bench PYTHONPATH=tests/mount python3 tests/bench/local.py
        [ops] [ls] [tree] [git] [pgbench] [peers] [peerwork] [large] [rounds=5] [data=1024] [files=5000000] [before=PROGRAM] [nice=N]

Everything is pinned to core 0, clients and daemons alike; each figure is the least of `rounds` (the most, for rates), and the subjects
take turns, so that a drift of the machine hits all. ext4 is fresh, on a loop device below TMPDIR. before= adds an older build of the
program as one more subject. What is timed is what the caller waits for, with the daemon's background work on the same core; before each
turn the daemons have sealed what the turn before left. The mounts' region does not answer, except where the title says Ceph."""
import atexit
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import subprocess
import sys
import time

import harness
from harness import Ceph, World, wait_until

BENCH = pathlib.Path(os.environ.get("BENCH", "build/tests/bench")).resolve()
LL_SOURCE = pathlib.Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
SECTIONS = ["ops", "ls", "tree", "git", "pgbench", "peers", "peerwork", "large"]
TARGETS = []


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, stdin=subprocess.DEVNULL, **options)


def quietly(*command, **options):
    return run(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def seconds(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


def note(text):
    print(text, flush=True)


def target(title, figure, limit, least=False):
    met = figure >= limit if least else figure <= limit
    TARGETS.append((title, figure, f"{'at least' if least else 'at most'} {limit:g}", "met" if met else "MISSED"))


def table(title, names, rows, unit=""):
    """rows: (label, {name: figure})."""
    note(f"\n### {title} (load {os.getloadavg()[0]:.1f})\n")
    note(f"| {unit} | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for label, figures in rows:
        cells = [f"{figures[name]:.4g}" if name in figures else "" for name in names]
        note(f"| {label} | " + " | ".join(cells) + " |")


# ---- the subjects ----


class Subject:
    """A directory to work in."""

    def __init__(self, name, root):
        self.name, self.root = name, pathlib.Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)

    def quiet(self):
        """Returns when nothing of what was done here is still being worked on."""

    def requests(self):
        return None

    def stop(self):
        pass


class Mount(Subject):
    """Another mount: a program that serves it in the foreground."""

    def __init__(self, name, root, command, env=None):
        super().__init__(name, root)
        self.log = open(f"{self.root}.log", "wb")
        self.process = subprocess.Popen([str(c) for c in command], stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL, env=env)
        atexit.register(self.stop)

        def ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{name}: {pathlib.Path(self.log.name).read_text(errors='replace')}")
            return os.path.ismount(self.root)

        wait_until(f"{name} mounts", ready, 30)

    def stop(self):
        if self.process.poll() is not None:
            return
        subprocess.run(["umount", "-l", self.root], check=False)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Meridian(Subject):
    def __init__(self, world, name, regions, state, program=None, **volume):
        self.server = world.server(name, regions, state=state, volume=volume)
        program, harness.MERIDIAN = harness.MERIDIAN, program or harness.MERIDIAN
        try:
            self.server.start()
        finally:
            harness.MERIDIAN = program
        self.server.root.chmod(0o755)
        super().__init__(name, self.server.mount / "bench")

    def quiet(self):
        def sealed():
            status = self.server.status()
            return not status["journal_rows"] and not any(r["up"] and r["backlog_rows"] for r in status["regions"])

        wait_until(f"{self.name} is quiet", sealed, 600, 0.05)

    def requests(self):
        return self.server.status()["fs"]["requests"]

    def stop(self):
        self.server.abandon()


def turns(subjects, rounds, job, better=min):
    """job(subject, turn) returns {figure: value}; the best of each, by subject and figure."""
    best = {s.name: {} for s in subjects}
    for turn in range(rounds):
        at = turn % len(subjects)
        for subject in subjects[at:] + subjects[:at]:
            for other in subjects:
                other.quiet()
            for key, value in job(subject, turn).items():
                choose = max if key.endswith("_mib_s") else better
                best[subject.name][key] = choose(value, best[subject.name].get(key, value))
    return best


def by_figure(best, keys):
    return [(key, {name: figures[key] for name, figures in best.items() if key in figures}) for key in keys]


class Bench:
    def __init__(self, options):
        self.world = World()
        self.world.dir.chmod(0o755)
        self.rounds = int(options.get("rounds", 5))
        self.data = int(options.get("data", 1024))
        self.before = options.get("before")
        self.files = int(options.get("files", 5000000))
        self.disks = {"ext4": self.ext4(), "tmpfs": self.world.mount_tmpfs("tmpfs", "12G")}
        self.ll = self.build_ll()
        key = self.world.dir / "no-credentials"
        key.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
        key.chmod(0o600)
        self.down = {"down": {"url": "s3://none/app", "endpoint": "http://127.0.0.1:9", "credentials_file": key}}
        self.made = 0

    def ext4(self):
        path, image = self.world.dir / "ext4", self.world.dir / "ext4.img"
        path.mkdir()
        with open(image, "wb") as file:
            file.truncate(60 << 30)
        device = run("losetup", "--find", "--show", "--direct-io=on", image, stdout=subprocess.PIPE).stdout.decode().strip()
        try:
            quietly("mkfs.ext4", "-q", "-E", "nodiscard", "-i", "8192", device)
            run("mount", "-o", "noinit_itable", device, path)
            self.world.tmpfs.append(path)
        finally:
            subprocess.run(["losetup", "-d", device], check=False)  # goes when it is unmounted
            image.unlink()
        return path

    def build_ll(self):
        """libfuse's own low-level passthrough, from the examples that Debian's libfuse3-dev ships as source."""
        if not LL_SOURCE.exists() or not shutil.which("cc"):
            note("libfuse's passthrough_ll is not here (libfuse3-dev, cc): not compared")
            return None
        program = self.world.dir / "passthrough_ll"
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
        (self.world.dir / "config.h").write_text("")
        quietly("cc", "-O2", "-D_GNU_SOURCE", "-DFUSE_USE_VERSION=34", "-I", self.world.dir, LL_SOURCE, *flags, "-o", program)
        return program

    def subjects(self, disk, kinds):
        """Fresh ones, of these kinds, all on one disk."""
        self.made += 1
        base = self.disks[disk] / f"run{self.made}"
        base.mkdir()
        base.chmod(0o755)
        points = self.world.dir / f"points{self.made}"
        points.mkdir(exist_ok=True)
        points.chmod(0o755)
        found = []
        for kind in kinds:
            if kind == "native":
                found.append(Subject("native", base / "native"))
            elif kind == "lean":
                (base / "lean").mkdir()
                found.append(Mount("lean", points / f"lean-{disk}", [BENCH / "lean", base / "lean", points / f"lean-{disk}"]))
            elif kind == "ll" and self.ll:
                (base / "ll").mkdir()
                options = f"source={base / 'll'},cache=always,timeout=86400,allow_other"
                found.append(Mount("passthrough_ll", points / f"ll-{disk}", [self.ll, "-f", "-o", options, points / f"ll-{disk}"]))
            elif kind == "meridian":
                found.append(Meridian(self.world, f"meridian-{self.made}", self.down, base / "state"))
                found[-1].name = "meridian"
                if self.before:
                    found.append(Meridian(self.world, f"before-{self.made}", self.down, base / "before", self.before))
                    found[-1].name = "before"
        return found, base

    def end(self, subjects, base):
        for subject in subjects:
            subject.stop()
        shutil.rmtree(base, ignore_errors=True)

    # ---- single operations ----

    def run_ops(self, subject, turn, *arguments):
        output = run(BENCH / "ops", subject.root / f"o{turn}", *arguments, stdout=subprocess.PIPE).stdout
        return json.loads(output)

    def ops(self):
        for disk in ("ext4", "tmpfs"):
            subjects, base = self.subjects(disk, ["native", "lean", "ll", "meridian"])
            best = turns(subjects, self.rounds, lambda s, t: self.run_ops(s, t, "only=metadata", "count=2000"))
            table(f"Metadata on {disk}, 2,000 files", list(best), by_figure(best, best["native"]), "ns an operation")
            self.metadata_targets(disk, best)
            self.requests_per_operation(subjects)
            best = turns(subjects, self.rounds, self.data_job)
            table(f"Data on {disk}, one file of {self.data} MiB", list(best), by_figure(best, best["native"]),
                  "MiB/s, or ns an operation")
            self.data_targets(disk, best)
            if disk == "ext4":
                best = turns(subjects, self.rounds, lambda s, t: self.run_ops(s, f"s{t}", "only=fsync", "syncs=100"))
                table("fsync of appended 4 KiB on ext4", list(best), by_figure(best, best["native"]), "ns an fsync")
                ours = best["meridian"]
                target("fsync of 4 KiB appends, times native (ext4)", ours["fsync_1"] / best["native"]["fsync_1"], 2)
                target("eight threads' fsyncs, times one thread's rate (ext4)", ours["fsync_1"] / ours["fsync_8"], 4, least=True)
                note(f"\neight threads' fsyncs, times one thread's rate, native: "
                     f"{best['native']['fsync_1'] / best['native']['fsync_8']:.2f}")
            self.end(subjects, base)

    def data_job(self, subject, turn):
        found = self.run_ops(subject, f"d{turn}", "only=write_data", f"data={self.data}")
        subject.quiet()
        return {**found, **self.run_ops(subject, f"d{turn}", "only=read_data", f"data={self.data}")}

    def metadata_targets(self, disk, best):
        ours, lean, native = best["meridian"], best["lean"], best["native"]
        target(f"create + write 4 KiB + close, times the lean passthrough ({disk})", ours["create"] / lean["create"], 1.5)
        for name in ("unlink", "rename"):
            target(f"{name}, times the lean passthrough ({disk})", ours[name] / lean[name], 1.5)
        target(f"warm stat by name, times native ({disk})", ours["stat"] / native["stat"], 1.3)
        target(f"warm stat by path, times native ({disk})", ours["stat_path"] / native["stat_path"], 1.3)

    def data_targets(self, disk, best):
        ours, native = best["meridian"], best["native"]
        for name, title in (("seq_write_mib_s", "sequential write"), ("seq_overwrite_mib_s", "sequential overwrite"),
                            ("seq_read_mib_s", "sequential read")):
            target(f"{title} of {self.data} MiB, native rate by ours ({disk})", native[name] / ours[name], 1.2)
        for name, title in (("random_write", "random 4 KiB write"), ("random_read", "random 4 KiB read, descriptor open for writing"),
                            ("random_read_only", "random 4 KiB read")):
            target(f"{title}, times native ({disk})", ours[name] / native[name], 1.2)

    def requests_per_operation(self, subjects):
        subject = next(s for s in subjects if s.name == "meridian")
        counts, figures = 500, {}
        for name in ("create", "open_read", "stat", "chmod", "rename", "unlink"):
            directory = subject.root / f"r-{name}"
            before = {"create": [], "rename": ["create"], "unlink": ["create", "rename"]}.get(name, ["create"])
            had = self.counted(subject, directory, before, counts) if before else 0
            shutil.rmtree(directory, ignore_errors=True)
            figures[name] = (self.counted(subject, directory, before + [name], counts) - had) / counts
            shutil.rmtree(directory, ignore_errors=True)
        table("Requests to the daemon", list(figures), [("each operation", figures)])

    @staticmethod
    def counted(subject, directory, names, count):
        start = subject.requests()
        quietly(BENCH / "ops", directory, "only=" + ",".join(names), f"count={count}")
        return subject.requests() - start

    # ---- listings ----

    def ls(self):
        for disk in ("ext4", "tmpfs"):
            subjects, base = self.subjects(disk, ["native", "lean", "ll", "meridian"])
            for subject in subjects:
                for d in range(50):
                    directory = subject.root / "tree" / f"d{d}"
                    directory.mkdir(parents=True)
                    for n in range(100):
                        (directory / f"f{n}").write_bytes(b"x" * 100)
            kinds = {"find, every file's attributes": ["find", "tree", "-printf", "%s %m %u %T@ %p\n"],
                     "ls -lR": ["ls", "-lR", "tree"], "ls -lR --color (capabilities too)": ["ls", "-lR", "--color=always", "tree"]}

            def job(subject, turn):
                found = {}
                for title, command in kinds.items():
                    for warm in range(3):
                        took = seconds(lambda: quietly(*command, cwd=subject.root))
                        found[title] = took * 1e3 if warm == 0 else min(found[title], took * 1e3)
                return found

            best = turns(subjects, self.rounds, job)
            table(f"5,000 files in 50 directories on {disk}", list(best), by_figure(best, kinds), "ms, warm")
            for title in kinds:
                target(f"warm {title}, times native ({disk})", best["meridian"][title] / best["native"][title], 1.3)
            self.end(subjects, base)

    # ---- trees ----

    def archive(self, directories=200):
        """A tar archive of 100 files of 200 to 8,000 bytes in each of so many directories."""
        path = self.world.dir / f"tree{directories}.tar"
        if not path.exists():
            source, generator = self.disks["tmpfs"] / "source", random.Random(1)
            for d in range(directories):
                directory = source / f"tree/a{d % 20}/b{d}"
                directory.mkdir(parents=True)
                for n in range(100):
                    (directory / f"f{n}.c").write_bytes(generator.randbytes(generator.randrange(200, 8000)))
            run("tar", "-cf", path, "-C", source, "tree")
            shutil.rmtree(source)
        return path

    def tree(self):
        archive = self.archive()
        subjects, base = self.subjects("ext4", ["native", "lean", "meridian"])

        def job(subject, turn):
            took = {"untar": seconds(lambda: run("tar", "-xf", archive, "-C", subject.root))}
            if turn == 0:
                self.same(archive, subject.root)
            took["untar, then sealed"] = took["untar"] + seconds(subject.quiet)
            took["rm -rf"] = seconds(lambda: run("rm", "-rf", subject.root / "tree"))
            return took

        best = turns(subjects, self.rounds, job)
        table("untar of 20,000 files and rm -rf of them, ext4", list(best), by_figure(best, ["untar", "untar, then sealed", "rm -rf"]), "s")
        for key in ("untar", "rm -rf"):
            target(f"{key} of 20,000 files, times native (ext4)", best["meridian"][key] / best["native"][key], 8)
        self.end(subjects, base)

    @staticmethod
    def same(archive, root):
        run("tar", "-df", archive, "-C", root, stdout=subprocess.DEVNULL)

    def repository(self, directories):
        """A git repository of 100 small files in each of so many directories, in one pack."""
        source = self.disks["ext4"] / f"repository{directories}"
        generator = random.Random(2)
        for d in range(directories):
            directory = source / f"s{d % 25}/m{d}"
            directory.mkdir(parents=True)
            for n in range(100):
                (directory / f"f{n}.c").write_bytes(generator.randbytes(generator.randrange(50, 400)).hex().encode())
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
        quietly("git", "-C", source, "init", "-q")
        quietly("git", "-C", source, "add", "-A")
        quietly("git", *identity, "-C", source, "commit", "-qm", "all")
        quietly("git", "-C", source, "repack", "-adq")
        return source

    def git(self):
        source = self.repository(500)
        subjects, base = self.subjects("ext4", ["native", "lean", "meridian"])

        def clone(subject, turn):
            shutil.rmtree(subject.root / "clone", ignore_errors=True)
            subject.quiet()
            return {"clone": seconds(lambda: quietly("git", "clone", "-q", "--no-local", source, subject.root / "clone"))}

        def status(subject, turn):
            def ask():
                output = run("git", "-C", subject.root / "clone", "status", "--porcelain", stdout=subprocess.PIPE).stdout
                if output:
                    raise RuntimeError(f"git status on {subject.name} shows changes: {output[:200]}")
            ask()
            return {"status": min(seconds(ask) for _ in range(3))}

        best = turns(subjects, min(self.rounds, 3), clone)
        for name, figures in turns(subjects, self.rounds, status).items():
            best[name].update(figures)
        table("git with 50,000 files, ext4", list(best), by_figure(best, ["clone", "status"]), "s")
        target("git status of 50,000 files, times native (ext4)", best["meridian"]["status"] / best["native"]["status"], 8)
        target("git clone of 50,000 files, times native (ext4)", best["meridian"]["clone"] / best["native"]["clone"], 8)
        self.end(subjects, base)
        shutil.rmtree(source)

    # ---- PostgreSQL ----

    USER = ["runuser", "-u", "postgres", "--"]

    def postgresql(self):
        """Where its programs are; None, and said so, where they are not."""
        versions = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if versions and shutil.which("runuser"):
            return versions[-1].parent
        note("PostgreSQL is not installed: not compared")
        return None

    @property
    def sockets(self):
        path = self.world.dir / "sockets"
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
        return path

    def start_postgresql(self, tools, data, port, limit=None):
        """Makes and starts a server with pgbench's tables; the seconds that initdb took."""
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
        data.chmod(0o700)
        took = seconds(lambda: quietly(*self.USER, tools / "initdb", "-D", data, cwd="/", timeout=limit))
        try:
            quietly(*self.USER, tools / "pg_ctl", "-D", data, "-w", "-l", self.sockets / f"{port}.log", "-o",
                    f"-k {self.sockets} -p {port} -c listen_addresses=", "start", cwd="/", timeout=limit)
            quietly(*self.USER, "pgbench", "-h", self.sockets, "-p", port, "-i", "-q", "-s", "5", "postgres", cwd="/", timeout=limit)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            self.stop_postgresql(tools, data)
            raise
        return took

    def stop_postgresql(self, tools, data):
        subprocess.run([*self.USER, tools / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=False, cwd="/",
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def transactions(self, port, *options):
        text = run(*self.USER, "pgbench", "-h", self.sockets, "-p", port, "-c", "1", *options, "postgres", cwd="/",
                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300).stdout.decode()
        return float(re.search(r"tps = ([\d.]+)", text).group(1))

    def pgbench(self):
        tools = self.postgresql()
        if not tools:
            return
        subjects, base = self.subjects("ext4", ["native", "lean", "meridian"])
        started = []
        try:
            for port, subject in enumerate(subjects, 6001):
                started.append(subject.root / "pg")
                note(f"initdb on {subject.name}: {self.start_postgresql(tools, started[-1], port):.1f} s")

            def job(subject, turn):
                port = 6001 + subjects.index(subject)
                return {"transactions/s": self.transactions(port, "-T", "10"),
                        "select only, transactions/s": self.transactions(port, "-T", "4", "-S")}

            best = turns(subjects, min(self.rounds, 5), job, max)
        finally:
            for data in started:
                self.stop_postgresql(tools, data)
        keys = list(best["native"])
        table("pgbench, scale 5, one client, 10 s, ext4", list(best), by_figure(best, keys), "transactions/s")
        target("pgbench, native transactions/s by ours (ext4)", best["native"][keys[0]] / best["meridian"][keys[0]], 3)
        self.end(subjects, base)

    # ---- other bucket file systems ----

    def bucket_subjects(self, ceph, bucket, owner=None):
        """Meridian, s3fs and rclone mount in two cache modes, of one bucket; owner: whose the files are to be where they have none."""
        self.made += 1
        base = self.disks["ext4"] / f"run{self.made}"
        points = self.world.dir / f"points{self.made}"
        for directory in (base, points):
            directory.mkdir()
            directory.chmod(0o755)
        env = ceph.env()
        subjects = [Meridian(self.world, f"ceph{self.made}", {"region-1": ceph.region(bucket)}, base / "state")]
        subjects[0].name = "meridian"
        ids = [["uid", owner.pw_uid], ["gid", owner.pw_gid]] if owner else []
        if shutil.which("s3fs"):
            password = self.world.dir / "passwd-s3fs"
            password.write_text(f"{env['S3_ACCESS_KEY']}:{env['S3_SECRET_KEY']}\n")
            password.chmod(0o600)
            mine = ",allow_other,umask=077," + ",".join(f"{k}={v}" for k, v in ids) if ids else ""
            subjects.append(Mount("s3fs", points / "s3fs", [
                "s3fs", f"{ceph.buckets[bucket - 1]}:/", points / "s3fs", "-f", "-o", f"passwd_file={password}", "-o",
                f"url={env[f'S3_ENDPOINT_{bucket}']}", "-o", f"use_path_request_style,multireq_max=20{mine}"]))
        if shutil.which("rclone"):
            settings = {"TYPE": "s3", "PROVIDER": "Ceph", "ACCESS_KEY_ID": env["S3_ACCESS_KEY"],
                        "ENDPOINT": env[f"S3_ENDPOINT_{bucket}"], "SECRET_ACCESS_KEY": env["S3_SECRET_KEY"]}
            plain = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}  # which this rclone cannot load
            mine = [f"--{k}={v}" for k, v in ids] + ["--allow-other", "--dir-perms=0700", "--file-perms=0600"] if ids else []
            for mode in ("writes", "full"):
                subjects.append(Mount(f"rclone {mode}", points / f"rclone-{mode}", [
                    "rclone", "mount", f"c:{ceph.buckets[bucket - 1]}", points / f"rclone-{mode}", "--vfs-cache-mode", mode,
                    "--cache-dir", base / f"rclone-{mode}", *mine],
                    {**plain, **{f"RCLONE_CONFIG_C_{k}": v for k, v in settings.items()}}))
        return subjects, base

    def peers(self, ceph):
        subjects, base = self.bucket_subjects(ceph, 1)
        counts = {"meridian": 1000, "s3fs": 60}

        def job(subject, turn):
            count = counts.get(subject.name, 300)
            return self.run_ops(subject, f"{subject.name[:3]}{turn}{subject.name[-1]}", "only=create,open_read,stat,rename,unlink", f"count={count}")

        best = turns(subjects, self.rounds, job)
        table("One Ceph bucket", list(best), by_figure(best, best["meridian"]), "ns an operation")
        for name, limit in (("s3fs", 20), ("rclone writes", 3), ("rclone full", 3)):
            if name in best:
                target(f"create + write 4 KiB + close, {name}'s time by ours", best[name]["create"] / best["meridian"]["create"], limit, True)
        self.end(subjects, base)

    def peerwork(self, ceph):
        """Programs on the bucket mounts. s3fs, which asks the bucket at each call, gets a tenth of the files; times are a file's. What
        a mount refuses or does not end in five minutes is said, not compared."""
        subjects, base = self.bucket_subjects(ceph, 1)
        subjects.insert(0, Subject("native", base / "native"))
        sizes = {True: 1, False: 10}  # directories of 100 files; by "it is s3fs"
        archives, sources = ({small: make(n) for small, n in sizes.items()} for make in (self.archive, self.repository))
        best = {s.name: {} for s in subjects}
        for subject in subjects:
            small, work = subject.name == "s3fs", subject.root / f"w-{subject.name.replace(' ', '-')}"
            files, clone = sizes[small] * 100, work / "clone"
            work.mkdir()
            jobs = {
                "untar": ["tar", "-xf", archives[small], "-C", work],
                "git clone": ["git", "clone", "-q", "--no-local", sources[small], clone],
                "git status": ["git", "-C", clone, "status", "--porcelain"],
                "rm -rf": ["rm", "-rf", work / "tree"],
            }
            for key, command in jobs.items():
                try:
                    times = [seconds(lambda: quietly(*command, timeout=300)) for _ in range(3 if key == "git status" else 1)]
                    best[subject.name][key] = min(times) / files * 1e6
                except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                    note(f"{key} on {subject.name}: {error}")
        table("Work on one Ceph bucket, 1,000 files (s3fs: 100)", list(best), by_figure(best, jobs), "µs a file")
        self.end(subjects, base)
        self.peer_postgresql(ceph)

    def peer_postgresql(self, ceph):
        tools = self.postgresql()
        if not tools:
            return
        owner = pwd.getpwnam("postgres")
        subjects, base = self.bucket_subjects(ceph, 2, owner)
        subjects.insert(0, Subject("native", base / "native"))
        best = {}
        for port, subject in enumerate(subjects, 6101):
            data = subject.root / f"pg-{subject.name.replace(' ', '-')}"
            try:
                note(f"initdb on {subject.name}: {self.start_postgresql(tools, data, port, 300):.1f} s")
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
                note(f"PostgreSQL does not start on {subject.name}: {error}")
                continue
            try:
                best[subject.name] = {"transactions/s": max(self.transactions(port, "-T", "10") for _ in range(2))}
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                note(f"pgbench on {subject.name}: {error}")
            finally:
                self.stop_postgresql(tools, data)
        table("pgbench on one Ceph bucket, scale 5, one client, 10 s", list(best), by_figure(best, ["transactions/s"]), "")
        self.end(subjects, base)

    # ---- large volumes ----

    def large(self):
        self.made += 1
        base, counts = self.disks["ext4"] / f"run{self.made}", {"small": 5000, "large": self.files}
        base.mkdir()
        servers = {}
        for name, count in counts.items():
            state = base / name
            took = seconds(lambda: run(BENCH / "fill", state, "down", count))
            note(f"filled {name} with {count:,} files in {took:.0f} s, {sum(f.stat().st_size for f in state.glob('meridian.db*')) >> 20} MiB")
            servers[name] = self.world.server(name, self.down, state=state, volume={"drain_timeout": "1s"})
            fill_natively(base / "native" / name, count)
        best = {f"{kind}{name}": {} for kind in ("", "native ") for name in counts}
        for turn in range(self.rounds):
            for name, server in servers.items():
                keep_best(best[name], self.remounted(server, turn, counts[name]))
                keep_best(best[f"native {name}"], self.natively(base / "native" / name, turn, counts[name]))
        keys = sorted(best["small"], key=lambda key: (key.endswith("ns"), key))
        table(f"A volume of 5,000 and one of {self.files:,} files, ext4", list(best), by_figure(best, keys))
        target(f"mount of {self.files:,} files, s", best["large"]["mount, s"], 2)
        target(f"mount of {self.files:,} files after kill -9, s", best["large"].get("mount after kill -9, s", 0), 2)
        target(f"resident memory with {self.files:,} files, MiB", best["large"]["resident at most, MiB"], 300)
        for kind in ("", "native "):
            for key in keys:
                if key in best[f"{kind}large"] and key.endswith("ns"):
                    small = best[f"{kind}small"][key.replace("far", "near")]  # where all files are near
                    target(f"{kind}{key.split(',')[0]} among {self.files:,} files, times among 5,000", best[f"{kind}large"][key] / small, 1.5)
        shutil.rmtree(base, ignore_errors=True)

    def lists(self, root, turn, count):
        """near: 4,000 files in five directories, as many as the small volume has; far: 4,000 files anywhere, which in the large one
        are in some 2,750 directories. As arguments of ops."""
        picked = random.Random(turn)
        directories = picked.sample(range(count // 1000), 5)
        numbers = {"near": [d * 1000 + n for d in directories for n in picked.sample(range(1000), 800)],
                   "far": picked.sample(range(count), 4000)}
        for name, list_of in numbers.items():
            picked.shuffle(list_of)
            (self.world.dir / name).write_text("".join(f"{root}/{path_of(n)}\n" for n in list_of))
        return [f"{name}={self.world.dir / name}" for name in numbers]

    def natively(self, root, turn, count):
        """The same calls on the disk's own file system, which has forgotten names and inodes but not their blocks."""
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
        found = self.run_ops(Subject("native", root / "bench"), turn, "only=none", *self.lists(root, turn, count))
        return {f"{key}, ns": value for key, value in found.items()}

    def remounted(self, server, turn, count):
        """One life of a daemon: the kernel knows nothing at its start."""
        killed = turn % 2 == 0 and turn > 0
        found = {"mount after kill -9, s" if killed else "mount, s": seconds(server.start)}
        try:
            found["status, s"] = seconds(server.status)
            arguments = ["only=create,rename,unlink", "count=2000", *self.lists(server.mount, turn, count)]
            for key, value in self.run_ops(Subject("large", server.mount / "bench"), turn, *arguments).items():
                found[f"{key}, ns"] = value
            status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
            found["resident at most, MiB"] = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) >> 10
            found["of it at the end no file's pages, MiB"] = int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) >> 10
            wait_until("sealed", lambda: not server.status()["journal_rows"], 600, 0.05)
        finally:
            seconds(server.kill if turn % 2 else server.stop)
        return found


def keep_best(best, found):
    for key, value in found.items():
        best[key] = max(value, best.get(key, 0)) if "MiB" in key else min(value, best.get(key, value))


def path_of(number):
    """As bench/fill names them."""
    return f"d{number // 100000}/e{number // 1000}/f{number}"


def fill_natively(root, count):
    for first in range(0, count, 1000):
        directory = (root / path_of(first)).parent
        directory.mkdir(parents=True)
        fd = os.open(directory, os.O_RDONLY)
        for number in range(first, first + 1000):
            os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        os.close(fd)


def options_of(arguments):
    options = dict(a.split("=", 1) for a in arguments if "=" in a)
    wanted = [a for a in arguments if "=" not in a] or SECTIONS
    unknown = set(wanted) - set(SECTIONS) | set(options) - {"rounds", "data", "before", "nice", "files"}
    if unknown:
        sys.exit(f"unknown: {' '.join(sorted(unknown))}\n{__doc__}")
    return wanted, options


def main():
    wanted, options = options_of(sys.argv[1:])
    bench = Bench(options)
    ceph = Ceph(bench.world, 2) if {"peers", "peerwork"} & set(wanted) else None
    os.sched_setaffinity(0, {0})
    if "nice" in options:
        os.nice(int(options["nice"]))
    note(f"{time.strftime('%F %T')}, load {os.getloadavg()[0]:.1f}, minima of {bench.rounds}")
    for section in wanted:
        getattr(bench, section)(*([ceph] if section.startswith("peer") else []))
    note("\n| target | figure | wanted | |\n|---|---|---|---|")
    for title, figure, limit, verdict in TARGETS:
        note(f"| {title} | {figure:.2f} | {limit} | {verdict} |")
    bench.world.close()


if __name__ == "__main__":
    main()
