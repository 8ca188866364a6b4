"""Benchmarks of replication on real mounts, printed as the tables of docs/benchmarks.md (local.py has those of the local side):

    MERIDIAN=build/src/meridian PYTHONPATH=tests/mount python3 tests/bench/bench.py [small] [lag] [requests] [memory] [peers]

Ratios are of one run, side by side; absolute figures of a shared machine swing by a factor of two. TMPDIR chooses the file system; on
ext4 a fresh one is worth making: where thousands of files were removed within the last minutes each new file costs a search
past their inodes, which on the machine of docs/benchmarks.md took half of the daemon's time."""
import os
import shutil
import subprocess
import sys
import threading
import time

from harness import Ceph, World, wait_until


def percentiles(values):
    values = sorted(values)
    return [values[min(len(values) - 1, int(len(values) * p))] for p in (0.5, 0.95, 0.99)]


class Watch:
    """Notes when files can be read on the other server. Changes within a directory arrive in order, so that only the next one
    need be tried, which costs that server next to nothing."""

    def __init__(self, directory, count):
        self.directory, self.count = directory, count
        self.seen = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        end = time.monotonic() + 300
        while len(self.seen) < self.count and time.monotonic() < end:
            try:
                with open(os.path.join(self.directory, f"f{len(self.seen)}"), "rb", buffering=0) as file:
                    if len(file.read()) != 4096:
                        raise SystemExit(f"{file.name} is torn")
                self.seen.append(time.time())
            except FileNotFoundError:
                time.sleep(0.01)


def small_files(a, b, count, rate=None):
    """Creates files on a, optionally at a rate; returns (seconds until all are on b, lags, seconds to create)."""
    name = f"small-{time.monotonic_ns()}"
    (a.mount / name).mkdir()
    wait_until("the directory", (b.mount / name).is_dir, 60)
    watch = Watch(b.mount / name, count)
    closed = []
    data = os.urandom(4096)
    start = time.time()
    for n in range(count):
        with open(a.mount / name / f"f{n}", "wb", buffering=0) as file:
            file.write(data)
        closed.append(time.time())
        if rate:
            pause = start + (n + 1) / rate - time.time()
            if pause > 0:
                time.sleep(pause)
    created = time.time() - start
    watch.thread.join()
    if len(watch.seen) != count:
        raise SystemExit(f"only {len(watch.seen)} of {count} files arrived")
    return watch.seen[-1] - start, [seen - done for seen, done in zip(watch.seen, closed)], created


def pair(world, regions, tag, **volume):
    first, second = list(regions)[0], list(regions)[min(1, len(regions) - 1)]
    a = world.server(f"{tag}-a", regions, home=first, volume={"poll_interval": "1s", **volume})
    b = world.server(f"{tag}-b", regions, home=second, volume={"poll_interval": "1s", **volume})
    a.start()
    b.start()
    return a, b


def load():
    return f"load {os.getloadavg()[0]:.1f}"


def bench_small(a, b, title):
    total, lags, created = small_files(a, b, 10000)
    p = percentiles(lags)
    print(f"| {title}: 10,000 files of 4 KiB | created {10000 / created:.0f}/s | end to end {10000 / total:.0f}/s | "
          f"p50 {p[0]:.2f} s | p95 {p[1]:.2f} s | p99 {p[2]:.2f} s | {load()} |", flush=True)
    start = time.monotonic()
    a.flush(600)
    print(f"| {title}: all objects in all regions after | {time.monotonic() - start:.1f} s more |", flush=True)


def bench_lag(a, b, title):
    _, lags, _ = small_files(a, b, 2000, rate=100)
    p = percentiles(lags)
    print(f"| {title}: 100 files/s for 20 s | | | p50 {p[0]:.2f} s | p95 {p[1]:.2f} s | p99 {p[2]:.2f} s | {load()} |", flush=True)
    a.flush(600)


def bench_requests(a, regions):
    a.flush()
    time.sleep(3)
    before, start = a.status()["counters"], time.monotonic()
    (a.mount / "requests").mkdir()
    for n in range(1000):
        (a.mount / "requests" / f"f{n}").write_bytes(b"x" * 4096)
    a.flush()
    after, polls = a.status()["counters"], time.monotonic() - start
    delta = {name: after[name] - before[name] for name in after}
    objects = delta["objects_put_total"]
    print(f"| requests for 1,000 small files and their directory, per region | {objects / regions:.1f} object PUTs | "
          f"{(delta['store_requests_total'] - objects) / regions:.1f} others, of them "
          f"{delta['segments_sent_total'] / regions:.1f} segments and {polls / regions:.1f} polls | {load()} |", flush=True)


def memory(server):
    """Resident now and at most, MiB."""
    values = {}
    for line in open(f"/proc/{server.process.pid}/status", encoding="utf-8"):
        if line.startswith(("VmRSS", "VmHWM")):
            values[line[:5]] = int(line.split()[1]) // 1024
    return f"{values['VmRSS']} MiB, peak {values['VmHWM']} MiB"


def bench_memory(a, b, title):
    print(f"| {title}: resident | a {memory(a)} | b {memory(b)} |", flush=True)


def bench_rsync(a, b):
    seconds = timed(lambda: subprocess.run(["rsync", "-a", "/usr/include", str(a.mount)], check=True))
    bench_memory(a, b, f"after rsync -a of /usr/include ({seconds:.0f} s, {load()})")
    a.flush(900)
    bench_memory(a, b, "after its objects are in all regions")


def timed(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


# ---- beside s3fs ----


def create_small(directory):
    os.mkdir(directory)
    for n in range(300):
        with open(os.path.join(directory, f"f{n}"), "wb", buffering=0) as file:
            file.write(b"x" * 4096)


def untar(archive, directory):
    os.mkdir(directory)
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)


def write_large(path):
    with open(path, "wb", buffering=0) as file:
        chunk = b"y" * (1 << 20)
        for _ in range(256):
            file.write(chunk)


def bench_peers(world, ceph, a):
    if not shutil.which("s3fs"):
        print("s3fs is not installed: no comparison")
        return
    env = ceph.env()
    password = world.dir / "passwd-s3fs"
    password.write_text(f"{env['S3_ACCESS_KEY']}:{env['S3_SECRET_KEY']}\n")
    password.chmod(0o600)
    peer = world.dir / "s3fs"
    peer.mkdir()
    process = subprocess.Popen(["s3fs", f"{ceph.buckets[0]}:/", peer, "-f", "-o", f"passwd_file={password}", "-o",
                                f"url={env['S3_ENDPOINT_1']}", "-o", "use_path_request_style,multireq_max=20"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("s3fs mounts", lambda: os.path.ismount(peer), 20)
        archive = world.dir / "tree.tar"
        subprocess.run(["tar", "-cf", archive, "-C", "/usr/include", "asm-generic", "sound", "net", "netinet"],
                       check=True)
        jobs = [("create 300 files of 4 KiB", create_small, "c"), ("untar 4 directories of headers", lambda d: untar(archive, d), "t"),
                ("write 256 MiB in sequence", write_large, "w")]
        print(f"| job | meridian | s3fs | ratio | {load()} |\n|---|---|---|---|---|")
        for title, job, name in jobs:
            ours, theirs = [], []
            for n in range(2):
                ours.append(timed(lambda: job(str(a.mount / f"{name}{n}"))))
                theirs.append(timed(lambda: job(str(peer / f"{name}{n}"))))
            print(f"| {title} | {min(ours):.3f} s | {min(theirs):.2f} s | {min(theirs) / min(ours):.1f} |", flush=True)
    finally:
        subprocess.run(["umount", "-l", peer], check=False)
        process.terminate()
        process.wait()


def main():
    wanted = set(sys.argv[1:]) or {"small", "lag", "requests", "memory", "peers"}
    world = World()
    if wanted & {"small", "lag", "memory"}:
        a, b = pair(world, world.directories("east", "west"), "dir")
        if "small" in wanted:
            bench_small(a, b, "two file:// regions")
        if "lag" in wanted:
            bench_lag(a, b, "two file:// regions")
        if "memory" in wanted:
            bench_memory(a, b, "file:// regions, after these")
        a.stop()
        b.stop()
    if wanted & {"small", "lag", "requests", "memory", "peers"}:
        bench_ceph(world, wanted)
    world.close()


def bench_ceph(world, wanted):
    ceph = Ceph(world)
    regions = {f"region-{n}": ceph.region(n) for n in (1, 2, 3)}
    a, b = pair(world, regions, "ceph")
    if "lag" in wanted:
        bench_lag(a, b, "three Ceph regions")
    if "small" in wanted:
        bench_small(a, b, "three Ceph regions")
    if "requests" in wanted:
        bench_requests(a, len(regions))
    if "memory" in wanted:
        bench_rsync(a, b)
    if "peers" in wanted:
        bench_peers(world, ceph, a)
    if "memory" in wanted:
        bench_memory(a, b, "three Ceph regions, after all")
    a.stop()
    b.stop()


if __name__ == "__main__":
    main()
