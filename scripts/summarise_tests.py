#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints why each skipped test of a JUnit file by ctest was skipped, the names of the failed ones, and, as the last
line, `N passed, N failed, N skipped`. Exit status 1 if a test failed or none ran. With --failures, prints the end of
the output of each failed test instead."""

import re
import sys
import xml.etree.ElementTree as ElementTree


def skip_reason(case: ElementTree.Element) -> str:
    """What the test gave to GTEST_SKIP(), or ctest's own words."""
    output = case.findtext("system-out") or ""
    skipped = re.search(r"^\S+:\d+: Skipped\n(.*?)^\[  SKIPPED \]", output, re.MULTILINE | re.DOTALL)
    if skipped and skipped.group(1).strip():
        return " ".join(skipped.group(1).split())
    if case.get("status") == "disabled":
        return "disabled"
    element = case.find("skipped")
    return (element.get("message") if element is not None else None) or "no reason given"


def was_skipped(case: ElementTree.Element) -> bool:
    """Whether the test chose to skip: a test that could not be started, or that a sanitizer stopped, did not."""
    element = case.find("skipped")
    message = (element.get("message") or "") if element is not None else ""
    if re.search(r"(Address|Leak|Thread|UndefinedBehavior)Sanitizer: |runtime error: ", case.findtext("system-out") or ""):
        return False
    return case.get("status") == "disabled" or message.startswith("SKIP_")


def cases_of(path: str) -> list[ElementTree.Element]:
    try:
        return list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        print(f"no test results: {error}", file=sys.stderr)
        return []


def outcome(case: ElementTree.Element) -> str:
    if case.get("status") == "run" and case.find("failure") is None:
        return "passed"
    return "skipped" if case.get("status") != "fail" and was_skipped(case) else "failed"


def show_failures(path: str) -> int:
    """At most 10 tests and 40 lines of each."""
    failed = [case for case in cases_of(path) if outcome(case) == "failed"]
    for case in failed[:10]:
        print(f"--- {case.get('name')}")
        print("\n".join((case.findtext("system-out") or "no output").rstrip().split("\n")[-40:]))
    for case in failed[10:]:
        print(f"--- {case.get('name')}")
    return 0


def summarise(path: str) -> int:
    passed, failed, skipped = 0, [], []
    for case in cases_of(path):
        name, what = case.get("name"), outcome(case)
        if what == "passed":
            passed += 1
        elif what == "skipped":
            skipped.append((name, skip_reason(case)))
        else:
            failed.append(name)
    for name, reason in skipped:
        print(f"skipped: {name}: {reason}")
    for name in failed:
        print(f"failed: {name}")
    if not passed and not failed:
        print("no test ran: that counts as a failure")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(show_failures(sys.argv[2]) if sys.argv[1] == "--failures" else summarise(sys.argv[1]))
