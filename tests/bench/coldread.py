"""A cold sequential read beside curl, printed as the table of docs/benchmarks.md ("A cold read of a large file"):

    TMPDIR=/dev/shm MERIDIAN=build/src/meridian PYTHONPATH=tests/mount python3 tests/bench/coldread.py
        [size=1024] [rounds=9] [rtt=20,80] [link=1000,2500] [also=MERIDIAN2,MERIDIAN3] [profile=FILE] [option.KEY=VALUE]

One Ceph gateway (memstore) of this machine has a file. In turns: a program reads it in order through a mount where none of it is, and curl
fetches it with 8 and with 4 ranges at once, into files, as one process (-Z) and as one for each range. TMPDIR holds state and files:
size=1024 needs 3 GiB of it besides the memory of the store (1 GiB more for each build). rtt=: the store is as many milliseconds away, for
all of them, by the delaying ports of delay.c (BENCH: where that lies), a table each; link=: what it sends passes a link of so many
Mbit/s (a queueing discipline on the loopback of a network namespace of its own), a table each; also=: other builds of the daemon that take their turn
too; profile=: what perf records of the first read, of the whole machine; curl=: with how many ranges, or "no"."""
import os
import pathlib
import shutil
import subprocess
import sys
import time

from harness import Ceph, World, wait_until
from replicate import Line
import harness

MIB = 1 << 20


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


class Cold:
    def __init__(self, options):
        self.size = int(options.get("size", 1024)) * MIB
        self.rounds = int(options.get("rounds", 9))
        self.profile = options.get("profile")
        self.rtts = [int(ms) for ms in options["rtt"].split(",")] if "rtt" in options else [None]
        self.world = World()
        self.ceph = Ceph(self.world, gateways=1)
        volume = {key[7:]: value for key, value in options.items() if key.startswith("option.")}
        regions = {"region-1": self.ceph.region(1)}
        writer = self.world.server("a", regions)
        writer.start()
        with open("/dev/urandom", "rb") as source, open(writer.mount / "large", "wb") as file:
            for _ in range(self.size // MIB):
                file.write(source.read(MIB))
        writer.flush(600)
        writer.stop()
        shutil.rmtree(writer.state)
        self.readers = {}
        self.program = {"Meridian": harness.MERIDIAN, **{pathlib.Path(path).parts[-3]: path for path in options.get("also", "").split(",") if path}}
        client, self.line = self.ceph.client(1), None
        if "rtt" in options:
            self.line = Line([int(self.ceph.env()["S3_ENDPOINT_1"].rsplit(":", 1)[1])], ["all"])
            regions["region-1"]["endpoint"] = f"http://127.0.0.1:{self.line.port('all', 1)}"
            client = self.ceph.client(1, {"S3_ENDPOINT_1": regions["region-1"]["endpoint"]})
        for name, program in self.program.items():
            harness.MERIDIAN = program
            server = self.world.server(name, regions, volume=volume)
            server.start()
            wait_until("the file", (server.mount / "large").exists, 60)
            self.readers[name] = server
        self.ranges = [int(n) for n in options.get("curl", "8,4").split(",") if n != "no"]
        self.url = client.generate_presigned_url("get_object", Params={"Bucket": self.ceph.buckets[0], "Key": "app/large"}, ExpiresIn=36000)
        self.curl = ["curl", "-sSf", "--no-progress-meter", "--noproxy", "*"]
        self.parts = self.world.dir / "parts"
        self.links = [int(rate) for rate in options["link"].split(",")] if "link" in options else [None]
        if "link" in options:
            port = int(self.ceph.env()["S3_ENDPOINT_1"].rsplit(":", 1)[1])
            self.queue("qdisc add dev lo root handle 1: htb default 1")
            self.queue("class add dev lo parent 1: classid 1:1 htb rate 100gbit quantum 200000")
            self.queue("class add dev lo parent 1: classid 1:2 htb rate 100gbit quantum 200000")
            self.queue(f"filter add dev lo parent 1: protocol ip u32 match ip sport {port} 0xffff flowid 1:2")
        self.gateway = [int(pid) for pid in subprocess.run(["pgrep", "-f", str(self.ceph.dir)], stdout=subprocess.PIPE, text=True, check=True).stdout.split()]

    @staticmethod
    def queue(what):
        subprocess.run(["tc", *what.split()], check=True)

    def store_seconds(self):
        return sum(cpu_seconds(pid) for pid in self.gateway if os.path.exists(f"/proc/{pid}"))

    def meridian(self, name, perf=None):
        server = self.readers[name]
        subprocess.run([self.program[name], "evict", server.mount / "large"], check=True, stdout=subprocess.DEVNULL)
        assert server.status()["cache"]["content_files"] == 0
        time.sleep(0.5)
        watch = subprocess.Popen(["perf", "record", "-q", "-g", "-F", "997", "-a", "-o", perf]) if perf else None
        time.sleep(1 if perf else 0)
        before, store, buffer = cpu_seconds(server.process.pid), self.store_seconds(), bytearray(MIB)
        start, got = time.monotonic(), 0
        with open(server.mount / "large", "rb", buffering=0) as file:
            while n := file.readinto(buffer):
                got += n
        seconds = time.monotonic() - start
        # What is left to do counts as work, not as time.
        wait_until("the content", lambda: server.status()["cache"]["content_files"] == 1, 60)
        if watch:
            watch.terminate()
            watch.wait()
        assert got == self.size, f"{got} bytes"
        return self.size / MIB / seconds, cpu_seconds(server.process.pid) - before, self.store_seconds() - store

    def fetch(self, ranges, processes):
        self.parts.mkdir()
        step, commands = self.size // ranges, []
        for i in range(ranges):
            one = ["-r", f"{i * step}-{(i + 1) * step - 1}", "-o", str(self.parts / str(i)), self.url]
            if processes or not commands:
                commands.append([*self.curl, *([] if processes else ["-Z", "--parallel-immediate", "--parallel-max", str(ranges)]), *one])
            else:
                commands[0] += ["--next", *self.curl[1:], *one]
        time.sleep(0.5)
        before, store = os.times(), self.store_seconds()
        start = time.monotonic()
        running = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for command in commands]
        failed = [process.returncode for process in running if process.wait()]
        seconds = time.monotonic() - start
        after = os.times()
        assert not failed and sum(path.stat().st_size for path in self.parts.iterdir()) == self.size, failed
        shutil.rmtree(self.parts)
        return self.size / MIB / seconds, after.children_user + after.children_system - before.children_user - before.children_system, self.store_seconds() - store

    def compare(self, title):
        speed, work, store = {}, {}, {}
        ways = {name: lambda name=name: self.meridian(name) for name in self.readers}
        for ranges in self.ranges:
            ways[f"`curl`, {ranges} ranges, one process"] = lambda n=ranges: self.fetch(n, False)
            ways[f"`curl`, {ranges} ranges, {ranges} processes"] = lambda n=ranges: self.fetch(n, True)
        for name in self.readers:
            self.meridian(name)  # so that all is warm but for the file
        for _ in range(self.rounds):
            for name, way in ways.items():
                mib_s, seconds, others = way()
                speed.setdefault(name, []).append(mib_s)
                work.setdefault(name, []).append(seconds)
                store.setdefault(name, []).append(others)
        print(f"\n{self.rounds} rounds of {self.size // MIB} MiB{title}, load {os.getloadavg()[0]:.1f}\n\n| | lowest | median | highest | processor | the store's |\n|---|---|---|---|---|---|")
        for name, values in speed.items():
            print(f"| {name} | {min(values):.0f} | {median(values):.0f} | {max(values):.0f} | {median(work[name]):.2f} s | {median(store[name]):.2f} s |")
        for reader in self.readers:
            for name in ways:
                if name == reader or (name in self.readers and reader != "Meridian"):
                    continue
                ratio = [a / b for a, b in zip(speed[reader], speed[name])]
                print(f"| {reader} / {name} | {min(ratio):.2f} | **{median(ratio):.2f}** | {max(ratio):.2f} | | |")

    def run(self):
        if self.profile:
            self.meridian("Meridian", self.profile)
        for ms in self.rtts:
            if ms is not None:
                self.line.rtt(ms)
            for rate in self.links:
                if rate is not None:
                    self.queue(f"class change dev lo parent 1: classid 1:2 htb rate {rate}mbit burst 256k quantum 200000")
                self.compare(("" if ms is None else f", {ms} ms away") + ("" if rate is None else f", over {rate} Mbit/s"))


def main():
    bench, options = None, dict(word.split("=", 1) for word in sys.argv[1:])
    if "link" in options and "IN_NAMESPACE" not in os.environ:
        os.environ["IN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, *sys.argv])
    try:
        bench = Cold(options)
        bench.run()
    finally:
        if bench and bench.line:
            bench.line.stop()
        for world in list(World.open):
            world.close()


if __name__ == "__main__":
    main()
