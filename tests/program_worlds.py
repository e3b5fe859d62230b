"""Random programs and what an engine makes of them; for the tests that hold the engines against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.programs.program import JOIN, MIGRATION, PREFETCH, Operation, Program
from moesim.engine.reference.engine import ReferenceEngine

Engine = ReferenceEngine | KernelEngine
ENGINES: dict[str, Callable[[Program, Mapping[str, float]], Engine]] = {
    "reference": ReferenceEngine,
    "plain": lambda program, capacity: KernelEngine(program, capacity, compiled=False),
    "compiled": lambda program, capacity: KernelEngine(program, capacity, compiled=True),
}


def operations(rng: Random, first: int, lanes: int, resources: list[str]) -> list[Operation]:
    """Operations numbered from `first` on that wait for each other, some with items, slots and feeds; the last one ends all."""
    drawn: list[Operation] = []
    in_order = rng.random() < 0.5
    for _ in range(rng.randrange(3, 12)):
        number = first + len(drawn)
        after = rng.sample(range(first, number), min(len(drawn), rng.randrange(3)))
        lane, priority = rng.randrange(lanes), rng.randrange(2)
        draws = {resource: float(rng.randrange(1, 5000)) for resource in resources if rng.random() < 0.4}
        sort = rng.randrange(6)
        if sort == 0:
            drawn.append(Operation(JOIN, 0, after))
        elif sort == 1:
            items, slot = rng.randrange(1, 7), 0 if rng.random() < 0.6 else -1
            services, used = ([rng.randrange(most) for _ in range(items)] for most in (900, 700))
            drawn.append(Operation(lane, 0, after, priority, in_order, services=services, draws=draws, takes=slot))
            waits = after if rng.random() < 0.5 else []
            drawn.append(Operation(rng.randrange(lanes), 0, waits, priority, services=used, feed=number, gives=slot))
        else:
            drawn.append(Operation(lane, rng.randrange(1500), after, priority, in_order, rng.randrange(1, 4), draws=draws))
    return [*drawn, Operation(JOIN, 0, list(range(first, first + len(drawn))))]


def visit(rng: Random, program: Program, lanes: int, resources: list[str]) -> tuple[int, int]:
    """Adds such operations to a program; (first, the one that ends all)."""
    numbers = [program.add(operation) for operation in operations(rng, len(program), lanes, resources)]
    return numbers[0], numbers[-1]


def background(rng: Random, lanes: int, resource: str) -> Operation:
    """A copy that nothing waits for."""
    lane, service, items = rng.randrange(lanes), rng.randrange(1, 900), rng.randrange(1, 4)
    priority = rng.choice([PREFETCH, MIGRATION])
    return Operation(lane, service, (), priority, count=items, draws={resource: float(rng.randrange(1, 9000))})


class VisitStory(NamedTuple):
    """What comes with a visit."""

    copies: list[Operation]
    """Copies in the background that begin before it."""
    operations: list[Operation]
    hastened: float | None
    """Place among the copies under way, as a share, of one that is hastened."""
    withdrawn: float | None
    """The same of one that is called off."""


class Story(NamedTuple):
    """A machine and visits, the same for every engine."""

    lanes: int
    capacity: dict[str, float]
    slots: int
    visits: list[VisitStory]


@lru_cache(maxsize=1)
def drawn(seed: int, visits: int) -> Story:
    """Drawn once for all engines in turn."""
    rng = Random(seed)
    lanes, resources = rng.randrange(2, 6), [f"r{number}" for number in range(rng.randrange(1, 5))]
    story = Story(lanes, {resource: rng.uniform(0.5, 12) * 1e12 for resource in resources}, rng.randrange(1, 4), [])
    number = 0
    for _ in range(visits):
        copies = [background(rng, lanes, resources[0]) for _ in range(rng.randrange(3))]
        following = operations(rng, number + len(copies), lanes, resources)
        number += len(copies) + len(following)
        chosen = (rng.random() if rng.random() < likely else None for likely in (0.5, 0.3))
        story.visits.append(VisitStory(copies, following, *chosen))
    return story


def story(name: str, seed: int, visits: int = 6) -> list[Any]:
    """Everything that an engine answers over some visits with copies in the background, some hastened, some called off."""
    plot, program = drawn(seed, visits), Program()
    for lane in range(plot.lanes):
        program.lane(f"lane {lane}")
    engine = ENGINES[name](program, plot.capacity)
    engine.set_pool(0, plot.slots)
    notified: list[Any] = []
    copies: list[int] = []
    for scene in plot.visits:
        copies += [program.add(copy(operation)) for operation in scene.copies]  # an engine hastens its own
        engine.submit()
        engine.mark()
        begin = engine.now
        numbers = [program.add(operation) for operation in scene.operations]
        if copies and scene.hastened is not None:
            notified.append(engine.hasten(copies[int(scene.hastened * len(copies))], 1))
        if copies and scene.withdrawn is not None:
            notified.append(engine.withdraw(copies[int(scene.withdrawn * len(copies))]))
        engine.submit()
        engine.run(numbers[-1])
        critical = engine.critical(numbers[-1], begin)
        notified.append((engine.now, engine.moments, [engine.end(number) for number in numbers], critical))
        backlogs = [engine.backlog(lane) for lane in range(plot.lanes)]
        notified.append((engine.busy(), [engine.items(number) for number in copies], backlogs))
        over = [number for number in copies if engine.ended(number)]
        copies = [number for number in copies if number not in over]
        for queue in (numbers, over):
            engine.forget(queue)
            program.forget(queue)
    return notified
