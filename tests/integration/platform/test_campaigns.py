"""Campaigns on a real Serve, against the simulated network: every lead ends up where the documentation says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from load_tests.dialer.ray_kills import kill_replicas
from tests.integration.harness import Running, eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

RULES = {
    "countries": ["US"],
    "hours": {"mon-sun": ["00:00-24:00"]},
    "purpose": "informational",
    "consent": {"required": "none", "reason": "nobody is called by a test"},
}
TALK = {"steps": [{"say": "Goodbye."}, {"listen": True}], "answer_after_ms": 100}
SETTLED_S = 90


class Outreach:
    """A campaign by its REST API, and what the phone network saw of it."""

    def __init__(self, platform: Running, name: str, numbers: Collection[str]) -> None:
        self._api, self._sim = platform.api, platform.sim
        self.numbers = sorted(numbers)
        created = self._api.post("/api/v1/campaigns", json={"name": name, "agent": "brief", "calling_rules": RULES})
        assert created.status_code == 201, created.text
        self._url = f"/api/v1/campaigns/{created.json()['id']}"
        leads = [{"number": number} for number in self.numbers]
        added = self._api.post(f"{self._url}/leads/bulk", json={"leads": leads}).raise_for_status().json()
        assert added == {"accepted": len(leads), "refused": []}

    def become(self, step: str) -> bool:
        """Start, pause, resume or stop. False: it was so already."""
        answer = self._api.post(f"{self._url}/{step}")
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["changed"])

    def status(self) -> str:
        return str(self._api.get(self._url).raise_for_status().json()["status"])

    def leads(self) -> dict[str, dict[str, Any]]:
        found = self._api.get(f"{self._url}/leads", params={"limit": 100}).raise_for_status().json()
        return {lead["number"]: lead for lead in found["items"]}

    def jobs(self) -> list[dict[str, Any]]:
        return list(self._api.get(f"{self._url}/jobs", params={"limit": 100}).raise_for_status().json()["items"])

    def delete(self, number: str) -> None:
        self._api.delete(f"/api/v1/leads/{self.leads()[number]['id']}").raise_for_status()

    def calls(self) -> Counter[str]:
        """What the network was asked for, by number."""
        calls = self._sim.get("/sim/calls").raise_for_status().json()["calls"]
        return Counter(number for call in calls if (number := f"+{call['to'].lstrip('+')}") in self.numbers)


def behave(platform: Running, number: str, behaviour: dict[str, Any]) -> None:
    platform.sim.put(f"/sim/callees/{number.lstrip('+')}", json=behaviour).raise_for_status()


def test_every_lead_is_called_once_or_has_the_reason_why_not(platform: Running) -> None:
    """The campaign's clock shows ten in the morning in New Jersey: in Honolulu it is five."""
    ends = {
        "+12015550141": ("done", "completed"),
        "+12015550142": ("done", "completed"),
        "+12015550143": ("deferred", "retry_busy"),
        "+12015550144": ("deferred", "retry_no_answer"),
        "+12015550145": ("barred", "on_do_not_call_list"),
        "+18085550146": ("deferred", "outside_window"),
    }
    answered, busy, silent, listed, asleep = list(ends)[:2], *list(ends)[2:]
    for number in answered:
        behave(platform, number, TALK)
    behave(platform, busy, {"outcome": "busy", "answer_after_ms": 100})
    behave(platform, silent, {"outcome": "unanswered", "answer_after_ms": 500})
    platform.api.post("/api/v1/do-not-call", json={"number": listed, "text": "asked by letter"}).raise_for_status()
    campaign = Outreach(platform, "every end", ends)
    assert campaign.become("start")
    assert not campaign.become("start"), "it runs already"

    def seen() -> dict[str, tuple[str, str]]:
        return {number: (lead["state"], lead["last_reason"]) for number, lead in campaign.leads().items()}

    try:
        eventually(lambda: seen() == ends, SETTLED_S)
    except AssertionError:
        raise AssertionError(f"{seen()}, {campaign.jobs()}") from None
    called = dict.fromkeys([*answered, busy, silent], 1)
    assert campaign.calls() == called
    leads = campaign.leads()
    assert {number: lead["attempts"] for number, lead in leads.items()} == {**called, listed: 0, asleep: 0}
    assert all(
        datetime.fromisoformat(leads[number]["next_at"]) > datetime.now(UTC) for number in (busy, silent, asleep)
    )
    assert {job["number"]: (job["status"], job["attempt"]) for job in campaign.jobs()} == dict.fromkeys(
        called, ("ended", 1)
    )
    for number in (busy, silent, asleep):
        campaign.delete(number)
    eventually(lambda: campaign.status() == "completed", 60)
    assert campaign.calls() == called


def test_a_pause_reaches_the_dialer_and_loses_no_lead(platform: Running) -> None:
    numbers = [f"+1201555{n:04d}" for n in range(150, 162)]
    for number in numbers:
        behave(platform, number, {"outcome": "rejected", "answer_after_ms": 200})
    campaign = Outreach(platform, "paused", numbers)
    campaign.become("start")
    eventually(lambda: len(campaign.calls()) >= 2, 60)
    assert campaign.become("pause")
    paused_at = datetime.now(UTC)
    eventually(lambda: all(job["status"] == "ended" for job in campaign.jobs()), 60)
    placed = [job for job in campaign.jobs() if job["result"] != "not_placed"]
    assert not [job for job in placed if datetime.fromisoformat(job["placed_at"]) > paused_at]
    assert campaign.calls() == Counter(job["number"] for job in placed)
    assert len(placed) < len(numbers), "it was paused before its end"
    time.sleep(1)  # several calls' time at the network's rate
    assert len(campaign.calls()) == len(placed)
    # Those whose attempt was ended come back in a minute; those that were not claimed wait for the campaign.
    ready = {number for number, lead in campaign.leads().items() if lead["state"] == "ready"}
    assert Counter(lead["state"] for lead in campaign.leads().values()) == {
        "ready": len(ready),
        "deferred": len(numbers) - len(ready),
    }
    assert campaign.become("resume")
    eventually(lambda: ready <= campaign.calls().keys(), SETTLED_S)
    assert max(campaign.calls().values()) == 1
    assert campaign.become("stop")


def test_replicas_that_die_call_nobody_twice(platform: Running) -> None:
    """A sample of `python -m load_tests.dialer ray`."""
    found = kill_replicas(platform, kills=2, leads=30, seed=1, show=print)
    assert found.kills == 2
    assert found.quiet, found
    assert (found.findings.double_dials, found.findings.faults) == (0, 0), found
