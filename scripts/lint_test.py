#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of lint.py fires on a bad snippet, on the right line, and is silent on a good one."""

import sys
import tempfile
import unittest
from pathlib import Path, PurePosixPath

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))

import lint  # noqa: E402


def findings(rule, path: str, text: str, root: Path = Path(".")) -> list[int]:
    """Lines on which `rule` fires."""
    return [line for line, _ in rule(lint.File(PurePosixPath(path), text, root))]


class Blanking(unittest.TestCase):
    def test_literals_and_comments_vanish_and_lines_stay(self):
        text = 'a("mmap(1)"); // mmap(2)\n/* mmap(3)\n mmap(4) */ b(\'"\'); R"x(mmap(\n5)x" c(1\'000);'
        code = lint.blank(text, strings=True)
        self.assertNotIn("mmap", code)
        self.assertEqual(code.count("\n"), text.count("\n"))
        for kept in ("a(", "b(", "c(1'000);"):
            self.assertIn(kept, code)

    def test_include_paths_stay_when_only_comments_vanish(self):
        self.assertIn('"a//b.hpp"', lint.blank('#include "a//b.hpp"  // c', strings=False))


class Layers(unittest.TestCase):
    def check(self, path, *includes):
        return findings(lint.check_layers, path, "".join(f"#include {i}\n" for i in includes))

    def test_higher_layer_is_reported(self):
        self.assertEqual(self.check("harena/page/a.cpp", '"harena/base/a.hpp"', '"harena/arena/a.hpp"'), [2])

    def test_own_and_lower_layers_are_fine(self):
        self.assertEqual(self.check("harena/arena/a.hpp", '"harena/arena/b.hpp"', '"harena/base/os/c.hpp"'), [])

    def test_library_never_includes_tools_tests_examples(self):
        for folder in ("tools", "tests", "examples"):
            self.assertEqual(self.check("harena/ds/a_test.cpp", f'"{folder}/x/y.hpp"'), [1])

    def test_tests_tools_and_umbrella_header_include_all(self):
        for path in ("tests/a.cpp", "tools/harena/a.cpp", "examples/a/a.cpp", "harena/harena.hpp"):
            self.assertEqual(self.check(path, '"harena/ds/a.hpp"'), [])

    def test_unknown_layer_is_reported(self):
        self.assertEqual(self.check("harena/arena/a.hpp", '"harena/nosuch/b.hpp"'), [1])
        self.assertEqual(self.check("harena/nosuch/a.hpp"), [1])

    def test_include_in_a_comment_is_no_include(self):
        self.assertEqual(self.check("harena/base/a.hpp", '<a>  // #include "harena/arena/a.hpp"'), [])


class SystemCalls(unittest.TestCase):
    def check(self, text, path="harena/arena/a.cpp"):
        return findings(lint.check_system_calls, path, text)

    def test_calls_are_reported(self):
        for text in ("p = mmap(0, n);", "p = ::mmap(0, n);", "  ::close(fd);", "return ::read(fd, b, n);",
                     "if (!munmap(p, n)) x();", "return madvise(p, n, 4);", "ok && ftruncate(fd, n);",
                     "fork();", "x = *mmap(0);", "std::fopen(n, m);", "std::ifstream file(name);",
                     "#include <fstream>", "call(&::munmap);", "{ syscall(SYS_bpf); }", "std::ofstream{name};",
                     "return\n    ioctl(fd, 1);", "(void)::kill(0, 9);", "static_cast<void>(::write(1, p, n));"):
            self.assertEqual(len(self.check(text)), 1, text)

    def test_line_is_that_of_the_call(self):
        self.assertEqual(self.check("// mmap(1)\nint x;\n\nauto p = mmap(1);\n"), [4])

    def test_members_declarations_and_os_functions_are_fine(self):
        for text in ("file.read(buffer);", "file->pread(b);", "bool read(int fd);", "os::mmap(0, n);",
                     "harena::os::mmap(0, n);", "Result<void> munmap(Pages pages);", "void* mmap(std::size_t n);",
                     "Result<void> Window::fork() {", "// mmap(1)", 'log("mmap(2) failed");', "open(file);",
                     "int on_fork();", "memory_read(1);", "read(1); write(2);", "std::uint64_t mmap_count(1);",
                     "struct ::sigaction old{};", "Arena& fork();", "os::Calls::read(1)", "pool->mmap(n)",
                     "std::vector<int> ioctl(int);"):
            self.assertEqual(self.check(text), [], text)

    def test_only_the_library_and_the_tool_are_checked(self):
        call = "::mmap(0, n);"
        for path in ("harena/base/os/memory.cpp", "harena/arena/a_test.cpp", "harena/arena/a_bench.cpp", "tests/a.cpp",
                     "examples/a/a.cpp", "harena/ds/list.bpf.c"):
            self.assertEqual(self.check(call, path), [], path)
        for path in ("tools/harena/main.cpp", "harena/base/a.hpp"):
            self.assertEqual(self.check(call, path), [1], path)


class Form(unittest.TestCase):
    def test_licence(self):
        for path in ("a.cpp", "a.S", "x/CMakeLists.txt", "cmake/a.cmake", "scripts/a.py", "dev", ".ci/run"):
            self.assertEqual(findings(lint.check_licence, path, "1\n2\n3\n// SPDX-License-Identifier: Apache-2.0"), [1])
            self.assertEqual(findings(lint.check_licence, path, "#!x\n# SPDX-License-Identifier: Apache-2.0\n"), [])
        self.assertEqual(findings(lint.check_licence, "README.md", "text"), [])

    def test_pragma_once(self):
        self.assertEqual(findings(lint.check_headers, "harena/base/a.hpp", "// #pragma once\n"), [1])
        self.assertEqual(findings(lint.check_headers, "harena/base/a.hpp", "#pragma once\n"), [])
        self.assertEqual(findings(lint.check_headers, "harena/base/a.cpp", ""), [])

    def test_own_headers_by_full_path_with_quotes(self):
        bad = '#include "a.hpp"\n#include <harena/base/a.hpp>\n#include "../base/a.hpp"\n#include "fmt/core.h"\n'
        good = '#include "harena/base/a.hpp"\n#include <fmt/core.h>\n#include "tests/a.hpp"\n'
        self.assertEqual(findings(lint.check_headers, "harena/base/a.cpp", bad), [1, 2, 3, 4])
        self.assertEqual(findings(lint.check_headers, "harena/base/a.cpp", good), [])
        self.assertEqual(findings(lint.check_headers, "harena/ds/a.bpf.c", "#include <harena/arena.h>\n"), [])

    def test_length(self):
        for path, limit in (("harena/base/a.cpp", 500), ("tools/harena/a.hpp", 500), ("harena/base/a_test.cpp", 900)):
            self.assertEqual(findings(lint.check_length, path, "\n" * limit), [])
            self.assertEqual(findings(lint.check_length, path, "\n" * (limit + 1)), [limit + 1])
        self.assertEqual(findings(lint.check_length, "tests/a.cpp", "\n" * 2000), [])

    def test_unfinished_work(self):
        for word in ("TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK"):
            self.assertEqual(findings(lint.check_unfinished, "a.md", f"\nsee {word}: later"), [2])
        self.assertEqual(findings(lint.check_unfinished, "a.cpp", '"/tmp/aXX' 'XXXX" TODOS shack'), [])

    def test_sleeps(self):
        for text in ("std::this_thread::sleep_for(1s);", "usleep(1);", "::nanosleep(&t, 0);", "sleep(1);"):
            self.assertEqual(findings(lint.check_sleeps, "harena/base/a_test.cpp", text), [1], text)
            self.assertEqual(findings(lint.check_sleeps, "tests/x/a.cpp", text), [1], text)
            self.assertEqual(findings(lint.check_sleeps, "harena/base/a.cpp", text), [], text)
        for text in ("// sleep(1)", "no_sleep(1);", "lock.sleep(1);", "asleep(1);"):
            self.assertEqual(findings(lint.check_sleeps, "tests/a.cpp", text), [], text)

    def test_x86(self):
        for text in ("#include <immintrin.h>", "#include <x86intrin.h>", 'asm("nop");', 'asm volatile("nop");',
                     '__asm__ __volatile__("");', "gregs[REG_RIP] = 0;", "__builtin_ia32_pause();"):
            self.assertEqual(findings(lint.check_x86, "harena/arena/a.cpp", text), [1], text)
            self.assertEqual(findings(lint.check_x86, "harena/arena/a_x86_64.cpp", text), [], text)
            self.assertEqual(findings(lint.check_x86, "harena/bpf/jit/x86_64/a.cpp", text), [], text)
            self.assertEqual(findings(lint.check_x86, "include-bpf/harena/arena.h", text), [], text)
        for text in ('"asm(" // asm("nop")', "disasm(code);", "to_asm(1);", "#include <string.h>"):
            self.assertEqual(findings(lint.check_x86, "harena/arena/a.cpp", text), [], text)


class Links(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "docs").mkdir()
        (self.root / "docs/arena.md").write_text("# The *arena*: `alloc_pages()`\n## Twice\n## Twice\n```\n# not\n```\n")
        (self.root / "dev").write_text("")

    def check(self, text, path="README.md"):
        return findings(lint.check_links, path, text, self.root)

    def test_broken_links_are_reported(self):
        for text in ("[a](docs/none.md)", "![a](none.png)", "[a](docs/arena.md#none)", "[a](#none)", "[a]: none.md",
                     "[a](docs/arena.md#not)", '[a](none.md "title")', "[`a`](none.md)"):
            self.assertEqual(self.check(text), [1], text)
        self.assertEqual(self.check("[a](arena.md)\n[b](dev)", "docs/arena.md"), [2])

    def test_good_links_and_code_are_silent(self):
        for text in ("[a](docs/arena.md)", "[a](docs/arena.md#the-arena-alloc_pages)", "[a](docs/arena.md#twice-1)",
                     "[a](https://example.org/none)", "[a](mailto:a@b)", "# Top\n[a](#top)", "`[a](none.md)`",
                     "```\n[a](none.md)\n```\n", "[a](dev) and [b](docs)"):
            self.assertEqual(self.check(text), [], text)


class Report(unittest.TestCase):
    def test_message_names_file_line_and_remedy(self):
        text = "// SPDX-License-Identifier: Apache-2.0\nauto p = mmap(0);\n"
        self.assertEqual(
            lint.check_file(lint.File(PurePosixPath("harena/arena/a.cpp"), text)),
            ["harena/arena/a.cpp:2: system call mmap() outside harena/base/os; make it in harena/base/os and call it "
             "from here as os::"])


if __name__ == "__main__":
    unittest.main()
