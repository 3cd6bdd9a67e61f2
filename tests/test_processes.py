"""Several processes give the numbers of one: losses, weights and noise, whatever is trained or searched.

Every case runs in this process alone, and again shared by two and by four processes over gloo.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from engine import processes
from engine.crossing import everyones
from engine.errors import EngineError
from engine.journal import Journal
from engine.sharding import SharedRows
from tests.cases import ATTACKS, CLASSES, DEFENSES, REDUCED, VICTIMS, cases


def crossing() -> dict[str, Any]:
    """Return what passes between processes, with gradients, and what they refuse."""
    row = torch.full((2, 3), float(processes.rank() + 1), requires_grad=True)
    every = everyones(row)
    weights = torch.arange(len(every)).float()[:, None] * (processes.rank() + 1)
    (grad,) = torch.autograd.grad((every * weights).sum(), row)
    rows = SharedRows(7, (2,), torch.float16, torch.device("cpu"))
    rows.put_(slice(0, 7), torch.arange(14).view(7, 2).half())
    batch = torch.tensor([6, 0, 3, 5])
    read = rows.read(batch)
    rows.write_(batch, -read)
    refused = []
    for attempt in (lambda: processes.check_divides(9, "it"), lambda: processes.own_groups(3)):
        try:
            attempt()
        except EngineError as error:
            refused.append(str(error))
    return {
        "every": every.detach(),
        "grad": grad,
        "read": read,
        "whole": rows.whole(),
        "held": len(rows.block),
        "refused": refused,
    }


def take_part(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with processes.joined():
        made = {name: case(Journal()) for name, case in cases().items()}
        torch.save({"made": made, "crossing": crossing()}, folder / f"{world}-{rank}.pt")


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two, and of four, processes made."""
    world, folder = request.param, tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(take_part, (world, port, folder), nprocs=world)
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """What this process makes of the same cases."""
    return {name: case(Journal()) for name, case in cases().items()}


@pytest.mark.slow
class TestSharing:
    @pytest.mark.parametrize("name", [*VICTIMS, *DEFENSES])
    def test_shared_training_has_the_losses_and_the_weights_of_one_process(
        self, name: str, found: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
    ) -> None:
        expected = alone[name]
        for each in (process["made"][name] for process in found):
            assert each["losses"] == pytest.approx(expected["losses"], rel=1e-5)
            for key, value in expected["weights"].items():
                torch.testing.assert_close(
                    each["weights"][key], value, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
                )
        for key, value in found[0]["made"][name]["weights"].items():
            assert all(torch.equal(value, other["made"][name]["weights"][key]) for other in found[1:])

    @pytest.mark.parametrize("name", REDUCED)
    def test_shared_training_of_reduced_precision_is_close_to_that_of_one_process(
        self, name: str, found: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
    ) -> None:
        full = alone["simclr"]["losses"]
        assert alone[name]["losses"] != full  # the precision was reduced indeed
        for each in (process["made"][name] for process in found):
            # Twenty steps change the loss by less than 1 %: a looser bound would pass for a learner that stands still.
            assert each["losses"] == pytest.approx(alone[name]["losses"], rel=1e-3)
            for key, value in alone[name]["weights"].items():
                torch.testing.assert_close(
                    each["weights"][key], value, rtol=1e-2, atol=1e-2, msg=lambda m, k=key: f"{k}: {m}"
                )
        for key, value in found[0]["made"][name]["weights"].items():
            assert all(torch.equal(value, other["made"][name]["weights"][key]) for other in found[1:])

    @pytest.mark.parametrize("name", [*ATTACKS, "cp_s of half"])
    def test_a_shared_search_makes_the_noise_of_one_process(
        self, name: str, found: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
    ) -> None:
        expected, first = alone[name], found[0]["made"][name]
        assert first["delta"].shape == expected["delta"].shape
        assert (first["delta"] - expected["delta"]).abs().mean() <= 1e-5 * expected["delta"].abs().mean()
        assert first["views"] == expected["views"]
        # Another process holds its block of a sample-wise poison, and hands out none of it.
        assert {len(process["made"][name]["delta"]) for process in found[1:]} <= {0, CLASSES}

    def test_rows_and_their_gradients_pass_between_processes(self, found: list[dict[str, Any]]) -> None:
        world = len(found)
        total = world * (world + 1) / 2
        for rank, each in enumerate(process["crossing"] for process in found):
            assert each["every"][:, 0].tolist() == [1.0 + row // 2 for row in range(2 * world)]
            # Every process's loss weighs row r by r (process + 1): the gradient is the sum over processes.
            assert each["grad"][:, 0].tolist() == [2 * rank * total, (2 * rank + 1) * total]

    def test_rows_lie_with_one_process_and_are_read_and_written_by_all(self, found: list[dict[str, Any]]) -> None:
        world, rows = len(found), torch.arange(14).view(7, 2).half()
        parts = [process["crossing"]["read"] for process in found]
        assert [len(part) for part in parts] == [4 // world] * world
        assert torch.equal(torch.cat(parts), rows[[6, 0, 3, 5]])
        rows[[6, 0, 3, 5]] *= -1
        first, *others = (process["crossing"]["whole"] for process in found)
        assert torch.equal(first, rows)
        assert [len(other) for other in others] == [0] * (world - 1)
        # Each holds its block and one spare row.
        assert sum(process["crossing"]["held"] - 1 for process in found) == 7

    def test_what_cannot_be_shared_is_refused(self, found: list[dict[str, Any]]) -> None:
        batch, groups = found[0]["crossing"]["refused"]
        assert f"it is 9, which {len(found)} processes cannot share out evenly" in batch
        assert f"3 batch-norm groups cannot be shared out to {len(found)} processes" in groups
