"""Random operations on a mount, and the model of what they leave (for test_soak.py).

As a program it is one client: `soak.py KIND ROOT LOG START SEED NAME` does operations below ROOT one after the other, and
logs each before its first call and after its last one, until SIGTERM, or until the mount is dead. START is a pickled Tree.
Kinds: private (nobody else writes there: the log and the model say exactly what must be there), versions (files that the other
side writes over, too: each content names the one that it replaced), mess (names that all sides make, move and remove)."""
import copy
import ctypes
import errno
import hashlib
import json
import mmap
import os
import pathlib
import pickle
import random
import signal
import stat
import sys
import time

DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV}
VERSIONS = 8
LIBC = ctypes.CDLL(None, use_errno=True)


def data_of(seed, size):
    return random.Random(seed).randbytes(size)


# ---- the model ----

class Node:
    """A file, directory or symbolic link, under as many names as there are. mtime None: not known."""

    def __init__(self, kind, data=b"", mode=0o644, target=""):
        self.kind, self.data, self.mode, self.target = kind, data, mode, target
        self.tag, self.mtime = None, None


class Tree:
    """Paths relative to the root, which is not among them."""

    def __init__(self):
        self.nodes, self.handles = {}, {}

    def below(self, path):
        return [p for p in self.nodes if p.startswith(path + "/")]

    def directories(self):
        return [""] + [p for p, n in self.nodes.items() if n.kind == "d"]

    def files(self):
        return [p for p, n in self.nodes.items() if n.kind == "f"]

    def subject(self, op):
        """The file whose content the operation changes, if it does; it is there before, or made by it."""
        if op["op"] == "append-open":
            return self.handles[op["handle"]]
        return self.nodes.get(op["path"])

    def apply(self, op):
        APPLY[op["op"]](self, op)


def a_create(tree, op):
    node = tree.nodes.setdefault(op["path"], Node("f"))
    node.data, node.mtime = data_of(op["seed"], op["size"]), None


def a_append(tree, op):
    node = tree.subject(op)
    node.data, node.mtime = node.data + data_of(op["seed"], op["size"]), None


def a_pwrite(tree, op):
    node, at, data = tree.subject(op), op["at"], data_of(op["seed"], op["size"])
    if data:
        node.data, node.mtime = node.data[:at].ljust(at, b"\0") + data + node.data[at + len(data):], None


def a_truncate(tree, op):
    node = tree.subject(op)
    node.data, node.mtime = node.data[:op["size"]].ljust(op["size"], b"\0"), None


def a_rename(tree, op):
    source, target = op["path"], op["to"]
    if tree.nodes.get(target) is tree.nodes[source]:
        return  # two names of one file: both stay
    for path in [source, *tree.below(source)]:
        tree.nodes[target + path[len(source):]] = tree.nodes.pop(path)


def a_remove(tree, op):
    del tree.nodes[op["path"]]


def a_exchange(tree, op):
    a, b = op["path"], op["to"]
    tree.nodes[a], tree.nodes[b] = tree.nodes[b], tree.nodes[a]


def set_field(name):
    def setter(tree, op):
        setattr(tree.nodes[op["path"]], name, op[name])
    return setter


APPLY = {
    "create": a_create, "append": a_append, "append-open": a_append, "pwrite": a_pwrite, "map": a_pwrite,
    "truncate": a_truncate, "rename": a_rename, "unlink": a_remove, "rmdir": a_remove, "exchange": a_exchange,
    "mkdir": lambda tree, op: tree.nodes.__setitem__(op["path"], Node("d", mode=0o755)),
    "symlink": lambda tree, op: tree.nodes.__setitem__(op["path"], Node("l", target=op["target"])),
    "link": lambda tree, op: tree.nodes.__setitem__(op["to"], tree.nodes[op["path"]]),
    "chmod": set_field("mode"), "utime": set_field("mtime"), "tag": set_field("tag"),
    "open": lambda tree, op: tree.handles.__setitem__(op["handle"], tree.nodes[op["path"]]),
    "close": lambda tree, op: tree.handles.pop(op["handle"]),
}


# ---- what is there ----

def observe(root):
    """Every path below root as a Node, with ino and nlink."""
    seen, known = {}, {}
    for directory, directories, files in os.walk(root, onerror=raise_it):
        for name in directories + files:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            node = Node(stat.S_ISREG(st.st_mode) and "f" or stat.S_ISDIR(st.st_mode) and "d" or "l", mode=st.st_mode & 0o7777)
            node.ino, node.nlink, node.mtime = st.st_ino, st.st_nlink, st.st_mtime_ns
            if node.kind == "l":
                node.target = os.readlink(path)
            elif node.kind == "f":
                if st.st_ino not in known:
                    with open(path, "rb") as file:
                        known[st.st_ino] = file.read()
                node.data = known[st.st_ino]
                node.tag = tag_of(path)
            seen[os.path.relpath(path, root)] = node
    return seen


def raise_it(error):
    raise error


def tag_of(path):
    try:
        return os.getxattr(path, "user.tag").decode()
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return None


def brief(data):
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:12]}"


def where_differs(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"from byte {at} on"


def diff(tree, seen):
    """What differs, as text lines; nothing when seen is exactly the model."""
    lines = [f"missing: {path}" for path in tree.nodes.keys() - seen.keys()]
    lines += [f"not expected: {path} ({seen[path].kind}, {brief(seen[path].data)})" for path in seen.keys() - tree.nodes.keys()]
    names, inodes = {}, {}
    for path in tree.nodes.keys() & seen.keys():
        want, got = tree.nodes[path], seen[path]
        if want.kind != got.kind:
            lines.append(f"{path}: {got.kind} in place of {want.kind}")
            continue
        if want.data != got.data:
            lines.append(f"{path}: {brief(got.data)}, not {brief(want.data)}, {where_differs(got.data, want.data)}")
        if want.kind != "l" and want.mode != got.mode:
            lines.append(f"{path}: mode {got.mode:o}, not {want.mode:o}")
        if want.target != got.target or want.tag != got.tag:
            lines.append(f"{path}: target or tag {got.target} {got.tag}, not {want.target} {want.tag}")
        if want.kind == "f" and want.mtime is not None and want.mtime != got.mtime:
            lines.append(f"{path}: mtime {got.mtime}, not {want.mtime}")
        if want.kind != "d":
            names.setdefault(id(want), set()).add(path)
            inodes.setdefault(got.ino, set()).add(path)
    groups, shown = ({frozenset(g) for g in table.values()} for table in (names, inodes))
    lines += [f"names of one file: {sorted(g)}" for g in groups - shown]
    lines += [f"one file by mistake: {sorted(g)}" for g in shown - groups if len(g) > 1]
    for group in groups & shown:
        path = next(iter(group))
        if seen[path].kind == "f" and seen[path].nlink != len(group):
            lines.append(f"{path}: {seen[path].nlink} links, not {len(group)}")
    return sorted(lines)


def between(old, new, got):
    """Whether a write that turns old into new, cut short, may leave got."""
    if not min(len(old), len(new)) <= len(got) <= max(len(old), len(new)):
        return False
    for at in range(0, len(got), 4096):
        block = got[at:at + 4096]
        a, b = old[at:at + 4096], new[at:at + 4096]
        if block in (a[:len(block)], b[:len(block)]):
            continue
        if any(c not in (a[i:i + 1], b[i:i + 1]) for i, c in enumerate(block[j:j + 1] for j in range(len(block)))):
            return False
    return True


def settle(tree, pending, seen):
    """The model after a kill: pending (or None) may or may not have happened, or in part. Returns the tree and what differs."""
    states = [tree]
    if pending:
        after = copy.deepcopy(tree)
        after.apply(pending)
        states.append(after)
        if pending["op"] in ("create", "append", "append-open", "pwrite", "map", "truncate"):
            states += partly(tree, after, pending, seen)
    first = None
    for state in reversed(states):
        if pending and pending["op"] == "utime":
            state.nodes[pending["path"]].mtime = None
        lines = diff(state, seen)
        if not lines:
            for path, node in state.nodes.items():
                node.mtime = seen[path].mtime
            state.handles = {}
            return state, []
        first = first or lines
    return tree, first


def partly(tree, after, op, seen):
    """The state in which the content is what was found, if it may be."""
    after = copy.deepcopy(after)
    node = after.subject(op)
    path = next((p for p, n in after.nodes.items() if n is node), None)
    if path is None or path not in seen or seen[path].kind != "f":
        return []
    got, new = seen[path].data, node.data
    old = b"" if op["op"] == "create" and op["path"] not in tree.nodes else tree.subject(op).data
    steps = [(old, b""), (b"", new)] if op["op"] == "create" else [(old, new)]
    if not any(between(a, b, got) for a, b in steps):
        return []
    node.data, node.mtime = got, None
    return [after]


# ---- the client ----

class Client:
    def __init__(self, root, log, seed, name):
        self.root, self.rng, self.name = root, random.Random(seed), name
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.stop = False
        self.number = 0
        signal.signal(signal.SIGTERM, self.ask_to_stop)

    def ask_to_stop(self, *_):
        self.stop = True

    def note(self, **what):
        os.write(self.log, json.dumps(what).encode() + b"\n")

    def path(self, relative):
        return os.path.join(self.root, relative)

    def seed(self):
        return self.rng.getrandbits(48)

    def size(self):
        return self.rng.choice((0, 1, 100, 3000, 3000, 20000, 70000, 200000))

    def run(self):
        while not self.stop:
            time.sleep(self.rng.choice((0, 0, 0.005, 0.02, 0.05)))
            try:
                self.step()
            except OSError as error:
                self.note(error=error.errno, text=str(error))
                return 0 if error.errno in DEAD else 3
        return 0


class Private(Client):
    def __init__(self, root, log, seed, name, tree, large):
        super().__init__(root, log, seed, name)
        self.tree, self.files, self.large = tree, {}, large

    def step(self):
        op = self.choose()
        if op is None:
            return
        self.note(begin=op)
        try:
            mtime = getattr(self, "do_" + op["op"].replace("-", "_"))(op)
        except OSError as error:
            # An exchange is refused while content is not here.
            if op["op"] != "exchange" or error.errno != errno.EINVAL:
                raise
            self.note(refused=True)
            return
        self.note(done=True, mtime=mtime)
        self.tree.apply(op)

    def new_name(self, prefix):
        directory = self.rng.choice(self.tree.directories())
        if directory.count("/") > 1:
            directory = ""
        return os.path.join(directory, f"{prefix}{self.rng.randrange(12)}")

    def choose(self):
        kinds = ("create", "create", "create", "append", "append", "append-open", "append-open", "pwrite", "map", "truncate", "rename",
                 "rename", "rename", "unlink", "unlink", "rmdir", "mkdir", "symlink", "link", "chmod", "utime", "tag", "open", "close",
                 "exchange", "large")
        kind = self.rng.choice(kinds)
        files = self.tree.files()
        if kind == "large":
            return self.choose_large()
        if kind in ("create", "mkdir", "symlink"):
            return self.choose_new(kind)
        if kind == "rename":
            return self.choose_rename()
        if kind in ("unlink", "rmdir"):
            return self.choose_removal(kind, files)
        if kind in ("append-open", "close"):
            handle = self.rng.choice(list(self.files) or [0])
            op = {"op": kind, "handle": handle, "seed": self.seed(), "size": self.rng.choice((1, 100, 3000))}
            return op if handle else None
        if not files:
            return None
        op = {"op": kind, "path": self.rng.choice(files), "sync": self.rng.random() < 0.2}
        size = len(self.tree.nodes[op["path"]].data)
        if kind in ("append", "pwrite"):
            op |= {"seed": self.seed(), "size": self.size(), "at": self.rng.randrange(size + 1000)}
        elif kind == "map":
            op |= {"seed": self.seed(), "size": min(size, 1 + self.rng.randrange(9000)), "at": 0}
            op["at"] = self.rng.randrange(size - op["size"] + 1)
            return op if size else None
        elif kind == "truncate":
            op["size"] = self.rng.choice((0, size // 2, size + 5000))
        elif kind in ("link", "exchange"):
            op["to"] = self.new_name("f") if kind == "link" else self.rng.choice(files)
            if (op["to"] in self.tree.nodes) == (kind == "link") or self.tree.nodes.get(op["to"]) is self.tree.nodes[op["path"]]:
                return None
        elif kind == "chmod":
            op["mode"] = self.rng.choice((0o600, 0o640, 0o755))
        elif kind == "utime":
            op["mtime"] = self.rng.randrange(10**18, 17 * 10**17)
        elif kind == "tag":
            op["tag"] = f"{self.seed():x}"
        elif kind == "open":
            op["handle"] = self.seed()
            return op if len(self.files) < 3 else None
        return op

    def choose_large(self):
        """A file that goes to the regions in parts, now and then."""
        if not self.large or self.rng.random() > 0.15:
            return None
        path = f"large{self.rng.randrange(2)}"
        node = self.tree.nodes.get(path)
        if node and node.kind != "f":
            return None
        op = {"path": path, "seed": self.seed(), "sync": False}
        if node is None or self.rng.random() < 0.3:
            return op | {"op": "create", "size": self.large}
        return op | {"op": "pwrite", "size": self.size(), "at": self.rng.randrange(len(node.data) + 1)}

    def choose_new(self, kind):
        prefix = {"mkdir": "d", "create": "f", "symlink": "l"}[kind]
        op = {"op": kind, "path": self.new_name(prefix), "sync": self.rng.random() < 0.2}
        there = self.tree.nodes.get(op["path"])
        if kind == "create":
            op |= {"seed": self.seed(), "size": self.size()}
            return op if there is None or there.kind == "f" else None
        if kind == "symlink":
            op["target"] = f"to/{self.seed():x}"
        return op if there is None else None

    def choose_rename(self):
        source = self.rng.choice(list(self.tree.nodes) or [None])
        if source is None:
            return None
        node = self.tree.nodes[source]
        target = self.new_name("d" if node.kind == "d" else "f")
        there = self.tree.nodes.get(target)
        if (target + "/").startswith(source + "/"):
            return None
        if there and (node.kind == "d") != (there.kind == "d"):
            return None
        if there and there.kind == "d" and self.tree.below(target):
            return None
        return {"op": "rename", "path": source, "to": target}

    def choose_removal(self, kind, files):
        if kind == "unlink":
            paths = [p for p, n in self.tree.nodes.items() if n.kind == "l"] + files
            paths = paths if len(paths) > 25 or self.rng.random() < 0.4 else []
        else:
            paths = [p for p in self.tree.directories() if p and not self.tree.below(p)]
        return {"op": kind, "path": self.rng.choice(paths)} if paths else None

    def write(self, op, flags, at=None):
        fd = os.open(self.path(op["path"]), flags, 0o644)
        try:
            self.write_all(fd, data_of(op["seed"], op["size"]), at)
            if op["sync"]:
                os.fsync(fd)
        finally:
            os.close(fd)
        return self.mtime(op)

    @staticmethod
    def write_all(fd, data, at=None):
        while data:
            n = os.write(fd, data) if at is None else os.pwrite(fd, data, at)
            data, at = data[n:], None if at is None else at + n

    def mtime(self, op):
        return os.stat(self.path(op["path"])).st_mtime_ns

    def do_create(self, op):
        return self.write(op, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def do_append(self, op):
        return self.write(op, os.O_WRONLY | os.O_APPEND)

    def do_pwrite(self, op):
        return self.write(op, os.O_WRONLY, op["at"])

    def do_map(self, op):
        fd = os.open(self.path(op["path"]), os.O_RDWR)
        try:
            with mmap.mmap(fd, 0) as mapped:
                mapped[op["at"]:op["at"] + op["size"]] = data_of(op["seed"], op["size"])
                mapped.flush()
        finally:
            os.close(fd)
        return self.mtime(op)

    def do_truncate(self, op):
        os.truncate(self.path(op["path"]), op["size"])
        return self.mtime(op)

    def do_rename(self, op):
        os.rename(self.path(op["path"]), self.path(op["to"]))

    def do_exchange(self, op):
        if LIBC.renameat2(-100, os.fsencode(self.path(op["path"])), -100, os.fsencode(self.path(op["to"])), 2):
            raise OSError(ctypes.get_errno(), "exchange")

    def do_unlink(self, op):
        os.unlink(self.path(op["path"]))

    def do_rmdir(self, op):
        os.rmdir(self.path(op["path"]))

    def do_mkdir(self, op):
        os.mkdir(self.path(op["path"]), 0o755)

    def do_symlink(self, op):
        os.symlink(op["target"], self.path(op["path"]))

    def do_link(self, op):
        os.link(self.path(op["path"]), self.path(op["to"]))

    def do_chmod(self, op):
        os.chmod(self.path(op["path"]), op["mode"])

    def do_utime(self, op):
        os.utime(self.path(op["path"]), ns=(op["mtime"], op["mtime"]))
        return op["mtime"]

    def do_tag(self, op):
        os.setxattr(self.path(op["path"]), "user.tag", op["tag"].encode())

    def do_open(self, op):
        self.files[op["handle"]] = os.open(self.path(op["path"]), os.O_WRONLY | os.O_APPEND)

    def do_close(self, op):
        os.close(self.files.pop(op["handle"]))

    def do_append_open(self, op):
        fd = self.files[op["handle"]]
        self.write_all(fd, data_of(op["seed"], op["size"]))
        return os.fstat(fd).st_mtime_ns


def replay(tree, log):
    """Applies what log acknowledges to tree. Returns the operation that was under way, or None, and the error that ended it."""
    pending = error = None
    if not os.path.exists(log):
        return None, None
    for line in pathlib.Path(log).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "begin" in entry:
            pending = entry["begin"]
        elif "done" in entry:
            node = tree.subject(pending) if pending["op"] == "append-open" else None
            tree.apply(pending)
            if entry["mtime"] is not None:
                (node or tree.nodes[pending["path"]]).mtime = entry["mtime"]
            pending = None
        elif "refused" in entry:
            pending = None
        else:
            error = entry
    return pending, error


def version_bytes(version):
    head = f"{version['id']} {version['parent']} {version['file']}\n".encode()
    return head + data_of(version["seed"], version["size"])


class Versions(Client):
    """Each write reads, through one handle, the version that it replaces."""

    def step(self):
        name = f"v{self.rng.randrange(VERSIONS)}"
        try:
            fd = os.open(self.path(name), os.O_RDWR)
        except OSError as error:
            # Replaced again and again while its content was on its way here.
            if error.errno != errno.ESTALE:
                raise
            self.note(stale=name)
            return
        try:
            parent = os.pread(fd, 200, 0).split(b"\n")[0].decode(errors="replace").split(" ")
            self.number += 1
            version = {"id": f"{self.name}.{self.number}", "parent": parent[0] if len(parent) == 3 else "-", "file": name,
                       "seed": self.seed(), "size": self.size()}
            self.note(begin=version)
            data = version_bytes(version)
            os.ftruncate(fd, 0)
            self.note(cut=version["id"])
            Private.write_all(fd, data, 0)
            if self.rng.random() < 0.2:
                os.fsync(fd)
        finally:
            os.close(fd)
        self.note(done=version["id"])
        time.sleep(self.rng.uniform(0, 0.3))


class Mess(Client):
    """Everybody does everything to the same few names."""
    EXPECTED = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ESTALE, errno.ELOOP,
                errno.EPERM}  # the last one: a directory gets no second name

    def any_path(self):
        parts = [f"d{self.rng.randrange(3)}" for _ in range(self.rng.choice((0, 0, 1, 1, 2)))]
        return self.path("/".join([*parts, self.rng.choice(("n", "n", "d")) + str(self.rng.randrange(4))]))

    def step(self):
        a, b = self.any_path(), self.any_path()
        kind = self.rng.choice(("write", "write", "write", "append", "unlink", "rename", "rename", "mkdir", "mkdir", "rmdir",
                                "link", "symlink", "chmod"))
        self.note(begin={"op": kind, "path": a})
        try:
            getattr(self, kind)(a, b)
        except OSError as error:
            if error.errno not in self.EXPECTED:
                raise
        self.note(done=True)
        time.sleep(self.rng.uniform(0, 0.1))

    def write(self, a, _):
        pathlib.Path(a).write_bytes(data_of(self.seed(), self.size()))

    def append(self, a, _):
        with open(a, "ab") as file:
            file.write(data_of(self.seed(), 100))

    def unlink(self, a, _):
        os.unlink(a)

    def rename(self, a, b):
        os.rename(a, b)

    def mkdir(self, a, _):
        os.mkdir(a)

    def rmdir(self, a, _):
        os.rmdir(a)

    def link(self, a, b):
        os.link(a, b)

    def symlink(self, a, _):
        os.symlink("n0", a)

    def chmod(self, a, _):
        os.chmod(a, self.rng.choice((0o700, 0o755, 0o777)))


def client_main(kind, root, log, start, seed, name):
    if kind == "private":
        settings = pickle.loads(pathlib.Path(start).read_bytes())
        return Private(root, log, seed, name, settings["tree"], settings["large"]).run()
    return {"versions": Versions, "mess": Mess}[kind](root, log, seed, name).run()


if __name__ == "__main__":
    sys.exit(client_main(*sys.argv[1:]))
