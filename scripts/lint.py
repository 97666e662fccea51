#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the rules of this repository that no compiler knows. Prints `file:line: what is wrong and what to do`.

Each rule is a function from one file to findings. CONTRIBUTING.md says why the rules exist.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from sources import repository_files

# Lowest first; CMakeLists.txt has the same list.
LAYERS = ["base", "page", "vm", "exec", "secret", "arena", "bpf", "kernel", "ds"]

CODE_SUFFIXES = {".cpp", ".hpp", ".h", ".c"}

MAX_LINES = 500
MAX_TEST_LINES = 900

Findings = Iterator[tuple[int, str]]


@dataclass
class File:
    path: PurePosixPath  # from the repository root
    text: str
    root: Path = field(default=Path("."))

    @property
    def is_code(self) -> bool:
        return self.path.suffix in CODE_SUFFIXES

    @property
    def is_test(self) -> bool:
        return (
            self.path.stem.endswith("_test") or self.path.name.endswith("test_support.hpp") or self.path.parts[0] == "tests"
        )

    @property
    def is_bench(self) -> bool:
        return self.path.stem.endswith("_bench")

    @property
    def is_bpf(self) -> bool:
        """A source for the BPF target, where `asm` is BPF assembly."""
        return self.path.name.endswith((".bpf.c", ".bpf.h")) or self.path.parts[0] == "include-bpf"

    @property
    def layer(self) -> str | None:
        parts = self.path.parts
        return parts[1] if parts[0] == "harena" and len(parts) > 2 else None

    @cached_property
    def no_comments(self) -> str:
        return blank(self.text, strings=False)

    @cached_property
    def code(self) -> str:
        return blank(self.text, strings=True)

    def find(self, pattern: re.Pattern, text: str) -> Iterator[tuple[int, re.Match]]:
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match


TOKEN = re.compile(
    r'//(?:[^\n\\]|\\.)*'                                      # line comment
    r'|/\*.*?(?:\*/|\Z)'                                       # block comment
    r'|(?P<raw>\b(?:u8|[uUL])?R"(?P<tag>[^()\\\s]{0,16})\(.*?(?:\)(?P=tag)"|\Z))'
    r'|(?P<string>"(?:[^"\\\n]|\\.)*"?)'
    r"|(?P<number>\b\d(?:'?[\w.])*)"                           # 1'000: no character literal
    r"|(?P<char>'(?:[^'\\\n]|\\.)*'?)",
    re.DOTALL)


def blank(text: str, *, strings: bool) -> str:
    """`text` with comments, and the contents of literals if `strings`, replaced by blanks; line numbers stay."""
    def replace(match: re.Match) -> str:
        token = match.group()
        if match.lastgroup == "number":
            return token
        if match.lastgroup is None:
            return re.sub(r"[^\n]", " ", token)
        if not strings:
            return token
        return token[0] + re.sub(r"[^\n]", " ", token[1:-1]) + (token[-1] if len(token) > 1 else "")

    return TOKEN.sub(replace, text)


# --- (a) layers -------------------------------------------------------------------------------------------------------

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"(?P<quoted>[^"\n]*)"|<(?P<angle>[^>\n]*)>)', re.MULTILINE)


def check_layers(file: File) -> Findings:
    """A layer includes itself and lower layers; the library never includes tools, tests or examples."""
    if file.path.parts[0] != "harena" or not file.is_code:
        return
    if file.layer is not None and file.layer not in LAYERS:
        yield 1, f"folder harena/{file.layer} is not a layer; add it to the order in scripts/lint.py and CMakeLists.txt"
        return
    for line, match in file.find(INCLUDE, file.no_comments):
        parts = PurePosixPath(match["quoted"] or match["angle"]).parts
        if len(parts) < 2:
            continue
        if parts[0] in ("tools", "tests", "examples"):
            yield line, f"the library includes {'/'.join(parts)}; move what it needs into a layer"
        elif parts[0] == "harena" and len(parts) > 2 and match["quoted"] and file.layer is not None:
            if parts[1] not in LAYERS:
                yield line, f"harena/{parts[1]} is not a layer; the order is {' '.join(LAYERS)}"
            elif LAYERS.index(parts[1]) > LAYERS.index(file.layer):
                yield line, (f"layer {file.layer} includes {'/'.join(parts)}, but {parts[1]} is a higher layer; move "
                             f"the shared part down or pass it in")


# --- (b) system calls -------------------------------------------------------------------------------------------------

# Names that nothing else has: a call is reported with and without the leading ::.
CALLS = """
    mmap munmap mremap mprotect pkey_mprotect madvise process_madvise mincore mlock mlock2 munlock mlockall munlockall
    msync ioctl fallocate posix_fallocate ftruncate memfd_create memfd_secret userfaultfd syscall fcntl pread pread64
    pwrite pwrite64 preadv preadv2 pwritev pwritev2 readv writev fork vfork execv execve execvp execvpe execl execlp
    posix_spawn posix_spawnp waitpid kill tgkill pthread_kill sigaction sigaltstack sigprocmask pthread_sigmask
    sigsuspend sigwaitinfo getrlimit setrlimit prlimit prctl fopen fdopen freopen popen mkstemp eventfd timerfd_create
    epoll_create1 epoll_ctl epoll_wait pipe2 dup2 dup3 openat process_vm_readv process_vm_writev setpriority
    sched_setaffinity perf_event_open
""".split()
# Names that functions of this library may also have: only the explicitly global call is reported.
COMMON_CALLS = """
    open close read write stat fstat lstat lseek unlink rename pipe dup poll select send recv socket bind accept
    connect listen link remove access raise signal system clone creat truncate chmod mkdir rmdir
""".split()

BARE_CALL = re.compile(r"(?<![\w$])(?P<name>" + "|".join(CALLS) + r")\s*\(")
GLOBAL_CALL = re.compile(
    r"(?<![\w>:])::\s*(?P<name>" + "|".join(CALLS + COMMON_CALLS) + r")\s*\("
    r"|&\s*::\s*(?P<address>" + "|".join(CALLS + COMMON_CALLS) + r")\b(?!\s*::)")
FILE_STREAM = re.compile(r"\bstd\s*::\s*(?P<name>w?[io]?fstream|basic_[io]?fstream|fopen|freopen|system|remove|rename)\b"
                         r"(?!\s*::)")
FILE_STREAM_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(?P<name>fstream)>", re.MULTILINE)
LAST_TOKEN = re.compile(r"(?:(?P<word>[A-Za-z_]\w*)|(?P<op>::|->|&&|\|\||\S))\s*\Z")
# Words after which a name with '(' is a call and not a declaration.
STATEMENT_WORDS = {"return", "co_return", "co_await", "co_yield", "else", "do", "case", "throw", "not", "and", "or"}


def is_call(before: str) -> bool:
    """Whether `name(` after the text `before` (on one or more lines) calls a free function `name`."""
    token = LAST_TOKEN.search(before)
    if not token:
        return True
    if word := token["word"]:
        return word in STATEMENT_WORDS  # else a type: `Result<void> munmap(`
    op, rest = token["op"], before[:token.start()]
    if op in (".", "->", ">", "::"):
        return False  # a member, the end of a type, or qualified: GLOBAL_CALL and FILE_STREAM look at ::name, std::name
    if op in ("*", "&"):
        owner = LAST_TOKEN.search(rest)  # `void* mmap(` declares, `= *mmap(` calls
        return not (owner and ((owner["word"] and owner["word"] not in STATEMENT_WORDS) or owner["op"] == ">"))
    return op not in ("~",)


def check_system_calls(file: File) -> Findings:
    """System calls are made in harena/base/os only, so that tests can replace them by a double that fails."""
    parts = file.path.parts
    if not file.is_code or file.is_test or file.is_bench or file.is_bpf or parts[0] not in ("harena", "tools"):
        return
    if parts[:3] == ("harena", "base", "os"):
        return
    advice = "make it in harena/base/os and call it from here as os::"
    reported = set()
    for line, match in file.find(BARE_CALL, file.code):
        if is_call(file.code[max(0, match.start() - 300):match.start()]):
            reported.add((line, match["name"]))
            yield line, f"system call {match['name']}() outside harena/base/os; {advice}"
    for line, match in file.find(GLOBAL_CALL, file.code):
        name = match["name"] or match["address"]
        qualifier = LAST_TOKEN.search(file.code[max(0, match.start() - 300):match.start()])
        if name and qualifier and qualifier["word"] and qualifier["word"] not in STATEMENT_WORDS and match["name"]:
            continue  # `int Window ::fork(`: a qualified name with a blank
        if (line, name) not in reported:
            yield line, f"system call ::{name} outside harena/base/os; {advice}"
    for pattern in (FILE_STREAM, FILE_STREAM_INCLUDE):
        for line, match in file.find(pattern, file.code):
            yield line, f"file access by {match['name']} outside harena/base/os; {advice}"


# --- (c) to (g), (i): the form of files -------------------------------------------------------------------------------

def check_licence(file: File) -> Findings:
    """Every source file names its licence in the first three lines."""
    path = file.path
    if (path.suffix in CODE_SUFFIXES | {".S", ".cmake", ".py", ".sh"} or path.name in ("CMakeLists.txt", "dev")
            or path.name.endswith((".cmake.in", ".pc.in")) or str(path) == ".ci/run"):
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in file.text.split("\n")[:3]):
            yield 1, "no licence; put a comment 'SPDX-License-Identifier: Apache-2.0' in the first three lines"


OWN_FOLDERS = ("harena/", "tests/", "tools/", "examples/", "include-bpf/")


def check_headers(file: File) -> Findings:
    """Headers have `#pragma once`; own headers are included by their path from the root, with quotes."""
    if file.path.suffix == ".hpp" and not re.search(r"^#pragma once$", file.no_comments, re.MULTILINE):
        yield 1, "no '#pragma once'; put it after the licence line"
    if file.path.suffix not in (".cpp", ".hpp"):
        return
    for line, match in file.find(INCLUDE, file.no_comments):
        if match["angle"] and match["angle"].startswith(OWN_FOLDERS):
            yield line, f'own header in angle brackets; write #include "{match["angle"]}"'
        elif match["quoted"] and not match["quoted"].startswith(OWN_FOLDERS):
            yield line, (f'#include "{match["quoted"]}" is not a path from the repository root; write the full path, '
                         f"or angle brackets for a header of another project")


def check_length(file: File) -> Findings:
    """A long file has a second subject in it."""
    if file.path.parts[0] not in ("harena", "tools") or file.path.suffix not in CODE_SUFFIXES | {".S"}:
        return
    limit = MAX_TEST_LINES if file.path.name.endswith("_test.cpp") else MAX_LINES
    lines = file.text.count("\n")
    if lines > limit:
        yield limit + 1, f"{lines} lines, and {limit} is the limit; find the second subject in this file and move it out"


UNFINISHED = re.compile(r"\b(" + "|".join(["TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK"]) + r")\b")


def check_unfinished(file: File) -> Findings:
    """Unfinished work is in the issue tracker, not in the files."""
    if file.path.name == "LICENSE" or "corpus" in file.path.parts:
        return
    for line, match in file.find(UNFINISHED, file.text):
        yield line, f"{match.group()} left in the file; do it, or open an issue and delete the note"


SLEEP = re.compile(r"\b(sleep_for|sleep_until)\b|(?<![\w.>])(usleep|nanosleep|clock_nanosleep|sleep)\s*\(")


def check_sleeps(file: File) -> Findings:
    """A test that sleeps is slow or flaky."""
    if file.is_code and file.is_test:
        for line, match in file.find(SLEEP, file.code):
            yield line, f"{match[1] or match[2]} in a test; wait for the event itself (latch, future, eventfd, poll)"


X86 = re.compile(r"#[ \t]*include[ \t]*<(?:\w*intrin|cpuid|sys/reg|asm/prctl)\.h>|\b(?:__)?asm(?:__)?\b\s*(?:volatile\b"
                 r"|__volatile__\b|goto\b|inline\b|\s)*\(|\bREG_R\w+\b|\b__builtin_ia32_\w+|\b__cpuid\w*\s*\(")


def check_x86(file: File) -> Findings:
    """What only x86-64 has is in files that say so in their names."""
    if not file.is_code or file.is_bpf or "x86_64" in str(file.path):
        return
    for line, match in file.find(X86, file.code):
        yield line, (f"'{' '.join(match.group().split())}' is for x86 only; move it to a file with x86_64 in its path, "
                     f"behind a portable function")


# --- (h) Markdown links -----------------------------------------------------------------------------------------------

FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?(?:^(?P=fence)[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?(?P<inline>[^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+[\"'(][^\n]*)?\)"
                  r"|^ {0,3}\[[^\]\n]+\]:\s*<?(?P<reference>[^\s>]+)>?", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(?P<title>.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']")


def erase(pattern: re.Pattern, text: str) -> str:
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def anchors(markdown: str) -> set[str]:
    """The heading anchors of a page, as GitHub makes them."""
    found: set[str] = set(HTML_ANCHOR.findall(markdown))
    counts: dict[str, int] = {}
    for match in HEADING.finditer(erase(FENCE, markdown)):
        title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", match["title"])
        anchor = re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).replace(" ", "-")
        count = counts.get(anchor, 0)
        counts[anchor] = count + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def check_links(file: File) -> Findings:
    """Relative links lead to files, and their fragments to headings."""
    if file.path.suffix != ".md":
        return
    text = erase(CODE_SPAN, erase(FENCE, file.text))
    for line, match in file.find(LINK, text):
        target = match["inline"] if match["inline"] is not None else match["reference"]
        if not target or re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE) or target.startswith("^"):
            continue
        path, _, fragment = target.partition("#")
        base = file.root if path.startswith("/") else file.root / file.path.parent
        linked = base / path.lstrip("/") if path else file.root / file.path
        if path and not linked.exists():
            yield line, f"link to {target}: there is no such file; correct the path"
        elif fragment and linked.suffix == ".md":
            page = linked.read_text(encoding="utf-8") if path else file.text
            if fragment not in anchors(page):
                yield line, f"link to {target}: that page has no heading of this name; correct the fragment"


RULES = [check_layers, check_system_calls, check_licence, check_headers, check_length, check_unfinished, check_sleeps,
         check_x86, check_links]


def check_file(file: File) -> list[str]:
    findings = sorted(finding for rule in RULES for finding in rule(file))
    return [f"{file.path}:{line}: {message}" for line, message in findings]


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    messages: list[str] = []
    for path in repository_files(root):
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a binary file
        messages += check_file(File(PurePosixPath(path), text, root))
    for message in messages:
        print(message)
    if messages:
        print(f"lint: {len(messages)} findings", file=sys.stderr)
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
