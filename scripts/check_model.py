#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the model of the arena's page protocol (tests/model/page_protocol.pml) with spin: every configuration below,
exhaustively, and the negative controls, which have to fail. docs/arena.md says what that shows.

Exit status 77 if spin or gcc is not installed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "tests" / "model" / "page_protocol.pml"
SKIPPED = 77
TIME_LIMIT_S = 1200

RANGE, CACHE, FREER, HOST = "WITH_RANGE", "WITH_CACHE", "WITH_FREER", "WITH_HOST"


@dataclass
class Configuration:
    name: str
    defines: list[str]
    # "states": assertions in every state, and no process is stuck where all stop (BOUNDED).
    # "waits": nobody waits for ever if everybody alive is scheduled (no cycle at all under weak fairness).
    check: str = "states"
    ci: bool = True
    # Of a negative control: what the assertion that fails says.
    fails: str | None = None


@dataclass
class Outcome:
    configuration: Configuration
    problem: str | None = None
    states: int = 0
    seconds: float = 0
    statements: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    trace: list[str] = field(default_factory=list)


CONFIGURATIONS = [
    # The contract: two allocators, a freer, a touching host, and a death at any instruction.
    Configuration("one_page", [RANGE, CACHE, FREER, HOST]),
    Configuration("one_page_two_deaths", [RANGE, CACHE, FREER, HOST, "DEATHS=2"], ci=False),
    Configuration("one_page_two_caches", [CACHE, "WITH_SECOND=Cache", FREER, HOST], ci=False),
    # Ranges that are claimed in part and undone.
    Configuration("two_pages_range_and_host", [RANGE, FREER, HOST, "PAGES=2"]),
    Configuration("two_pages_range_and_cache", [RANGE, CACHE, FREER, "PAGES=2"], ci=False),
    Configuration("two_pages_two_ranges", [RANGE, "WITH_SECOND=Range", FREER, "PAGES=2"]),
    Configuration("two_pages_two_ranges_and_host", [RANGE, "WITH_SECOND=Range", HOST, "PAGES=2"], ci=False),
    Configuration("two_pages_range_cache_host", [RANGE, CACHE, HOST, "PAGES=2"], ci=False),
    Configuration("two_pages_cache_and_host", [CACHE, FREER, HOST, "PAGES=2"], ci=False),
    # Reservations, and memory that runs out in the middle of a range.
    Configuration("reserve", [RANGE, FREER, HOST, "WITH_RESERVE", "MEMORY_RUNS_OUT"]),
    Configuration("reserve_and_cache", [RANGE, CACHE, FREER, HOST, "WITH_RESERVE", "MEMORY_RUNS_OUT"], ci=False),
    Configuration("two_pages_reserve", [RANGE, FREER, HOST, "WITH_RESERVE", "MEMORY_RUNS_OUT", "PAGES=2"], ci=False),
    # Many recover: one who only looks, and one who has taken the dead one's slot and may die too.
    Configuration("survivor", [RANGE, FREER, HOST, "WITH_SECOND=Survivor"], ci=False),
    Configuration("attach", [RANGE, FREER, "WITH_ATTACHER", "DEATHS=2"]),
    Configuration("attach_and_allocators", [RANGE, CACHE, FREER, "WITH_ATTACHER", "DEATHS=2"], ci=False),
    Configuration("attach_and_host", [RANGE, FREER, HOST, "WITH_ATTACHER", "DEATHS=2"], ci=False),
    Configuration("attach_cache_and_host", [CACHE, FREER, HOST, "WITH_ATTACHER", "DEATHS=2"], ci=False),
    Configuration("attach_two_pages", [RANGE, FREER, "WITH_ATTACHER", "DEATHS=2", "PAGES=2"], ci=False),
    # What comes late: two touches; frees of what is somebody else's.
    Configuration("two_hosts", [RANGE, FREER, HOST, "WITH_SECOND=Host", "TOUCH_MAY_BE_LOST"], ci=False),
    Configuration("wild", [RANGE, FREER, HOST, "WILD"]),
    Configuration("wild_all", [RANGE, CACHE, FREER, HOST, "WILD"], ci=False),
    # Waiting, and coming to an end.
    Configuration("ends", [RANGE, FREER, HOST, "BOUNDED=1"]),
    Configuration("ends_cache", [CACHE, FREER, HOST, "BOUNDED=2"], ci=False),
    Configuration("ends_range", [RANGE, FREER, HOST, "BOUNDED=2"], ci=False),
    Configuration("ends_survivor", [RANGE, FREER, HOST, "WITH_SECOND=Survivor", "BOUNDED=1"], ci=False),
    Configuration("ends_all", [RANGE, CACHE, FREER, HOST, "BOUNDED=1"], ci=False),
    Configuration("waits_range", [RANGE, FREER, HOST, "BOUNDED=1"], check="waits"),
    Configuration("waits_cache", [CACHE, FREER, HOST, "BOUNDED=1"], check="waits", ci=False),
    Configuration("waits_allocators", [RANGE, CACHE, HOST, "BOUNDED=1"], check="waits", ci=False),
    Configuration("waits_two_pages", [RANGE, HOST, "BOUNDED=2", "PAGES=2"], check="waits", ci=False),
    Configuration("waits_attach", [RANGE, HOST, "WITH_ATTACHER", "BOUNDED=1", "DEATHS=2"], check="waits", ci=False),
    Configuration("waits_stopped", [RANGE, FREER, HOST, "STOPPED", "BOUNDED=1"], check="waits"),

    Configuration("separate_owner_word", [RANGE, CACHE, FREER, "SEPARATE_OWNER_WORD"], fails=r"locked\["),
    Configuration("clear_before_punch", [RANGE, FREER, "CLEAR_BEFORE_PUNCH", "DEATHS=0"], fails=r"held\[|memory\["),
    Configuration("recover_without_takeover", [RANGE, CACHE, FREER, "RECOVER_WITHOUT_TAKEOVER"], fails=r"held\["),
    Configuration("help_without_mark", [RANGE, HOST, "PAGES=2", "HELP_WITHOUT_MARK"], fails=r"visited\["),
    Configuration("attach_keeps_generation", [RANGE, FREER, "WITH_ATTACHER", "ATTACH_KEEPS_GENERATION"],
                  fails=r"locked\["),
]


class ToolFailed(Exception):
    pass


def run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired as expired:
        raise ToolFailed(f"{command[0]}: no result after {TIME_LIMIT_S} s") from expired
    output = done.stdout + done.stderr
    # pan's own status says nothing: it is 0 with errors, too.
    if done.returncode != 0 and command[0] != "./pan":
        raise ToolFailed(f"{' '.join(command)}: {output}")
    return output


def make_verifier(configuration: Configuration, folder: Path) -> list[str]:
    """Writes ./pan to the folder; how to call it."""
    shutil.copy(MODEL, folder / "model.pml")
    generated = run(["spin", *(f"-D{define}" for define in configuration.defines), "-a", "model.pml"], folder)
    if "rror" in generated:
        raise ToolFailed(generated)
    # No partial order reduction: all statements but a few touch what is shared. Breadth first gives short traces.
    flags = ["-DNOREDUCE"]
    call = ["./pan", "-m2000000"]
    if configuration.fails:
        flags += ["-DSAFETY", "-DBFS"]
    elif configuration.check == "waits":
        flags += ["-DNP", "-DNFAIR=3"]
        call += ["-l", "-f", "-w23"]
    else:
        flags += ["-DSAFETY", "-DCOLLAPSE"]
        call += ["-w23"]
    run(["gcc", "-O1", "-w", *flags, "-o", "pan", "pan.c"], folder)
    return call


# The ends of processes that go on for ever, deaths (listed for every statement), and what must not be reached.
UNREACHABLE = re.compile(r"-end-|killed&|assert\(0\)")
STATEMENT = re.compile(r"model\.pml:(\d+)(?: =>|, state +\d+,) \"?(.*?)\"?$")


def statements_of(listing: str) -> set[tuple[str, str]]:
    """(process, statement) of each line of `pan -d`, or of what `pan` says was not reached."""
    found, process = set(), ""
    for line in listing.splitlines():
        if header := re.match(r"(?:unreached in )?(?:proctype )?(\w+)$", line):
            process = header[1]
        elif (statement := STATEMENT.search(line)) and not UNREACHABLE.search(line):
            found.add((process, f"{statement[1]}: {statement[2]}"))
    return found


def readable_trace(configuration: Configuration, folder: Path) -> list[str]:
    """Who did what, from the trail that pan wrote, without the setting up."""
    defines = [f"-D{define}" for define in configuration.defines]
    steps = re.findall(r"proc +\d+ \((\w+):\d+\) model\.pml:(\d+) \(state \d+\)\s+\[(.*)\]",
                       run(["spin", *defines, "-t", "-T", "-p", "model.pml"], folder))
    return [f"{process:9} {line:>4}  {text}" for process, line, text in steps if process != "init"]


def check(configuration: Configuration) -> Outcome:
    outcome = Outcome(configuration)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="harena-model-") as name:
        folder = Path(name)
        try:
            call = make_verifier(configuration, folder)
            output = run(call, folder)
            if (folder / "model.pml.trail").exists():
                outcome.trace = readable_trace(configuration, folder)
            all_statements = statements_of(run(["./pan", "-d"], folder))
        except ToolFailed as failed:
            outcome.problem = str(failed)
            return outcome
    outcome.seconds = time.monotonic() - start

    error = re.search(r"^pan:\s?\d+: (.*)", output, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", output)
    if states := re.search(r"(\d+) states, stored", output):
        outcome.states = int(states[1])
    if configuration.fails:
        if not error:
            outcome.problem = "a negative control that holds: the model does not see what it is there to see"
        elif not re.search(configuration.fails, error[1]):
            outcome.problem = f"a negative control that fails for another reason: {error[1]}"
    elif error or not errors or errors[1] != "0":
        outcome.problem = error[1] if error else f"no result: {output[-2000:]}"
    elif "max search depth too small" in output or "Search not completed" in output:
        outcome.problem = "not every state was looked at"
    else:
        reached = all_statements - statements_of(output[output.find("unreached in"):])
        started = {process for process, _ in reached}
        outcome.statements = {statement for process, statement in all_statements if process in started}
        outcome.reached = {statement for _, statement in reached}
    return outcome


def report(outcome: Outcome, show_trace: bool) -> None:
    configuration = outcome.configuration
    if outcome.problem:
        verdict = f"FAILED: {outcome.problem}"
    else:
        verdict = "fails, as it must" if configuration.fails else "holds"
    print(f"{configuration.name:32} {outcome.states:>10} states {outcome.seconds:6.1f} s  {verdict}", flush=True)
    if show_trace or (outcome.problem and not configuration.fails):
        for step in outcome.trace:
            print(f"    {step}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="configurations (default: those of CI)")
    parser.add_argument("--all", action="store_true", help="all configurations, and that no statement goes unreached")
    parser.add_argument("--jobs", type=int, default=1, help="configurations at a time; each takes up to 1.5 GiB")
    parser.add_argument("--trace", action="store_true", help="print how each negative control fails, step by step")
    arguments = parser.parse_args()

    for tool in ("spin", "gcc"):
        if not shutil.which(tool):
            # As googletest says it: scripts/summarise_tests.py looks for these lines.
            print(f"scripts/check_model.py:1: Skipped\n{tool} is not installed; ./dev setup installs it\n"
                  "[  SKIPPED ] page_protocol_model")
            return SKIPPED

    known = {configuration.name: configuration for configuration in CONFIGURATIONS}
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no configuration {unknown[0]}; there are: {' '.join(known)}")
    chosen = [known[name] for name in arguments.names] or [c for c in CONFIGURATIONS if c.ci or arguments.all]

    outcomes = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for outcome in pool.map(check, chosen):
            report(outcome, arguments.trace)
            outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if outcome.problem]
    if arguments.all and not failed:
        unreached = set().union(*(o.statements for o in outcomes)) - set().union(*(o.reached for o in outcomes))
        for statement in sorted(unreached, key=lambda text: int(text.split(":")[0])):
            print(f"tests/model/page_protocol.pml:{statement}: no configuration gets there")
        if unreached:
            return 1
    total = sum(outcome.states for outcome in outcomes)
    print(f"{len(outcomes)} configurations, {total} states, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
