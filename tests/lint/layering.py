"""The dependency table of the house (docs/architecture.md): who may include whom, and each third-party
header in one folder only."""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])
# folder -> folders whose headers it may include, itself always
ALLOWED = {
    "src/base": set(),
    "cache": {"src/base"},
    "replicator": {"cache", "src/base"},
    "fs": {"cache", "src/base"},
    "src": {"fs", "replicator", "cache", "src/base"},
}
HOME = {
    "sqlite3.h": "cache", "curl/": "replicator", "expat.h": "replicator", "zlib.h": "replicator",
    "fuse": "fs", "ini.h": "src", "systemd/": "src", "jansson.h": "src/base", "openssl/": "src/base",
}
EXACT = {"curl/": "replicator/http"}


def folder(path):
    parts = path.parts
    if parts[0] == "src":
        return "src/base" if len(parts) > 2 and parts[1] == "base" else "src"
    return parts[0]


def main():
    wrong, seen = [], 0
    for file in sorted(ROOT.glob("**/*.[ch]")):
        path = file.relative_to(ROOT)
        if path.parts[0] not in ("src", "cache", "replicator", "fs"):
            continue
        here = folder(path)
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match:
                continue
            seen += 1
            quote, name = match.groups()
            where = f"{path}:{number}"
            if quote == '"':
                there = folder(pathlib.PurePath(name))
                if not (ROOT / name).exists():
                    wrong.append(f"{where}: {name} is not a path from the root")
                elif there != here and there not in ALLOWED[here]:
                    wrong.append(f"{where}: {here} may not include {there}")
            else:
                for prefix, home in HOME.items():
                    if name.startswith(prefix) and here != home:
                        wrong.append(f"{where}: <{name}> belongs to {home}/")
                for prefix, home in EXACT.items():
                    if name.startswith(prefix) and not str(path).startswith(home):
                        wrong.append(f"{where}: <{name}> belongs to {home}/")
    if seen < 50:
        wrong.append(f"only {seen} includes found: is this the project's root?")
    print("\n".join(wrong) or f"{seen} includes obey the table")
    return bool(wrong)


sys.exit(main())
