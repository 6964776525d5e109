"""What is done to the commands of torture_jobs.py, and what has to be true of them afterwards.

Killed before and after every rename, removal and new file, and given again; started twice at once; their reader, their
terminal or a data worker taken away. None may end in a refusal, a traceback, a leftover or another result, and no file
that isn't ours may be touched.
"""

from __future__ import annotations

import os
import pty
import random
import signal
import time
from collections import Counter
from pathlib import Path

from tests.benchmarks.torture_jobs import Job, differences
from tests.kills import STILL_RUNNING, in_child, kill_at, kill_points

KILLED = (
    "overwrite",
    "llava",
    "convert",
    "merge",
    "convert-data",
    "check-data",
    "report",
    "finetune",
    "again",
    "resumed",
)
TWICE = ("convert", "overwrite", "merge", "convert-data", "check-data", "finetune", "again", "resumed")
LEFT = ("reader", "hangup", "closed", "worker")


# What is done for each part: the method, the commands or what is taken away.
PARTS = {
    **{name: [("killed", name)] for name in KILLED},
    "twice": [("twice", name) for name in TWICE],
    "left": [("left", what) for what in LEFT],
    "short": [("killed", "resumed"), ("twice", "finetune"), ("left", "reader"), ("left", "worker")],
}
PARTS["all"] = [deed for name in (*KILLED, "twice", "left") for deed in PARTS[name]]


def jobs_of(part: str) -> set[str]:
    return {"workers" if deed == "left" else name for deed, name in PARTS[part]}


class Parts:
    """Counts what was done, and remembers what went wrong."""

    def __init__(self, jobs: dict[str, Job], draw: random.Random, say=print):
        self.jobs = jobs
        self.draw = draw
        self.say = say
        self.counts: Counter = Counter()
        self.wrong: list[str] = []
        self._expected: dict[str, dict] = {}

    def expected(self, job: Job) -> dict[str, str]:
        if job.name not in self._expected:
            job.prepare()
            if status := in_child(job.run):
                raise RuntimeError(f"{job.name}: status {status}: {job.told()[-2000:]}")
            self._expected[job.name] = job.outcome()
        return self._expected[job.name]

    def check(self, job: Job, where: str, statuses: list[int], allowed: tuple[str, ...] = ()) -> None:
        """Args:
        allowed: what one process may have been refused with.
        """
        faults = differences(self.expected(job), job.outcome())
        told = job.told()
        refused = [status for status in statuses if status]
        if refused and not (allowed and refused == [2] and any(reason in told for reason in allowed)):
            faults.append(f"status {statuses}: {told.strip().splitlines()[-1:]}")
        if "Traceback" in told:
            faults.append(f"traceback: {told.strip().splitlines()[-1]}")
        if faults:
            self.wrong.append(f"{job.name}, {where}: {'; '.join(faults[:3])}")
            self.say(self.wrong[-1])

    def killed(self, name: str, limit: int | None) -> None:
        """Kills a command around each of its file operations, or around `limit` of them, and gives it again."""
        job = self.jobs[name]
        self.expected(job)
        points = kill_points(job.place, job.prepare, job.run)
        self.counts[f"{name}: places"] = len(points)
        if limit is not None and limit < len(points):
            points = sorted(self.draw.sample(points, limit))
        for number, after, operation in points:
            job.prepare()
            status = in_child(lambda number=number, after=after: kill_at(job.place, number, after, job.run))
            where = f"killed {'after' if after else 'before'} {number} ({operation})"
            if status == STILL_RUNNING:
                self.counts["ended before"] += 1
            elif status != -signal.SIGKILL:
                self.wrong.append(f"{name}, {where}: ended with {status} instead: {job.told()[-300:]}")
                continue
            self.counts["kills"] += status == -signal.SIGKILL
            job.log.unlink(missing_ok=True)
            self.check(job, where, [in_child(job.run)])

    def twice(self, name: str, times: int) -> None:
        """Starts a command twice at once: one does it, the other is told so, or comes later and finds it done."""
        job = self.jobs[name]
        self.expected(job)
        for _ in range(times):
            job.prepare()
            second_waits = self.draw.choice([0, self.draw.uniform(0, 0.2), self.draw.uniform(0, 1.5)])
            processes = [self._started(job, 0), self._started(job, second_waits)]
            statuses = [ended(process) for process in processes]
            self.counts["pairs"] += 1
            self.counts["refused"] += statuses.count(2)
            self.check(job, f"twice at once, {second_waits:.2f} s apart", statuses, ("another process is writing it",))

    def left(self, what: str, times: int) -> None:
        """Takes from a run its reader, its terminal, its streams from the start, or a data worker."""
        job = self.jobs["workers"]
        self.expected(job)
        for _ in range(times):
            job.prepare()
            self.counts[f"without {what}"] += 1
            status = getattr(self, f"_without_{what}")(job)
            self.check(job, f"without {what}", [status])

    def _started(self, job: Job, waits: float, prepare=lambda: None) -> int:
        process = os.fork()
        if process:
            return process
        status = 1
        try:
            prepare()
            time.sleep(waits)
            status = job.run()
        finally:
            os._exit(status)

    def _without_reader(self, job: Job) -> int:
        """As `| head -n 3` on both streams."""
        reader, writer = os.pipe()
        process = self._printing(job, writer)
        os.close(writer)
        os.read(reader, self.draw.randint(1, 300))
        time.sleep(self.draw.uniform(0, 1))
        os.close(reader)
        return ended(process)

    def _without_hangup(self, job: Job) -> int:
        """The window of its terminal is closed."""
        process, terminal = pty.fork()
        if not process:
            self._main_and_exit(job)
        os.read(terminal, 100)
        time.sleep(self.draw.uniform(0, 2))
        os.close(terminal)  # the kernel sends SIGHUP
        return ended(process)

    def _without_closed(self, job: Job) -> int:
        """As `>&- 2>&-`."""
        process = os.fork()
        if not process:
            import sys

            for number in self.draw.choice([(1,), (2,), (1, 2), (0, 1, 2)]):
                os.close(number)
                setattr(sys, ("stdin", "stdout", "stderr")[number], None)
            self._main_and_exit(job)
        return ended(process)

    def _without_worker(self, job: Job) -> int:
        """One of its processes is killed, as for want of memory."""
        process = self._started(job, 0)
        seen = time.monotonic()
        while not (workers := children(process)) and not gone(process) and time.monotonic() - seen < 60:
            time.sleep(0.005)
        time.sleep(self.draw.uniform(0, 1))
        if workers := children(process):
            os.kill(self.draw.choice(workers), signal.SIGKILL)
            self.counts["killed workers"] += 1
        return ended(process)

    def _printing(self, job: Job, writer: int) -> int:
        process = os.fork()
        if not process:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            self._main_and_exit(job)
        return process

    def _main_and_exit(self, job: Job) -> None:
        """The command in this process, on the streams that it has."""
        import sys

        from paddle_xc2.cli import main

        status = 1
        try:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is not None:
                    setattr(sys, name, open(1 if name == "stdout" else 2, "w", closefd=False, buffering=1))
            status = main(list(job.words))
        finally:
            os._exit(status)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def gone(process: int) -> bool:
    """Whether a child has ended; it can still be waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
