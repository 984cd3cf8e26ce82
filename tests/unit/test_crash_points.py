"""A sample of `make bench-dialer`: whatever dies at whatever point, no double dial, no lost lead, all calls counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from load_tests.crash_points.carrier import ContractBroken
from load_tests.crash_points.rounds import play
from load_tests.crash_points.world import Tally
from serve_app.store.attempts import Attempts

pytest_plugins = ("tests.unit.store_fixtures",)

LEADS = 3
SEEDS = (2,)


def test_whatever_dies_no_lead_is_lost_and_none_called_twice_at_once(sqlite_template: Path, tmp_path: Path) -> None:
    tally = Tally()
    for seed in SEEDS:
        tally.add(play(sqlite_template, tmp_path, seed, leads=LEADS))
    assert sum(tally.ends.values()) == LEADS * len(SEEDS)
    assert tally.deaths.total() >= 100
    # The moments that matter most are among them.
    assert {"before COMMIT", "after COMMIT", "before POST", "after POST"} <= tally.deaths.keys()


def test_it_finds_a_dialer_that_sends_again_when_in_doubt(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def again(self: Attempts, attempt_id: str, *_: Any, **__: Any) -> bool:
        attempt = await self.get(attempt_id)
        assert attempt is not None
        return await self.release(attempt_id, attempt.epoch, self.clock.now())

    monkeypatch.setattr(Attempts, "unknown", again)
    with pytest.raises(ContractBroken, match=r"sent twice|two live calls|counted"):
        for seed in range(1, 20):
            play(sqlite_template, tmp_path, seed, leads=LEADS)
