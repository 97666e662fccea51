#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The files of this repository: those that git tracks or would track, or all files where there is no git.

Run as a program, prints those whose names end in one of the arguments.
"""

import os
import subprocess
import sys
from pathlib import Path


def repository_files(root: Path) -> list[str]:
    """Sorted paths relative to `root`, with '/' between folders; neither build output nor deleted files."""
    try:
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = []
        for folder, folders, names in os.walk(root):
            folders[:] = [f for f in folders if f not in ("build", ".git", "__pycache__")]
            listed += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(path for path in set(listed) if path and (root / path).is_file())


if __name__ == "__main__":
    for file in repository_files(Path.cwd()):
        if file.endswith(tuple(sys.argv[1:])):
            print(file)
