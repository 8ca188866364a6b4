"""Replication beside rclone, the AWS command line and s3fs, printed as the tables of docs/benchmarks.md:

    TMPDIR=/dev/shm MERIDIAN=build/src/meridian BENCH=build/tests/bench PYTHONPATH=tests/mount python3 tests/bench/replicate.py
        [large] [small] [delta] [lag] [rtt=0,80] [size=1024] [files=10000] [rates=100,1000] [seconds=20] [s3fs=100] [peers=no] [option.KEY=VALUE]

Two regions on Ceph gateways (memstore) of this machine, behind ports that delay what passes (delay.c), counted there for everybody alike;
each server, and each peer, has its own. A new connection costs a round trip more. What is measured runs on core 0 (daemons, peers, and the
programs that read and write), store and ports on core 1 (pin=no: everywhere). option.KEY sets one of [volume], region.KEY of each region.
TMPDIR holds the files and the state directories: size=1024 needs 8 GiB of it besides the 3 GiB of memory that the store takes."""
import multiprocessing
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

from harness import Ceph, World, wait_until

BENCH = pathlib.Path(os.environ.get("BENCH", "build/tests/bench")).resolve()
MIB = 1 << 20
TARGETS = []


def note(text):
    print(text, flush=True)


def table(title, head, rows):
    note(f"\n### {title} (load {os.getloadavg()[0]:.1f})\n")
    note("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        note("| " + " | ".join(str(cell) for cell in row) + " |")


def target(title, figure, limit, least=False):
    met = figure >= limit if least else figure <= limit
    TARGETS.append((title, f"{figure:.2f}", f"{'at least' if least else 'at most'} {limit:g}", "reached" if met else "**missed**"))


def percentiles(values):
    values = sorted(values)
    return [values[min(len(values) - 1, int(len(values) * p))] for p in (0.5, 0.95, 0.99)]


def timed(function, *arguments):
    start = time.monotonic()
    function(*arguments)
    return time.monotonic() - start


def size_text(count):
    units = ["B", "KiB", "MiB", "GiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


# ---- the line ----


class Line:
    """delay.c: for each of `users` one port a region."""

    def __init__(self, targets, users):
        self.users, self.regions = users, len(targets)
        self.process = subprocess.Popen([BENCH / "delay", *(str(t) for _ in users for t in targets)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.ports = [int(self.process.stdout.readline()) for _ in range(len(users) * self.regions)]

    def port(self, user, region):
        return self.ports[self.users.index(user) * self.regions + region - 1]

    def ask(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def rtt(self, ms):
        self.ask(f"rtt {ms}")
        assert self.process.stdout.readline() == "ok\n"

    def passed(self):
        """{(user, region): (connections, requests, bytes sent, bytes received)}"""
        self.ask("stats")
        rows = [tuple(int(n) for n in self.process.stdout.readline().split()) for _ in self.ports]
        return {(user, region + 1): rows[i * self.regions + region]
                for i, user in enumerate(self.users) for region in range(self.regions)}

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Count:
    """What passed since it was made, by user, the mean of `regions`."""

    def __init__(self, line):
        self.line, self.before = line, line.passed()

    def of(self, user, regions):
        now = self.line.passed()
        rows = [[a - b for a, b in zip(now[user, r], self.before[user, r])] for r in regions]
        return [sum(column) / len(regions) for column in zip(*rows)]

    def text(self, user, regions, per=1, unit=""):
        _, requests, sent, received = self.of(user, regions)
        return [f"{requests / per:.2f}{unit}" if per > 1 else f"{requests:.0f}", size_text(sent / per) + unit, size_text(received / per) + unit]


# ---- processor and memory ----


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid):
    for text in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmHWM"):
            return int(text.split()[1]) / 1024
    return 0


class Peer:
    """A program that runs once: its time, its processor time, its peak of memory."""

    def __init__(self, command, env):
        start = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = time.monotonic() - start
        self.cpu = usage.ru_utime + usage.ru_stime
        self.mib = usage.ru_maxrss / 1024
        if process.returncode:
            raise RuntimeError(f"{command}: {process.returncode}: {output[-2000:]}")


class Work:
    """The same of a daemon, since this was made; the peak is that since its start."""

    def __init__(self, server):
        self.pid = server.process.pid
        self.start, self.cpu_before = time.monotonic(), cpu_seconds(self.pid)

    def end(self):
        self.seconds = time.monotonic() - self.start
        self.cpu = cpu_seconds(self.pid) - self.cpu_before
        self.mib = peak_mib(self.pid)
        return self


# ---- the readers on the other server ----


def watch(directory, count, size, queue):
    """Notes when each file f0, f1, ... can be read whole. Changes of one directory arrive in order: only the next one is tried."""
    seen = []
    end = time.monotonic() + 600
    while len(seen) < count and time.monotonic() < end:
        try:
            with open(f"{directory}/f{len(seen)}", "rb", buffering=0) as file:
                if len(file.read()) != size:
                    break
            seen.append(time.monotonic())
        except FileNotFoundError:
            time.sleep(0.005)
    queue.put(seen)


class Watch:
    def __init__(self, directory, count, size=4096):
        self.count, self.queue = count, multiprocessing.Queue()
        self.process = multiprocessing.Process(target=watch, args=(str(directory), count, size, self.queue), daemon=True)
        self.process.start()

    def seen(self):
        seen = self.queue.get()
        self.process.join()
        if len(seen) != self.count:
            raise SystemExit(f"only {len(seen)} of {self.count} files arrived whole")
        return seen


# ---- the benchmarks ----


class Bench:
    def __init__(self, options):
        self.rtts = [int(ms) for ms in options.get("rtt", "0,80").split(",")]
        self.size = int(options.get("size", 1024)) * MIB
        self.files = int(options.get("files", 10000))
        self.rates = [int(rate) for rate in options.get("rates", "100,1000").split(",")]
        self.seconds = int(options.get("seconds", 20))
        self.s3fs_files = int(options.get("s3fs", 100))
        self.volume = {key[7:]: value for key, value in options.items() if key.startswith("option.")}
        self.region_options = {key[7:]: value for key, value in options.items() if key.startswith("region.")}
        self.peers = options.get("peers", "yes") == "yes"
        pinned = options.get("pin", "yes") == "yes"
        self.world = World()
        if pinned:
            os.sched_setaffinity(0, {1})
        # what is replaced goes at once: five versions of 1 GiB in two regions are more than the store holds
        os.environ.setdefault("RGW_OPTS", "--rgw-gc-obj-min-wait=2 --rgw-gc-processor-period=5 --rgw-gc-processor-max-time=60")
        self.ceph = Ceph(self.world, gateways=2)
        self.env = self.ceph.env()
        targets = [self.env[f"S3_ENDPOINT_{n}"].rsplit(":", 1)[1] for n in (1, 2)]
        self.line = Line(targets, ["a", "b", "peer"])
        if pinned:
            os.sched_setaffinity(0, {0})
        self.made = 0
        self.work = self.world.dir / "work"
        self.work.mkdir()
        plain = {key: value for key, value in os.environ.items() if key != "AWS_CA_BUNDLE" and not key.lower().endswith("_proxy")}
        self.peer_env = {**plain, "AWS_ACCESS_KEY_ID": self.env["S3_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": self.env["S3_SECRET_KEY"],
                         "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "RCLONE_CONFIG": "/dev/null",
                         "RCLONE_CONFIG_PEER_TYPE": "s3", "RCLONE_CONFIG_PEER_PROVIDER": "Ceph", "RCLONE_CONFIG_PEER_ENV_AUTH": "true",
                         "RCLONE_CONFIG_PEER_ENDPOINT": self.endpoint("peer", 1)}

    def has(self, peer):
        return self.peers and shutil.which(peer)

    def endpoint(self, user, region):
        return f"http://127.0.0.1:{self.line.port(user, region)}"

    def regions(self, user, count):
        """Of a new volume each time: a prefix of its own."""
        return {f"region-{n}": {**self.ceph.region(n), "url": f"s3://{self.ceph.buckets[n - 1]}/v{self.made}",
                                "endpoint": self.endpoint(user, n), **self.region_options} for n in range(1, count + 1)}

    def pair(self, regions=2):
        self.made += 1
        servers = []
        for user in ("a", "b"):
            options = self.regions(user, regions)
            home = list(options)[0 if user == "a" else -1]
            server = self.world.server(f"{user}{self.made}", options, home=home, volume={"poll_interval": "1s", **self.volume})
            server.start()
            servers.append(server)
        return servers

    def end(self, *servers):
        """Gives the memory back, of the store too."""
        for server in servers:
            server.stop(120)
            shutil.rmtree(server.state, ignore_errors=True)
            self.world.servers.remove(server)

    def rclone(self, *arguments):
        return Peer(["rclone", *arguments], self.peer_env)

    def purge(self):
        self.line.rtt(0)
        for path in self.work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for bucket in self.ceph.buckets:
            for n in range(1, self.made + 1):
                subprocess.run(["rclone", "delete", "--transfers", "32", "--checkers", "32", f"peer:{bucket}/v{n}"], env=self.peer_env,
                               check=False, stderr=subprocess.DEVNULL)
            subprocess.run(["rclone", "delete", "--checkers", "32", f"peer:{bucket}/peer"], env=self.peer_env, check=False, stderr=subprocess.DEVNULL)
        env = ["-c", f"{self.ceph.dir}/ceph.conf"]
        subprocess.run(["radosgw-admin", *env, "gc", "process", "--include-all"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def random_file(self, path):
        with open("/dev/urandom", "rb") as source, open(path, "wb") as file:
            for _ in range(self.size // MIB):
                file.write(source.read(MIB))

    # ---- one large file ----

    def large(self):
        for rtt in self.rtts:
            rows = []
            source = self.work / "source"
            self.random_file(source)
            a, b = self.pair(regions=1)
            a.flush()
            self.line.rtt(rtt)
            up, down = {}, {}
            for name, upload, download in self.large_peers(source):
                count = Count(self.line)
                up[name] = upload()
                sent = count.text("peer", [1])
                count = Count(self.line)
                down[name] = download()
                rows.append(self.large_row(name, up[name], down[name], sent, count.text("peer", [1])))
            up["Meridian"], sent = self.meridian_upload(a, source)
            down["Meridian"], received = self.meridian_download(b, source)
            rows.append(self.large_row("Meridian", up["Meridian"], down["Meridian"], sent, received))
            table(f"A file of {self.size // MIB} MiB, one region, {rtt} ms",
                  ["", "upload", "processor", "memory", "requests", "sent", "download", "processor", "memory", "requests", "received"], rows)
            best = {way: min(of[n].seconds for n in of if n != "Meridian") / of["Meridian"].seconds for way, of in (("upload", up), ("download", down))}
            note(f"\nThe best peer's time by Meridian's: upload {best['upload']:.2f}, download {best['download']:.2f}.")
            self.end(a, b)
            self.purge()

    def large_row(self, name, up, down, sent, received):
        speed = self.size / MIB
        return [name, f"{up.seconds:.2f} s, {speed / up.seconds:.0f} MiB/s", f"{up.cpu:.2f} s", f"{up.mib:.0f} MiB", sent[0], sent[1],
                f"{down.seconds:.2f} s, {speed / down.seconds:.0f} MiB/s", f"{down.cpu:.2f} s", f"{down.mib:.0f} MiB", received[0], received[2]]

    def large_peers(self, source):
        bucket = self.ceph.buckets[0]
        peers = []
        if self.has("rclone"):
            peers.append(("rclone copy", lambda: self.rclone("copyto", source, f"peer:{bucket}/peer/rclone"),
                          lambda: self.rclone("copyto", f"peer:{bucket}/peer/rclone", self.work / "rclone")))
        if self.has("aws"):
            aws = ["aws", "--endpoint-url", self.endpoint("peer", 1), "s3", "cp", "--no-progress"]
            peers.append(("aws s3 cp", lambda: Peer([*aws, source, f"s3://{bucket}/peer/aws"], self.peer_env),
                          lambda: Peer([*aws, f"s3://{bucket}/peer/aws", self.work / "aws"], self.peer_env)))
        return peers

    def meridian_upload(self, a, source):
        count, work = Count(self.line), Work(a)
        shutil.copyfile(source, a.mount / "large")
        a.flush(600)
        return work.end(), count.text("a", [1])

    def meridian_download(self, b, source):
        wait_until("the name on the other server", (b.mount / "large").exists, 60, 0.01)
        count, work = Count(self.line), Work(b)
        with open(b.mount / "large", "rb", buffering=0) as file:
            while file.read(MIB):
                pass
        work.end()
        received = count.text("b", [1])
        subprocess.run(["cmp", source, b.mount / "large"], check=True)
        return work, received

    # ---- many small files ----

    def small(self):
        for rtt in self.rtts:
            rows = []
            source = self.work / "small"
            source.mkdir()
            for n in range(self.files):
                (source / f"f{n}").write_bytes(os.urandom(4096))
            peer = None
            self.line.rtt(rtt)
            if self.has("rclone"):
                for name, more in (("rclone copy --transfers 32", []), ("the same with --no-check-dest --s3-no-head", ["--no-check-dest", "--s3-no-head"])):
                    count = Count(self.line)
                    run = self.rclone("copy", "--transfers", "32", *more, source, f"peer:{self.ceph.buckets[0]}/peer/small{len(rows)}")
                    peer = peer or run
                    rows.append(self.small_row(name, run.seconds, self.files, run.cpu, run.mib, count.text("peer", [1], self.files), peer))
            if self.has("s3fs"):
                rows.append(self.s3fs_small(source, peer))
            for regions in (1, 2):
                seen, objects = self.meridian_small(source, rtt, regions, rows, peer)
                if peer and rtt:
                    target(f"small files at {rtt} ms, {regions} region{'s' * (regions - 1)}: until another server has them, by rclone's rate",
                           peer.seconds / seen, 3, True)
                    target(f"the same until all objects are there", peer.seconds / objects, 3, True)
            table(f"{self.files:,} files of 4 KiB, {rtt} ms", ["", "time", "files/s", "by rclone", "processor a file", "memory", "requests a file",
                                                               "sent a file", "received a file"], rows)
            self.line.rtt(0)
            shutil.rmtree(source)

    def small_row(self, name, seconds, files, cpu, mib, passed, peer):
        ratio = f"{peer.seconds / self.files * files / seconds:.2f}" if peer else ""
        return [name, f"{seconds:.2f} s", f"{files / seconds:.0f}", ratio, f"{cpu / files * 1e6:.0f} µs", f"{mib:.0f} MiB", *passed]

    def s3fs_small(self, source, peer):
        password = self.world.dir / "passwd-s3fs"
        password.write_text(f"{self.env['S3_ACCESS_KEY']}:{self.env['S3_SECRET_KEY']}\n")
        password.chmod(0o600)
        mount = self.world.dir / "s3fs"
        mount.mkdir(exist_ok=True)
        bucket = self.ceph.buckets[0]
        process = subprocess.Popen(["s3fs", f"{bucket}:/", mount, "-f", "-o", f"passwd_file={password},url={self.endpoint('peer', 1)}",
                                    "-o", "use_path_request_style,multireq_max=32"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until("s3fs mounts", lambda: os.path.ismount(mount), 30)
            (mount / "peer").mkdir(exist_ok=True)
            count, before, start = Count(self.line), cpu_seconds(process.pid), time.monotonic()
            # one after another it would take 32 times as long
            names = [str(source / f"f{n}") for n in range(self.s3fs_files)]
            subprocess.run(["xargs", "-P", "32", "-n", "1", "cp", "-t", mount / "peer"], input="\n".join(names), text=True, check=True)
            seconds = time.monotonic() - start
            return self.small_row(f"s3fs, {self.s3fs_files} of them, 32 programs at once", seconds, self.s3fs_files, cpu_seconds(process.pid) - before,
                                  peak_mib(process.pid), count.text("peer", [1], self.s3fs_files), peer)
        finally:
            subprocess.run(["umount", "-l", mount], check=False)
            process.terminate()
            process.wait()

    def meridian_small(self, source, rtt, regions, rows, peer):
        a, b = self.pair(regions)
        (a.mount / "small").mkdir()
        a.flush()
        wait_until("the directory", (b.mount / "small").is_dir, 60)
        time.sleep(1)
        seen = Watch(b.mount / "small", self.files)
        numbers = range(1, regions + 1)
        count, work, other = Count(self.line), Work(a), Work(b)
        start = time.monotonic()
        for n in range(self.files):
            shutil.copyfile(source / f"f{n}", a.mount / "small" / f"f{n}")
        copied = time.monotonic() - start
        arrived = seen.seen()[-1] - start
        other.end()
        a.flush(600)
        objects = time.monotonic() - start
        work.end()
        name = f"Meridian, {regions} region{'s' * (regions - 1)}"
        rows.append(self.small_row(f"{name}: cp returns", copied, self.files, 0, work.mib, ["", "", ""], peer))
        rows[-1][4] = ""
        rows.append(self.small_row(f"{name}: the other server has read them (its processor, memory, requests, all regions)", arrived, self.files, other.cpu,
                                   other.mib, self.summed(count, "b", numbers), peer))
        rows.append(self.small_row(f"{name}: all objects are there (a region)", objects, self.files, work.cpu, work.mib,
                                   count.text("a", numbers, self.files), peer))
        self.end(a, b)
        return arrived, objects

    def summed(self, count, user, regions):
        _, requests, sent, received = [n * len(regions) for n in count.of(user, regions)]
        return [f"{requests / self.files:.3f}", size_text(sent / self.files), size_text(received / self.files)]

    # ---- changes of a large file ----

    def delta(self):
        rtt = self.rtts[-1]
        rows = []
        source = self.work / "source"
        self.random_file(source)
        if self.has("rclone"):
            self.rclone("copyto", source, f"peer:{self.ceph.buckets[0]}/peer/delta")
            self.line.rtt(rtt)
            self.overwrite(source)
            count = Count(self.line)
            run = self.rclone("copyto", source, f"peer:{self.ceph.buckets[0]}/peer/delta")
            rows.append(["rclone copy after 1 MiB was overwritten", "", "", f"{run.seconds:.1f} s", *count.text("peer", [1])[:2], f"{run.cpu:.1f} s"])
            self.purge()  # two regions' copies inside the store need all of it
            self.random_file(source)
        a, b = self.pair()
        self.line.rtt(rtt)
        for name, change in (("new", lambda f: None), ("1 MiB of it overwritten", self.overwrite), ("4 KiB appended", self.append)):
            if name == "new":
                shutil.copyfile(source, a.mount / "large")
                a.flush(600)
                wait_until("the name", (b.mount / "large").exists, 60, 0.01)
                subprocess.run(["cmp", source, b.mount / "large"], check=True)
                continue
            self.delta_row(name, change, a, b, rows)
        table(f"Changes of a file of {self.size // MIB} MiB, two regions, {rtt} ms",
              ["", "sent until the other server sees it", "it sees it after", "objects too after", "requests", "sent, a region", "processor"], rows)
        self.end(a, b)
        self.purge()

    def overwrite(self, path):
        with open(path, "r+b", buffering=0) as file:
            file.seek(self.size // 2 + 12345)
            file.write(os.urandom(MIB))

    def append(self, path):
        with open(path, "ab", buffering=0) as file:
            file.write(os.urandom(4096))

    def delta_row(self, name, change, a, b, rows):
        before = (b.mount / "large").stat().st_mtime_ns
        count, work = Count(self.line), Work(a)
        start = time.monotonic()
        change(a.mount / "large")
        wait_until("the change on the other server", lambda: (b.mount / "large").stat().st_mtime_ns != before, 300, 0.02)
        seen, early = time.monotonic() - start, count.of("a", [1, 2])
        a.flush(900)
        work.end()
        all_sent = count.of("a", [1, 2])
        rows.append([name, size_text(early[2]), f"{seen:.1f} s", f"{work.seconds:.1f} s", f"{all_sent[1]:.0f}", size_text(all_sent[2]),
                     f"{work.cpu:.1f} s"])
        subprocess.run(["cmp", a.mount / "large", b.mount / "large"], check=True)
        if "append" in name:
            target("4 KiB appended: KiB to a region until the other server sees it", early[2] / 1024, 64)
        else:
            target("1 MiB overwritten: MiB to a region", all_sent[2] / MIB, 16)

    # ---- lag ----

    def lag(self):
        rows = []
        for rtt in self.rtts:
            for rate in self.rates:
                self.line.rtt(rtt)  # from the start: the daemon learns how far the region is
                a, b = self.pair()
                rows.append(self.lag_row(a, b, rtt, rate))
                self.line.rtt(0)
                self.end(a, b)
        table(f"Lag, {self.seconds} s of files of 4 KiB, two regions",
              ["round trip, rate", "p50", "p95", "p99", "objects there after", "A: requests a file and region", "sent", "processor a file", "memory",
               "B: requests a second, all regions", "received a file", "processor a file", "memory"], rows)

    def lag_row(self, a, b, rtt, rate):
        total = rate * self.seconds
        (a.mount / "lag").mkdir()
        a.flush()
        wait_until("the directory", (b.mount / "lag").is_dir, 60)
        time.sleep(2)
        seen = Watch(b.mount / "lag", total)
        count, writer, reader = Count(self.line), Work(a), Work(b)
        start = time.monotonic()
        closed = []
        for n in range(total):
            with open(a.mount / "lag" / f"f{n}", "wb", buffering=0) as file:
                file.write(os.urandom(4096))
            closed.append(time.monotonic())
            pause = start + (n + 1) / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
        made = time.monotonic() - start
        p = percentiles([there - done for there, done in zip(seen.seen(), closed)])
        reader.end()
        requests = count.of("b", [1, 2])[1] * 2 / reader.seconds
        received = count.of("b", [1, 2])[3] * 2 / total
        a.flush(900)
        writer.end()
        if rate == max(self.rates):
            target(f"p99 of the lag at {total / made:.0f} files/s and {rtt} ms, seconds", p[2], 3)
        for name, work in (("writer", writer), ("reader", reader)):
            target(f"memory of the {name} at {rate} files/s and {rtt} ms, MiB", work.mib, 200)
        passed = count.text("a", [1, 2], total)
        return [f"{rtt} ms, {total / made:.0f}/s", *(f"{x:.2f} s" for x in p), f"{writer.seconds:.1f} s", passed[0], passed[1],
                f"{writer.cpu / total * 1e6:.0f} µs", f"{writer.mib:.0f} MiB", f"{requests:.1f}", size_text(received),
                f"{reader.cpu / total * 1e6:.0f} µs", f"{reader.mib:.0f} MiB"]


def main():
    wanted = [word for word in sys.argv[1:] if "=" not in word] or ["large", "small", "delta", "lag"]
    bench = Bench(dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word))
    try:
        for name in wanted:
            getattr(bench, name)()
        table("Targets", ["", "measured", "target", ""], TARGETS)
        note(f"\nPeak of this program's children: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MiB.")
    finally:
        bench.world.close()
        bench.line.stop()


if __name__ == "__main__":
    main()
