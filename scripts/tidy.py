#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy over the C++ files of a build folder's compile_commands.json, several at a time.

A file whose preprocessed text, command and .clang-tidy are those of its last clean run is not checked again.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def fingerprint(entry: dict, tool: bytes) -> str | None:
    """What the result of checking a file depends on; None if it cannot be preprocessed."""
    arguments = shlex.split(entry["command"])
    output = arguments.index("-o")
    del arguments[output:output + 2]
    preprocessed = subprocess.run([*arguments, "-E"], cwd=entry["directory"], capture_output=True)
    if preprocessed.returncode != 0:
        return None
    digest = hashlib.sha256(tool)
    digest.update(" ".join(arguments).encode())
    digest.update(preprocessed.stdout)
    # The preprocessor drops comments, and with them NOLINT.
    digest.update(Path(entry["file"]).read_bytes())
    return digest.hexdigest()


def check(entry: dict, args: argparse.Namespace, tool: bytes) -> tuple[bool, str]:
    """Whether the file is clean, and what to print."""
    file = Path(entry["file"])
    stamp = args.build / "tidy" / hashlib.sha256(entry["file"].encode()).hexdigest()
    key = fingerprint(entry, tool)
    if key and stamp.exists() and stamp.read_text() == key:
        return True, ""
    command = [args.clang_tidy, "-p", str(args.build), "--quiet", "--extra-arg=-Wno-unknown-warning-option"]
    if not args.analyze:
        command.append("--checks=-clang-analyzer-*")
    result = subprocess.run([*command, str(file)], cwd=args.root, capture_output=True, text=True)
    if result.returncode == 0:
        if key:
            stamp.write_text(key)
        return True, result.stdout
    return False, result.stdout or result.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang-tidy", default="clang-tidy")
    parser.add_argument("--build", type=Path, required=True, help="folder of compile_commands.json")
    parser.add_argument("--analyze", action="store_true", help="with the static analyzer, which takes four times as long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.root = Path(__file__).resolve().parent.parent
    args.build = args.build.resolve()
    (args.build / "tidy").mkdir(exist_ok=True)

    tool = subprocess.run([args.clang_tidy, "--version"], capture_output=True, check=True).stdout
    tool += (args.root / ".clang-tidy").read_bytes() + str(args.analyze).encode()
    entries: dict[str, dict] = {}
    for entry in json.loads((args.build / "compile_commands.json").read_text()):
        path = Path(entry["file"])
        if not path.is_relative_to(args.root) or path.is_relative_to(args.root / "build"):
            continue
        # Not the tests: GoogleTest's macros cost it up to a minute a file, and the compilers' warnings are on there too.
        is_test = path.stem.endswith("_test") or path.relative_to(args.root).parts[0] == "tests"
        if path.suffix == ".cpp" and not is_test:
            entries.setdefault(entry["file"], entry)

    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for clean, output in pool.map(lambda entry: check(entry, args, tool), entries.values()):
            failed += not clean
            if output.strip():
                print(output.strip(), flush=True)
    if failed:
        print(f"clang-tidy: {failed} of {len(entries)} files have findings", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
