#!/usr/bin/env python3
"""peers.py - what the comparisons share: contenders that take turns, and what their turns tell.

A contender is a process of its own (its threads and libraries meet nobody else's) that reads one
JSON object per line, {"op": ..., ...}, and answers with one: what it measured, or {"error": text}
or {"skipped": text}. Every measurement has "seconds" and "cpu_seconds" (of all its threads).

Machines are rarely idle, so figures are compared within one run only: in every round each
contender has its turn, and a ratio is the median of the rounds' ratios. With one thread, CPU time
counts, which other work hardly disturbs; with more, it is wall time. `others` is the share of the
machine that other processes used during the turns.

Peers come from Python packages:

    python3 bench/compare/peers.py install      into ~/.cache/kvpager/peers, or $KVP_PEERS
"""
import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = pathlib.Path(os.environ.get("KVP_PEERS", "~/.cache/kvpager/peers")).expanduser()
# What measured best: ggml's own build for this CPU, with its threads and tinyBLAS.
LLAMA_CPP_BUILD = "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DGGML_OPENMP=ON"


class Skipped(Exception):
    """What cannot be measured here, and why."""


class Failed(Exception):
    """What should have worked and did not."""


# ---- packages ----------------------------------------------------------------------------------


def install():
    """A virtual environment with the peers. llama.cpp is compiled, which takes minutes."""
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    pip = [FOLDER / "bin/pip", "install", "--no-input"]
    subprocess.run([*pip, "numpy", "torch", "gguf"], check=True)
    subprocess.run([*pip, "--no-binary", "llama-cpp-python", "llama-cpp-python"], check=True,
                   env={**os.environ, "CMAKE_ARGS": LLAMA_CPP_BUILD})


# ---- contenders --------------------------------------------------------------------------------


class Contender:
    """A process that measures when asked."""

    def __init__(self, name, command, threads):
        self.name = name
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})

    def ask(self, op, **arguments):
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: the empty answer says so
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended, status {self.process.wait()}")
        answer = json.loads(line)
        if "skipped" in answer:
            raise Skipped(f"{self.name}: {answer['skipped']}")
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def python_contender(name, script, threads, arguments=()):
    """One that runs in the peers' environment."""
    python = FOLDER / "bin/python"
    if not python.exists():
        raise Skipped(f"{name}: no {python}; python3 {__file__} install makes it")
    return Contender(name, [python, HERE / script, *arguments], threads)


def serve(operations):
    """The other end, for contenders in Python: operations by name, each returns a dict."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request.pop("op")](**request) or {}
        except Skipped as reason:
            answer = {"skipped": str(reason)}
        except Exception as error:  # whatever a library raises is the answer  # noqa: BLE001
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Stopwatch:
    """with Stopwatch() as watch: ...; then watch.times(), for an answer."""

    def __enter__(self):
        self.cpu, self.wall = time.process_time(), time.monotonic()
        return self

    def __exit__(self, *unused):
        self.wall, self.cpu = time.monotonic() - self.wall, time.process_time() - self.cpu

    def times(self):
        return {"seconds": self.wall, "cpu_seconds": self.cpu}


# ---- turns -------------------------------------------------------------------------------------


def busy_seconds():
    """CPU time that all processes have used so far, stolen time included."""
    fields = pathlib.Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Case:
    """What is compared: {name: function}; a function measures once and returns an answer with
    times and "work", how much was done in them. The first is the one that all are for.

    bars   {peer: the least ratio of the first one's rate to its}
    limit  (name, how much of it a unit of work takes, function that measures how much of it the
           machine has per second): shown as the fraction of it that the first one reaches"""

    def __init__(self, name, unit, turns, bars=None, limit=None):
        self.name, self.unit, self.turns = name, unit, turns
        self.bars, self.limit = bars or {}, limit
        self.rates = {contender: [] for contender in turns}
        self.others, self.fractions = [], []

    @property
    def own(self):
        return next(iter(self.turns))

    def run(self, rounds, threads):
        """One round that warms up, then those that count."""
        for number in range(rounds + 1):
            most = self.limit[2]() if self.limit else None
            for name, turn in self.turns.items():
                busy, began = busy_seconds(), time.monotonic()
                answer = turn()
                wall = time.monotonic() - began
                busy = busy_seconds() - busy - answer["cpu_seconds"]
                if number == 0:
                    continue
                rate = answer["work"] / answer["cpu_seconds" if threads == 1 else "seconds"]
                self.rates[name].append(rate)
                self.others.append(max(0.0, busy) / wall / os.cpu_count())
                if self.limit and name == self.own:
                    self.fractions.append(rate * self.limit[1] / most)

    def median(self, name):
        return statistics.median(self.rates[name])

    def ratio(self, name, to):
        return statistics.median(a / b for a, b in zip(self.rates[name], self.rates[to]))

    def record(self):
        return {"case": self.name, "unit": self.unit, "rates": self.rates,
                "median": {name: self.median(name) for name in self.rates},
                "ratio": {name: self.ratio(self.own, name) for name in self.rates
                          if name != self.own},
                "bars": self.bars, "others": statistics.median(self.others),
                "fraction": {self.limit[0]: statistics.median(self.fractions)} if self.limit
                else {}}


def print_case(case):
    """A line per contender: the first one's ratio to each of the others, and the bar."""
    print(f"{case.name}: {case.unit}; others used {statistics.median(case.others):.0%} of the CPUs")
    for name in case.rates:
        line = f"    {name:<20}{case.median(name):>10.4g}"
        if name != case.own:
            ratio, bar = case.ratio(case.own, name), case.bars.get(name)
            line += f"   {case.own} has {ratio:.2f} x"
            if bar:
                line += f"; bar {bar:.4g}: {'reached' if ratio >= bar else 'MISSED'}"
        elif case.limit:
            line += f"   {statistics.median(case.fractions):.0%} of {case.limit[0]}"
        print(line, flush=True)


# ---- comparisons as programs -------------------------------------------------------------------


def parser(description):
    options = argparse.ArgumentParser(description=description,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=os.cpu_count(),
                         help="of each contender (default: one per CPU); with 1, CPU time counts")
    options.add_argument("--rounds", type=int, default=5, help="turns of each that count (5)")
    options.add_argument("--filter", default="", help="only cases whose name contains it")
    options.add_argument("--without", default="", metavar="NAMES",
                         help="peers to leave out: those whose names begin so (\"torch,llama\")")
    options.add_argument("--json", metavar="FILE", help="also write everything measured there")
    options.add_argument("--build", default=str(ROOT / "build/release"), help="folder of the build")
    return options


@contextlib.contextmanager
def ended_by_signals():
    """SIGTERM ends a run as Ctrl-C does: its contenders end, its files are removed."""
    def interrupt(*unused):
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit(__doc__)
    install()
