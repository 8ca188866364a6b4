"""Load generators that check what they read: dbench, stress-ng's file system class, fio with verification."""
import os
import re
import shutil
import unittest

from harness import main
from programs import Programs, need, need_root

# Stressors that say nothing about a file system, or that need what neither this mount nor its kernel has.
LEFT_OUT = {
    "bind-mount": "stress-ng itself takes it for dangerous",
    "binderfs": "a file system of Android's",
    "eventfd": "no files",
    "fiemap": "FS_IOC_FIEMAP is not offered",
    "ioprio": "no files",
    "procfs": "reads /proc",
    "verity": "FS_IOC_ENABLE_VERITY is not offered",
}


class Stress(Programs):
    def stressor(self, name):
        text = self.run_it("stress-ng", "--temp-path", self.dir, f"--{name}", "2", "--timeout", "1s", "--verify", code=None,
                           timeout=60)
        if re.search(r"fail:|not supported|not allowed|skipping stress|No such|failed", text):
            return f"{name}: {text[-1500:]}"
        if "successful run completed" not in text:
            return f"{name}: did not succeed: {text[-1500:]}"
        left = os.listdir(self.dir)
        for entry in left:
            shutil.rmtree(self.dir / entry, ignore_errors=True)
        return f"{name}: left {left}" if left else None

    def test_stress_ng(self):
        need("stress-ng")
        need_root()
        text = self.run_it("stress-ng", "--class", "filesystem?", code=None)
        names = text.partition("stressors:")[2].split()
        self.assertGreater(len(names), 30, text)
        left_out = dict(LEFT_OUT)
        failures = [self.stressor(name) for name in names if name not in left_out]
        print("left out:", {name: reason for name, reason in left_out.items() if name in names})
        self.assertFalse(any(failures), "\n".join(f for f in failures if f))

    def test_dbench(self):
        need("dbench")
        load = "/usr/share/dbench/client.txt"
        text = self.run_it("dbench", "-D", self.dir, "-c", load, "-t", "10", "4")
        self.assertRegex(text, r"Throughput [1-9]")
        self.assertNotIn("ERROR", text)
        print(text.splitlines()[-1])

    def fio(self, *arguments):
        need("fio")
        self.run_it("fio", "--name=verify", f"--directory={self.dir}", "--bs=4k", "--verify=crc32c", "--verify_fatal=1",
                    "--do_verify=1", "--group_reporting", *arguments)

    def test_fio_random(self):
        self.fio("--rw=randrw", "--size=24m", "--numjobs=2", "--fsync=256")

    def test_fio_mmap(self):
        self.fio("--rw=randrw", "--size=24m", "--ioengine=mmap", "--fsync=512")

    def test_fio_direct(self):
        self.fio("--rw=randwrite", "--size=24m", "--ioengine=libaio", "--iodepth=16", "--direct=1")

    def test_fio_mixed_sizes(self):
        self.fio("--rw=write", "--bsrange=512-128k", "--bs_unaligned", "--size=32m", "--fallocate=keep", "--overwrite=1")


if __name__ == "__main__":
    main()
