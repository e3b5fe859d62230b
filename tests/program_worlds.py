"""Random programs and what an engine makes of them; for the tests that hold the engines against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.programs.program import JOIN, MIGRATION, PREFETCH, Operation, Program
from moesim.engine.reference.engine import ReferenceEngine

Engine = ReferenceEngine | KernelEngine
ENGINES: dict[str, Callable[[Program, Mapping[str, float]], Engine]] = {
    "reference": ReferenceEngine,
    "plain": lambda program, capacity: KernelEngine(program, capacity, compiled=False),
    "compiled": lambda program, capacity: KernelEngine(program, capacity, compiled=True),
}


def visit(rng: np.random.Generator, program: Program, lanes: int, resources: list[str]) -> tuple[int, int]:
    """Adds operations that wait for each other, some with items, slots and feeds; (first, the one that ends all)."""
    first = len(program)
    in_order = bool(rng.random() < 0.5)
    for _ in range(int(rng.integers(3, 12))):
        numbers = range(first, len(program))
        after = rng.choice(numbers, min(len(numbers), int(rng.integers(0, 3))), replace=False).tolist() if numbers else []
        lane, priority = int(rng.integers(lanes)), int(rng.integers(2))
        draws = {resource: float(rng.integers(1, 5000)) for resource in resources if rng.random() < 0.4}
        sort = int(rng.integers(6))
        if sort == 0:
            program.add(Operation(JOIN, 0, after))
        elif sort == 1:
            items, slot = int(rng.integers(1, 7)), 0 if rng.random() < 0.6 else -1
            services, used = rng.integers(0, 900, items).tolist(), rng.integers(0, 700, items).tolist()
            up = program.add(Operation(lane, 0, after, priority, in_order, services=services, draws=draws, takes=slot))
            waits = after if rng.random() < 0.5 else []
            program.add(Operation(int(rng.integers(lanes)), 0, waits, priority, services=used, feed=up, gives=slot))
        else:
            service, items = int(rng.integers(0, 1500)), int(rng.integers(1, 4))
            program.add(Operation(lane, service, after, priority, in_order, count=items, draws=draws))
    return first, program.add(Operation(JOIN, 0, list(range(first, len(program)))))


def background(rng: np.random.Generator, program: Program, lanes: int, resource: str) -> int:
    """Adds a copy that nothing waits for."""
    lane, service, items = int(rng.integers(lanes)), int(rng.integers(1, 900)), int(rng.integers(1, 4))
    priority = int(rng.choice([PREFETCH, MIGRATION]))
    return program.add(Operation(lane, service, (), priority, count=items, draws={resource: float(rng.integers(1, 9000))}))


def story(name: str, seed: int, visits: int = 6) -> list[Any]:
    """Everything that an engine answers over some visits with copies in the background, some hastened, some called off."""
    rng = np.random.default_rng(seed)
    lanes, resources = int(rng.integers(2, 6)), [f"r{number}" for number in range(int(rng.integers(1, 5)))]
    capacity = {resource: float(rng.uniform(0.5, 12)) * 1e12 for resource in resources}
    program = Program()
    for lane in range(lanes):
        program.lane(f"lane {lane}")
    engine = ENGINES[name](program, capacity)
    engine.set_pool(0, int(rng.integers(1, 4)))
    notified: list[Any] = []
    copies: list[int] = []
    for _ in range(visits):
        copies += [background(rng, program, lanes, resources[0]) for _ in range(int(rng.integers(0, 3)))]
        engine.submit()
        engine.mark()
        begin = engine.now
        first, end = visit(rng, program, lanes, resources)
        if copies and rng.random() < 0.5:
            notified.append(engine.hasten(int(rng.choice(copies)), 1))
        if copies and rng.random() < 0.3:
            notified.append(engine.withdraw(int(rng.choice(copies))))
        engine.submit()
        engine.run(end)
        numbers = range(first, end + 1)
        notified.append((engine.now, engine.moments, [engine.end(number) for number in numbers], engine.critical(end, begin)))
        notified.append(
            (engine.busy(), [engine.items(copy) for copy in copies], [engine.backlog(lane) for lane in range(lanes)])
        )
        over = [copy for copy in copies if engine.ended(copy)]
        copies = [copy for copy in copies if copy not in over]
        for queue in (numbers, over):
            engine.forget(queue)
            program.forget(queue)
    return notified
