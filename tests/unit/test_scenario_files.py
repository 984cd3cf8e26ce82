"""Scenario files: what is read from them, and errors that name file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import SettingsError
from serve_app.scenarios.loading import find_scenarios, load_scenario
from serve_app.scenarios.steps import BargeIn, Reply, Say, ToolUse

HEAD = "agent: riverside-dental\nsteps:\n"


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "a call.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(SettingsError) as error:
        load_scenario(written(folder, text))
    return str(error.value)


def test_steps_and_replies_have_a_short_and_a_long_form(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        HEAD
        + """
  - say: Where is it?
    reply: Here.
  - say: [I would like, to move it]
    reply: [{tool: {name: end_call}}, {text: Done., first_token_ms: 900}]
  - barge_in: {text: Stop, after_words: 3}
""",
    )
    scenario = load_scenario(file)
    assert scenario.name == "a call"
    assert scenario.agent.name == "riverside-dental"
    first, second, third = scenario.steps
    assert isinstance(first, Say) and isinstance(second, Say) and isinstance(third, BargeIn)
    assert (first.say, first.reply) == (("Where is it?",), (Reply(text="Here."),))
    assert second.text == "I would like to move it"
    assert second.reply == (Reply(tool=ToolUse(name="end_call")), Reply(text="Done.", first_token_ms=900))


def test_an_agent_is_changed_field_by_field(tmp_path: Path) -> None:
    text = "agent: {from: riverside-dental, opening: Hi., limits: {max_turns: 3}}\nsteps: [{hang_up: true}]"
    agent = load_scenario(written(tmp_path, text)).agent
    assert (agent.opening, agent.limits.max_turns) == ("Hi.", 3)
    assert agent.policies.farewell == "Thank you, we will see you then. Goodbye."


def test_an_agent_may_lie_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{name: mine, business: B, opening: Hi., system_prompt: P}")
    scenario = load_scenario(written(tmp_path, "agent: mine.yaml\nsteps: [{hang_up: true}]"))
    assert scenario.agent.name == "mine"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("  - say: hello\n    aftr_s: 3", ":4: steps.0.aftr_s: unknown field; did you mean 'after_s'?"),
        ("  - sya: hello", ":3: steps.0: a step has one of say, barge_in,"),
        ("  - sya: hello", "did you mean 'say'?"),
        ("  - hello", ":3: steps.0: a step has one of"),
        ("  - say: no", ":3: steps.0.say.0: YAML reads False here; put the text in quotes"),
        ("  - dtmf: 9", ":3: steps.0.dtmf: YAML reads 9 here; put the text in quotes"),
        ("  - barge_in: {text: Stop}", ":3: steps.0.barge_in: give at_s or after_words"),
        ("  - barge_in: {at_s: 1}", ":3: steps.0.barge_in: give text or noise_s"),
        ("  - barge_in: {txt: Stop, at_s: 1}", "steps.0.barge_in.txt: unknown field; did you mean 'text'?"),
        ("  - fault: {stage: llm, kind: melt}", "steps.0.fault: llm has no fault 'melt'; it has 401, 429,"),
        ("  - fault: {stage: llm, kind: cut, provider: 2}", "steps.0.fault.provider: list llm under fallbacks"),
        ("  - expect: {}", "steps.0.expect: give at least one of text, contains"),
        ("  - expect: {regex: '('}", "steps.0.expect.regex: not a regular expression"),
        ("  - expect: {outcome: completed, absent: true}", "absent does not go with outcome"),
        ("  - expect: {arguments: {a: 1}}", "arguments belong to a tool: name it"),
        ("  - expect: {outcome: complete}", "steps.0.expect.outcome: Input should be 'completed'"),
        ("  - say: x\n    say: y", ":4: say is there twice; remove one"),
        ("  - hang_up: true\nlatencies: {stt_end: 100}", "latencies: stt_eager must be below stt_end"),
        (
            "  - hang_up: true\ncall: {filler_after: 1}",
            ":4: call.filler_after: unknown field; did you mean 'filler_after_s'",
        ),
        ("  - barge_in: {text: x, after_words: 2}\nwire: true", "only the virtual callee counts words; give at_s"),
        (
            "  - fault: {stage: llm, kind: 429}\nwire: true",
            "steps.0.fault: faults are played on virtual time; remove wire",
        ),
        ("  - {say: x, reply: {tool: {name: opt_out}}}\nwire: true", "remove reply.tool, or wire"),
    ],
)
def test_a_bad_document_names_its_line_and_the_remedy(tmp_path: Path, step: str, told: str) -> None:
    error = refused(tmp_path, HEAD + step + "\n")
    assert error.startswith(str(tmp_path / "a call.yaml"))
    assert told in error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a", "expected the fields of one scenario"),
        ("", "expected the fields of one scenario"),
        ("a: [", "not valid YAML"),
        (b"\x80", "not a text file in UTF-8"),
        ("steps: [{hang_up: true}]", "agent: "),
        ("agent: nobody\nsteps: [{hang_up: true}]", "(riverside-dental"),
        ("agent: nobody.yaml\nsteps: [{hang_up: true}]", "there is no"),
        ("agent: riverside-dental", "steps: this field is missing"),
        ("agent: riverside-dental\nsteps: []", "steps: Tuple should have at least 1 item"),
        ("agent: {from: riverside-dental, busines: x}\nsteps: [{hang_up: true}]", ":1: agent.busines: unknown field"),
    ],
)
def test_a_file_that_is_no_scenario_says_what_is_missing(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert told in refused(tmp_path, text)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    assert len(refused(tmp_path, HEAD + "  - say: no\n  - dtmf: 9\n").splitlines()) == 2


def test_a_folder_is_searched_to_its_depth_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no \*\.yaml file"):
        find_scenarios(tmp_path)
    (tmp_path / "deep").mkdir()
    for file in (tmp_path / "b.yaml", tmp_path / "deep" / "a.yaml"):
        file.touch()
    assert find_scenarios(tmp_path) == [tmp_path / "b.yaml", tmp_path / "deep" / "a.yaml"]
