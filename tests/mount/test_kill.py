"""kill -9 at 20 random moments under a writing load: every write whose call had returned is there after the restart, the
journal drains, both sides converge."""
import multiprocessing
import os
import time
import unittest

from harness import World, Ceph, converge, main, wait_until

KILLS = 20


def writer(root, log_path, seed, begin):
    """Writes, appends, renames and removes, and logs each operation after its call returned. Ends at the first error."""
    import random
    rng = random.Random(seed)
    with open(log_path, "a", buffering=1, encoding="utf-8") as log:
        n = begin
        try:
            while True:
                n += 1
                time.sleep(0.002)  # what is written has to go through three gateways on the same processors
                name = f"f{n}"
                data = f"{name}:{rng.random()}" * rng.choice((1, 10, 400, 3500))
                log.write(f"try {name}\n")
                with open(os.path.join(root, name), "w", encoding="utf-8") as file:
                    file.write(data)
                log.write(f"put {name} {len(data)} {data[:40]}\n")
                choice = rng.random()
                if choice < 0.2:
                    log.write(f"try r{n}\n")
                    os.rename(os.path.join(root, name), os.path.join(root, f"r{n}"))
                    log.write(f"move {name} r{n}\n")
                elif choice < 0.35:
                    log.write(f"try-append {name}\n")
                    with open(os.path.join(root, name), "a", encoding="utf-8") as file:
                        file.write("+tail")
                    log.write(f"append {name}\n")
                elif choice < 0.45:
                    log.write(f"try-remove {name}\n")
                    os.unlink(os.path.join(root, name))
                    log.write(f"remove {name}\n")
        except OSError:
            pass


def replay(log_path):
    """What must be there, and the names whose last operation was cut short."""
    files, doubtful = {}, set()
    pending = None
    with open(log_path, encoding="utf-8") as log:
        for line in log:
            words = line.rstrip("\n").split(" ", 3)
            if words[0].startswith("try"):
                pending = words[1]
                if words[0] == "try" and words[1].startswith("r"):
                    pending = (words[1], "f" + words[1][1:])
                doubtful.update(pending if isinstance(pending, tuple) else (pending,))
                continue
            doubtful.difference_update(pending if isinstance(pending, tuple) else (pending,))
            if words[0] == "put":
                files[words[1]] = (int(words[2]), words[3])
            elif words[0] == "move":
                files[words[2]] = files.pop(words[1])
            elif words[0] == "append":
                size, head = files[words[1]]
                files[words[1]] = (size + 5, head)
            elif words[0] == "remove":
                del files[words[1]]
            # a cut-short operation leaves its names doubtful for ever: the next session uses new ones
            pending = None
    return files, doubtful


class Kill(unittest.TestCase):
    def test_kill_at_random_moments(self):
        world = World()
        ceph = Ceph(world)
        regions = {f"region-{n}": ceph.region(n) for n in (1, 2, 3)}
        a = world.server("a", regions, home="region-1")
        b = world.server("b", regions, home="region-2")
        a.start()
        b.start()
        root = a.mount / "load"
        root.mkdir()
        log = world.dir / "operations"
        total = 0
        for kill in range(KILLS):
            process = multiprocessing.Process(target=writer, args=(str(root), str(log), world.random.random(), (kill + 1) * 1000000))
            process.start()
            time.sleep(world.random.uniform(0.05, 1.2))
            a.kill()
            process.join(60)
            self.assertFalse(process.is_alive(), "a call hangs after the daemon died")
            a.start()
            files, doubtful = replay(log)
            total = len(files)
            present = set(os.listdir(root))
            for name, (size, head) in files.items():
                if name in doubtful:
                    continue
                self.assertIn(name, present, f"lost after kill {kill}")
                self.assertEqual(os.stat(root / name).st_size, size, f"{name} after kill {kill}")
                if name.startswith(f"f{kill + 1}") or name.startswith(f"r{kill + 1}"):
                    with open(root / name, encoding="utf-8") as file:
                        self.assertEqual(file.read(len(head)), head, name)
            unexpected = present - set(files) - doubtful
            self.assertEqual(unexpected, set(), f"after kill {kill}")
        self.assertGreater(total, 100)
        wait_until("the journal drains", lambda: a.backlog() == 0, 120, 0.5)
        converge(a, b, timeout=180)
        world.close()


if __name__ == "__main__":
    main()
