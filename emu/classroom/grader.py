"""One submission graded where it can do no harm: built in one sandbox, judged in another, and what came out believed
no further than it can be read.

CPU time does not depend on what else the machine does, so who has used up that is not tried again. Who has made others
wait is tried once more, alone.

In Linux: nothing like it.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from emu import complaint, data
from emu.classroom import device_judge, judge, program, recipe, verdict, work
from emu.classroom.asks import Build
from emu.classroom.assignment import DEVICE, Assignment
from emu.classroom.program import MAX_PROGRAM
from emu.classroom.recipe import Recipe
from emu.classroom.verdict import Judgement
from emu.compiler import Compiler
from emu.faults import HostError
from emu.sandbox.confined import Child
from emu.sandbox.limits import CPU, ENDED, MEMORY, OUTPUT, WALL, Confined, Limits
from emu.sandbox.process import Mothers, mothers_work
from emu.sandbox.tiers import OWN_UID, Tier, closed_to_others, program_paths

BUILDING = Limits(cpu_s=3, wall_s=10, memory=400 << 20, output=MAX_PROGRAM + (1 << 20), processes=True, files=True)
JUDGING = Limits(cpu_s=10, wall_s=30, memory=400 << 20, output=verdict.MAX_RESULT)
HOSTING = Limits(cpu_s=3, wall_s=60, memory=256 << 20)
ENGINE_RESERVE = 16 << 30  # bytes of address space: each engine sets 1 GiB of it aside for translated code
_WHY = {
    CPU: "{what} takes more than {limits.cpu_s} seconds of CPU time",
    WALL: "{what} takes longer than {limits.wall_s} seconds, alone on the machine too",
    MEMORY: "{what} takes more than {memory} MiB of memory, or too many processes",
    OUTPUT: "{what} writes more than {output} KiB",
}

# Which of its bounds a build meets first, and whether as a whole or in one of its processes, depends on the machine.
_TOO_MUCH = f"the build takes more than {BUILDING.cpu_s} seconds of CPU time or {BUILDING.memory >> 20} MiB of memory"
_COMPILERS_LIMITS = {complaint.NEEDS_MORE.format(one) for one in (complaint.CPU_TIME, complaint.MEMORY)}


class Grader:
    """Grades submissions to `assignment` in sandboxes of `tier`, as many at once as call it."""

    def __init__(
        self, assignment: Assignment, tier: Tier, compiler: Compiler, given: Mapping[str, bytes] | None = None
    ) -> None:
        if assignment.kind == DEVICE and tier.name == OWN_UID and (closed := closed_to_others()):
            raise HostError(
                f"a device may import what Python brings, and under {OWN_UID} it cannot: {closed} is closed to others",
                remedy="install Python and emu where every user can read them, such as /opt",
            )
        self._assignment = assignment
        self._tier = tier
        self._compiler = compiler
        self._given = assignment.given_files() if given is None else given
        self._crowd = _Crowd()
        self._children: set[Child] = set()
        self._stopped = False
        self._made: dict[str, bytes] | None = None
        self._making = threading.Lock()
        self._hidden = [str(assignment.folder.resolve()), *(str(one) for one in _shipped())]
        self._mothers = Mothers(tier, self._hidden) if mothers_work() else None

    def grade(self, files: Mapping[str, bytes]) -> Judgement:
        """The judgement of these files. Raises HostError where the sandbox does not work."""
        if self._assignment.kind == DEVICE:
            return self._device(files)
        asked = self._assignment.criteria
        wanted = recipe.of_program(files, self._given, self._compiler, self._prepared())
        done = self._build(wanted)
        if done.ended in (CPU, MEMORY):
            return _limited(self._assignment, _TOO_MUCH, built=False)
        if done.ended != ENDED:
            return _limited(self._assignment, _why(done, "the build", BUILDING), built=False)
        try:
            built = program.sized(wanted, recipe.made(wanted, done.output))
        except HostError as error:
            if error.message in _COMPILERS_LIMITS:
                return _limited(self._assignment, _TOO_MUCH, built=False)
            return judge.not_built(asked, error)
        except (ValueError, RecursionError):
            return _limited(self._assignment, f"the build broke off ({_last_line(done)})", built=False)
        request = work.request(self._assignment, built, files, self._given)
        done = self._confined("work:judge_built", JUDGING, request, reserve=ENGINE_RESERVE)
        return self._judgement(done, "judging the program", built=True)

    def _build(self, wanted: Recipe) -> Confined:
        also = program_paths(self._compiler.command[0])
        asked = recipe.request(wanted, self._compiler)
        return self._confined("builder:build", BUILDING, asked, also=also, bare=True)

    def _prepared(self) -> dict[str, bytes]:
        """What is the same in all programs, built once; nothing where that does not work: then each is built whole."""
        with self._making:
            if self._made is None:
                self._made = {}
                objects = recipe.of_objects(self._given, self._compiler)
                if objects is not None and (done := self._build(objects)).ended == ENDED:
                    with contextlib.suppress(HostError, ValueError, RecursionError):
                        self._made = recipe.made(objects, done.output)
            return self._made

    def _device(self, files: Mapping[str, bytes]) -> Judgement:
        with self._crowd.among():
            found = self._device_once(files)
        if any(one.outcome == verdict.LIMIT and "has not answered" in one.why for one in found.verdicts):
            with self._crowd.alone():
                found = self._device_once(files)
        return found

    def _device_once(self, files: Mapping[str, bytes]) -> Judgement:
        """Two sandboxes: in one the device, in the other the judge, and two pipes between them."""
        to_device, from_judge = os.pipe()
        to_judge, from_device = os.pipe()
        pipes = [to_device, from_judge, to_judge, from_device]
        children: list[Child] = []
        try:
            name, limits = "emu.classroom.device_host:main", HOSTING
            children.append(self._child(name, limits, stdin=to_device, stdout=from_device, descriptors=()))
            asked = self._assignment.criteria
            request = device_judge.request(asked, files, self._given, to_judge, from_judge)
            descriptors = (to_judge, from_judge)
            name = "emu.classroom.device_judge:judge_device"
            rest = {"descriptors": descriptors, "reserve": ENGINE_RESERVE, "before": device_judge.before(asked)}
            children.append(self._child(name, JUDGING, data=request, **rest))
            while pipes:
                os.close(pipes.pop())
            done = children[1].wait()
        finally:
            for one in pipes:
                os.close(one)
            for child in children:
                child.kill()
                self._children.discard(child)
        return self._judgement(done, "judging the device", built=True)

    def _judgement(self, done: Confined, what: str, *, built: bool) -> Judgement:
        """What a judge has answered, if it is a judgement of this assignment."""
        if done.ended != ENDED:
            return _limited(self._assignment, _why(done, what, JUDGING), built=built)
        try:
            found = verdict.from_bytes(done.output)
            _check(self._assignment, found)
        except ValueError as reason:
            return _limited(self._assignment, f"{what} broke off ({reason}; {_last_line(done)})", built=built)
        return found

    def _child(self, function: str, limits: Limits, **rest: Any) -> Child:
        if self._stopped:
            raise HostError("the grading was ended")
        # What makes files or processes leaves them to whoever comes after it: no copy for that.
        mothers = None if limits.files or limits.processes else self._mothers
        child = Child(self._tier, function, limits, hidden=self._hidden, mothers=mothers, **rest)
        self._children.add(child)
        return child

    def stop(self) -> None:
        """End what is under way, from another thread; nothing can be graded any more."""
        self._stopped = True
        for child in list(self._children):
            child.end()

    def close(self) -> None:
        """Nothing more is to be graded."""
        if self._mothers is not None:
            self._mothers.close()

    def _confined(self, function: str, limits: Limits, request: bytes, **rest: Any) -> Confined:
        def once() -> Confined:
            child = self._child(f"emu.classroom.{function}", limits, data=request, **rest)
            try:
                return child.wait()
            finally:
                self._children.discard(child)

        with self._crowd.among():
            done = once()
        if done.ended == WALL:
            with self._crowd.alone():
                done = once()
        return done


def unusable(assignment: Assignment, problem: str) -> Judgement:
    """The judgement of what could not even be read."""
    return Judgement(tuple(judge.blank(one)._replace(why=problem) for one in assignment.criteria), {})


def lost(assignment: Assignment, why: str) -> Judgement:
    """The judgement of what took its judge with it."""
    return _limited(assignment, why, built=False)


class _Crowd:
    """Many work at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0
        self._single = False

    def among(self) -> "_Stay":
        return _Stay(self._enter, self._leave)

    def alone(self) -> "_Stay":
        return _Stay(self._enter_alone, self._leave_alone)

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._single and not self._waiting)
            self._inside += 1

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def _enter_alone(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._single and not self._inside)
            self._waiting -= 1
            self._single = True

    def _leave_alone(self) -> None:
        with self._changed:
            self._single = False
            self._changed.notify_all()


class _Stay:
    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()


def _limited(assignment: Assignment, why: str, *, built: bool) -> Judgement:
    """Nothing is known of what a limit ended; that it was built is, where it was."""
    found = []
    for one in assignment.criteria:
        told = judge.blank(one)._replace(outcome=verdict.LIMIT, why=why)
        if built and isinstance(one.ask, Build):
            told = told._replace(outcome=verdict.PASSED, points=one.points, why="")
        found.append(told)
    return Judgement(tuple(found), {})


def _check(assignment: Assignment, found: Judgement) -> None:
    """A judgement must be of this assignment's criteria, in their order, for their points."""
    asked = [(one.name, one.title, one.points, one.hidden) for one in assignment.criteria]
    if [(one.criterion, one.title, one.worth, one.hidden) for one in found.verdicts] != asked:
        raise ValueError("the judgement is of other criteria")
    if any(one.points not in (0, one.worth) for one in found.verdicts):
        raise ValueError("the judgement has points that cannot be had")


def _why(done: Confined, what: str, limits: Limits) -> str:
    return _WHY[done.ended].format(what=what, limits=limits, memory=limits.memory >> 20, output=limits.output >> 10)


def _last_line(done: Confined) -> str:
    lines = done.errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"status {done.status}"


def _shipped() -> list[object]:
    try:
        return [next(iter(data.assignment_dirs().values())).parent]
    except HostError:
        return []
