"""Benchmarks on a real mount, printed as the tables of docs/benchmarks.md:

    MERIDIAN=build/src/meridian PYTHONPATH=tests/mount python3 tests/bench/bench.py [small] [lag] [requests] [peers] [memory]

Ratios are of one run, side by side; absolute figures of a shared machine swing by a factor of two."""
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

from harness import Ceph, World, wait_until


def percentiles(values):
    values = sorted(values)
    return [values[min(len(values) - 1, int(len(values) * p))] for p in (0.5, 0.95, 0.99)]


class Watch:
    """Notes when names appear in a directory of the other server."""

    def __init__(self, directory, count):
        self.directory, self.count = directory, count
        self.seen = {}
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        end = time.monotonic() + 300
        while len(self.seen) < self.count and time.monotonic() < end:
            try:
                names = os.listdir(self.directory)
            except OSError:
                names = []
            now = time.time()
            for name in names:
                if name not in self.seen:
                    with open(os.path.join(self.directory, name), "rb") as file:
                        if len(file.read()) == 4096:
                            self.seen[name] = now
            time.sleep(0.02)


def small_files(a, b, count, rate=None):
    """Creates files on a, optionally at a rate; returns (seconds until all are on b, lags, seconds to create)."""
    name = f"small-{time.monotonic_ns()}"
    (a.mount / name).mkdir()
    wait_until("the directory", (b.mount / name).is_dir, 60)
    watch = Watch(b.mount / name, count)
    closed = {}
    data = os.urandom(4096)
    start = time.time()
    for n in range(count):
        with open(a.mount / name / f"f{n}", "wb", buffering=0) as file:
            file.write(data)
        closed[f"f{n}"] = time.time()
        if rate:
            pause = start + (n + 1) / rate - time.time()
            if pause > 0:
                time.sleep(pause)
    created = time.time() - start
    watch.thread.join()
    if len(watch.seen) != count:
        raise SystemExit(f"only {len(watch.seen)} of {count} files arrived")
    lags = [watch.seen[n] - closed[n] for n in closed]
    return max(watch.seen.values()) - start, lags, created


def pair(world, regions, tag, **volume):
    first, second = list(regions)[0], list(regions)[min(1, len(regions) - 1)]
    a = world.server(f"{tag}-a", regions, home=first, volume={"poll_interval": "1s", **volume})
    b = world.server(f"{tag}-b", regions, home=second, volume={"poll_interval": "1s", **volume})
    a.start()
    b.start()
    return a, b


def bench_small(a, b, title):
    total, lags, created = small_files(a, b, 10000)
    p = percentiles(lags)
    print(f"| {title}: 10,000 files of 4 KiB | created {10000 / created:.0f}/s | end to end {10000 / total:.0f}/s | "
          f"p50 {p[0]:.2f} s | p95 {p[1]:.2f} s | p99 {p[2]:.2f} s |", flush=True)


def bench_lag(a, b, title):
    _, lags, _ = small_files(a, b, 2000, rate=100)
    p = percentiles(lags)
    print(f"| {title}: 100 files/s for 20 s | | | p50 {p[0]:.2f} s | p95 {p[1]:.2f} s | p99 {p[2]:.2f} s |", flush=True)


def bench_requests(a, regions):
    a.flush()
    time.sleep(3)
    before = a.status()["counters"]
    (a.mount / "requests").mkdir()
    for n in range(1000):
        (a.mount / "requests" / f"f{n}").write_bytes(b"x" * 4096)
    a.flush()
    after = a.status()["counters"]
    delta = {name: after[name] - before[name] for name in after}
    print(f"| requests for 1,000 small files, {regions} regions | {delta['store_requests_total']} in all | "
          f"{delta['objects_put_total']} object PUTs | {delta['segments_sent_total']} segments |", flush=True)


def timed(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


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
        subprocess.run(["tar", "-cf", archive, "-C", "/usr/include", "linux"], check=True)
        jobs = [("create 300 files of 4 KiB", create_small, "c"), ("untar /usr/include/linux", lambda d: untar(archive, d), "t"),
                ("write 256 MiB in sequence", write_large, "w")]
        print("| job | meridian | s3fs | ratio |\n|---|---|---|---|")
        for title, job, name in jobs:
            ours, theirs = [], []
            for n in range(3):
                ours.append(timed(lambda: job(str(a.mount / f"{name}{n}"))))
                theirs.append(timed(lambda: job(str(peer / f"{name}{n}"))))
            print(f"| {title} | {min(ours):.3f} s | {min(theirs):.2f} s | {min(theirs) / min(ours):.1f} |", flush=True)
    finally:
        subprocess.run(["umount", "-l", peer], check=False)
        process.terminate()
        process.wait()


def main():
    wanted = set(sys.argv[1:]) or {"small", "lag", "requests", "peers", "memory"}
    world = World()
    local = world.directories("east", "west")
    a, b = pair(world, local, "dir")
    if "small" in wanted:
        bench_small(a, b, "two file:// regions")
    if "lag" in wanted:
        bench_lag(a, b, "two file:// regions")
    if "memory" in wanted:
        print(f"| resident after it, file:// | a {a.resident_kib() // 1024} MiB | b {b.resident_kib() // 1024} MiB |", flush=True)
    a.stop()
    b.stop()
    ceph = Ceph(world)
    regions = {f"region-{n}": ceph.region(n) for n in (1, 2, 3)}
    a, b = pair(world, regions, "ceph")
    if "lag" in wanted:
        bench_lag(a, b, "three Ceph regions")
    if "small" in wanted:
        bench_small(a, b, "three Ceph regions")
    if "requests" in wanted:
        bench_requests(a, 3)
    if "peers" in wanted:
        bench_peers(world, ceph, a)
    if "memory" in wanted:
        print(f"| resident after all, Ceph | a {a.resident_kib() // 1024} MiB | b {b.resident_kib() // 1024} MiB |", flush=True)
    a.stop()
    b.stop()
    world.close()


if __name__ == "__main__":
    main()
