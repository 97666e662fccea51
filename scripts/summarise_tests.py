#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints why each skipped test of a JUnit file by ctest was skipped, the names of the failed ones, and, as the last
line, `N passed, N failed, N skipped`. Exit status 1 if a test failed or none ran."""

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


def summarise(path: str) -> int:
    passed, failed, skipped = 0, [], []
    try:
        cases = ElementTree.parse(path).getroot().iter("testcase")
    except (OSError, ElementTree.ParseError) as error:
        print(f"no test results: {error}", file=sys.stderr)
        cases = []
    for case in cases:
        name = case.get("name")
        if case.find("failure") is not None or case.get("status") == "fail":
            failed.append(name)
        elif case.get("status") == "run":
            passed += 1
        else:
            skipped.append((name, skip_reason(case)))
    for name, reason in skipped:
        print(f"skipped: {name}: {reason}")
    for name in failed:
        print(f"failed: {name}")
    if not passed and not failed:
        print("no test ran: that counts as a failure")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(summarise(sys.argv[1]))
